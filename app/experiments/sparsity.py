"""`experiment sparsity`: what pruning costs in BLEU and steps, and what it saves in bytes and time.

All runs go to their last step, so that BLEU is compared at equal compute.  The effect is the BLEU that the arm with 70 %
sparsity gains over the dense one (below 0: loses).  If that arm is left out, the last sparse arm takes its place.
"""

from __future__ import annotations

from app.experiments import picture, report
from app.experiments.experiment import Arm, Experiment, ExperimentRequest, choose
from app.pictures import check_plot

SHARES = (0.4, 0.6, 0.7, 0.9)
DENSE, MAIN = "dense", "sparse-70"


def arms_of(stages: int) -> list[Arm]:
    """The arms.  In each of them all stages prune to the same share."""
    return [_arm(DENSE, 0.0, stages), *(_arm(f"sparse-{round(100 * share)}", share, stages) for share in SHARES)]


def _arm(name: str, share: float, stages: int) -> Arm:
    return Arm(name, tuple(f"stages.{stage}.sparsity={share}" for stage in range(stages)))


def run(request: ExperimentRequest) -> None:
    """Trains every arm with every seed and prints what was found.  Raises Stop."""
    check_plot(request.plot)
    arms = choose(arms_of(len(request.source.load().config.stages)), request.arms, request.own_arms)
    experiment = Experiment("sparsity", request.source, request.conditions, arms, request.out)
    results, target = experiment.run(arms, request.seeds), request.conditions.target
    sparse = [name for name in results if name != DENSE]
    compared = MAIN if MAIN in results else next(reversed(sparse), None)
    reference = DENSE if DENSE in results else None
    main = report.compare(results, compared, reference, target) if compared and reference else None
    columns = ("connections", "ms/step", "reached", "steps", "loss", "BLEU")
    finding = report.Finding("sparsity", arms, results, experiment.scored, reference, main, [], "bleu", columns)
    if request.plot:
        picture.draw(request.plot, "sparsity: pruned against dense", results, target)
    report.show(finding, request)
