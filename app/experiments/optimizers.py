"""`experiment optimizers`: optimizers that keep less than AdamW's two moments for cells and connections, and their loss.

All runs go to their last step, so that losses are compared at the end of the same schedule.  With GaLore the experiment also
measures which share of the gradient's energy the projection retains, and what a random projection of the same ranks retains.

The reference is AdamW.  The effect is the relative difference of the last held-out loss, the best other arm against AdamW
(below 0: lower).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator

from rich.console import Console

from app.experiments import picture, report
from app.experiments.experiment import Arm, Experiment, ExperimentRequest, choose
from app.experiments.measure import Conditions, Looks, Outcome
from app.pictures import check_plot
from lattice.optimizers.retained import of_step
from lattice.random_streams import generator
from lattice.training.state import TrainingState

ADAMW = "adamw"
ARMS = (
    *(Arm(name, (f"optimizer.name={name}",)) for name in (ADAMW, "galore", "adam8bit", "lion", "adafactor")),
    Arm("adafactor-momentum", ("optimizer.name=adafactor", "optimizer.momentum=bf16")),
)


class EnergyLooks(Looks):
    """Also takes the share of energy that GaLore's projection retains, every so often from the start."""

    def __init__(self, conditions: Conditions) -> None:
        super().__init__(conditions)
        self._every = conditions.every

    def after_step(self, state: TrainingState) -> None:
        super().after_step(state)
        if (step := state.progress.step) % self._every == 0:
            with self.time.left_out():
                draw = generator(state.config.run.seed, "retained", step)
                self.retained += [(step, found.part, found.kept, found.random) for found in of_step(state.optimizer, draw)]


def run(request: ExperimentRequest) -> None:
    """Trains every arm with every seed and prints what was found.  Raises Stop."""
    check_plot(request.plot)
    arms = choose(ARMS, request.arms, request.own_arms)
    experiment = Experiment("optimizers", request.source, request.conditions, arms, request.out, EnergyLooks)
    results, target = experiment.run(arms, request.seeds), request.conditions.target
    reference = ADAMW if ADAMW in results else None
    best = min((name for name in results if name != ADAMW), key=lambda name: _mean_loss(results[name]), default=None)
    main = report.compare(results, best, reference, target) if best and reference else None
    columns = ("optimizer", "ms/step", "reached", "steps", "loss", "BLEU")
    finding = report.Finding("optimizers", arms, results, experiment.scored, reference, main, [], "loss", columns)
    if request.plot:
        picture.draw(request.plot, "optimizers of cells and connections", results, target)
    report.show(finding, request)
    if not request.as_json:
        console = Console(highlight=False, emoji=False)
        for line in sentences(results):
            console.print(line, markup=False)


def _mean_loss(runs: list[Outcome]) -> float:
    return statistics.mean(math.inf if run.loss is None else run.loss for run in runs)


def sentences(results: report.Results) -> Iterator[str]:
    """How many bytes each arm keeps against AdamW, and what share of the gradients' energy a projection retains."""
    whole = results[ADAMW][0] if ADAMW in results else None
    for name, runs in results.items():
        if whole is not None and name != ADAMW and (saving := _saving(runs[0], whole)):
            yield f"{name} keeps {saving}"
        for part in dict.fromkeys(part for run in runs for _, part, _, _ in run.retained):
            looks = [look for run in runs for look in run.retained if look[1] == part]
            kept, random = statistics.mean(look[2] for look in looks), statistics.mean(look[3] for look in looks)
            steps = [look[0] for look in looks]
            first, last = (statistics.mean(look[2] for look in looks if look[0] == at) for at in (min(steps), max(steps)))
            yield (
                f"{name} retains {kept:.0%} of the energy of gradients of {part} (step {min(steps)}: {first:.0%}, "
                f"step {max(steps)}: {last:.0%}), a random projection {random:.0%}"
            )


def _saving(run: Outcome, whole: Outcome) -> str:
    if not (run.lattice_optimizer_bytes and whole.lattice_optimizer_bytes and run.optimizer_bytes and whole.optimizer_bytes):
        return ""
    lattice, both = run.lattice_optimizer_bytes / whole.lattice_optimizer_bytes, run.optimizer_bytes / whole.optimizer_bytes
    return f"{lattice:.1%} of AdamW's bytes for cells and connections, {both:.1%} with those for text and ports"
