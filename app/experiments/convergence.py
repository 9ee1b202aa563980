"""`experiment convergence`: do discovery waves before backpropagation save steps?

There are arms with waves and without, and each side has two starts.  `biased` is the start of the preset: connections are
stronger towards the input.  `unbiased` is excitatory noise alone, so that the waves have to find the direction.  The arm
`identity` has no lattice and shows the best that can be reached.

The effect is the share of the steps to the target that the best arm with waves saves against the best arm without.  The cost of
the waves themselves counts.
"""

from __future__ import annotations

from app.experiments import picture, report
from app.experiments.experiment import NO_CELLS, Arm, Experiment, ExperimentRequest, choose
from app.experiments.search import SearchRange, Space, tuned
from app.pictures import check_plot

UNBIASED = ("connections.bias_local=0", "connections.bias_distant=0", "connections.noise=1", "connections.excitatory=true")
WAVES = ("stages.0.waves=40", "plasticity.rate=0.02")
"""Settings of the arms with waves, unless the preset, the file or --set has others."""

OFF = ("stages.0.waves=0",)
ARMS = (
    Arm("off-biased", OFF),
    Arm("off-unbiased", (*UNBIASED, *OFF)),
    Arm("on-biased", (), WAVES),
    Arm("on-unbiased", UNBIASED, WAVES),
    Arm("identity", ("lattice.arm=identity", *NO_CELLS, *OFF)),
)

RATES: Space = {"optimizer.learning_rate": SearchRange(1.5e-3, 1e-2)}
LATTICE: Space = RATES | {"optimizer.cell_rate": SearchRange(0.1, 1.0)}
BIASED: Space = LATTICE | {
    "connections.noise": SearchRange(0.03, 0.3),
    "connections.bias_local": SearchRange(0.2, 1.0, log=False),
    "connections.bias_distant": SearchRange(0.3, 1.2, log=False),
}
UNBIASED_START: Space = LATTICE | {"connections.noise": SearchRange(0.3, 2.0)}
DISCOVERY: Space = {
    "stages.0.waves": SearchRange(5, 80, whole=True),
    "plasticity.rate": SearchRange(0.002, 0.2),
    "plasticity.A_minus": SearchRange(0.5, 1.5, log=False),
    "stages.0.activity_threshold": SearchRange(0.003, 0.1),
}
SPACES: dict[str, Space] = {
    "off-biased": BIASED,
    "off-unbiased": UNBIASED_START,
    "on-biased": BIASED | DISCOVERY,
    "on-unbiased": UNBIASED_START | DISCOVERY,
    "identity": RATES,
}
"""The few settings of each arm that --search draws."""


def run(request: ExperimentRequest, trials: int, trial_steps: int) -> None:
    """Trains every arm with every seed and prints what was found.  With `trials`, every arm is tuned first.  Raises Stop."""
    check_plot(request.plot)
    arms = choose(ARMS, request.arms, request.own_arms)
    experiment = Experiment("convergence", request.source, request.conditions, arms, request.out)
    arms, log = tuned(experiment, arms, SPACES, trials, trial_steps) if trials else (arms, [])
    results, target = experiment.run(arms, request.seeds), request.conditions.target
    off = [arm.name for arm in arms if arm.name.startswith("off-")]
    on = [arm.name for arm in arms if arm.name not in (*off, "identity")]
    best_off, best_on = report.fastest(results, off, target), report.fastest(results, on, target)
    main = report.compare(results, best_on, best_off, target) if best_on and best_off else None
    columns = ("reached", "steps", "CPU s", "loss", "BLEU")
    finding = report.Finding("convergence", arms, results, experiment.scored, best_off, main, [], "steps", columns, log)
    if request.plot:
        picture.draw(request.plot, "convergence: discovery waves on and off", results, target)
    report.show(finding, request)
