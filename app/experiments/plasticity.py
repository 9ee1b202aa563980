"""`experiment plasticity`: connections that learn by a local rule, alone (`plastic`) or beside the gradient (`hybrid`).

Every rule has an arm with its defaults, one with competition (`+winners`) and one with homeostasis of the firing thresholds
(`+homeostasis`).  The rule three_factor reads no threshold, so it has no arm with homeostasis.

The effect is the share of the steps to the target that the best rule saves against learning by gradient.  Frozen connections
are the second reference.
"""

from __future__ import annotations

from collections.abc import Iterator

from app.experiments import picture, report
from app.experiments.experiment import Arm, Experiment, ExperimentRequest, choose
from app.pictures import check_plot

RULES = ("stdp", "bcm", "oja", "three_factor")
REFERENCES = ("gradient", "frozen")
EXTRAS = {"winners": "plasticity.winners=8", "homeostasis": "plasticity.homeostasis=0.05"}
"""The settings that switch them on: 8 winners among the 64 cells of a neighbourhood; thresholds move at most 5 % per step."""


def _arms() -> Iterator[Arm]:
    for reference in REFERENCES:
        yield Arm(reference, (f"connections.learning={reference}",))
    for learning in ("plastic", "hybrid"):
        for rule in RULES:
            name, settings = f"{learning}-{rule}", (f"connections.learning={learning}", f"plasticity.rule={rule}")
            yield Arm(name, settings)
            for extra, setting in EXTRAS.items():
                if (rule, extra) != ("three_factor", "homeostasis"):
                    yield Arm(f"{name}+{extra}", (*settings, setting))


ARMS = tuple(_arms())


def run(request: ExperimentRequest) -> None:
    """Trains every arm with every seed and prints what was found.  Raises Stop."""
    check_plot(request.plot)
    arms = choose(ARMS, request.arms, request.own_arms)
    experiment = Experiment("plasticity", request.source, request.conditions, arms, request.out)
    results, target = experiment.run(arms, request.seeds), request.conditions.target
    references = [name for name in REFERENCES if name in results]
    best = report.fastest(results, [arm.name for arm in arms if arm.name not in REFERENCES], target)
    compared = [report.compare(results, best, reference, target) for reference in references] if best else []
    main, also = (compared[0], compared[1:]) if compared else (None, [])
    columns = ("reached", "steps", "CPU s", "loss", "BLEU")
    reference = next(iter(references), None)
    finding = report.Finding("plasticity", arms, results, experiment.scored, reference, main, also, "steps", columns)
    if request.plot:
        picture.draw(request.plot, "plasticity: local rules against the gradient", results, target)
    report.show(finding, request)
