"""`experiment transfer`: does a lattice reach the target sooner if it grows from a smaller one?

`scratch` trains only the last stage of the preset.  `grown` trains all stages.  If the preset has one stage only, a lattice of
half its size along each axis, with half its strides, is trained before it for a share of the steps.  Both arms have the same
total number of steps, the same schedule and the same sentences.  The target counts in the last stage alone, since that is the
lattice that is wanted.  The held-out loss is also taken right before and right after every growth.

The effect is the share of CPU seconds to the target that `grown` saves.  The time of its smaller lattices counts.
"""

from __future__ import annotations

import dataclasses
import math
import statistics

from app.exit_codes import ExitCode, Stop
from app.experiments import picture, report
from app.experiments.experiment import Arm, Experiment, ExperimentRequest, choose
from app.experiments.measure import Conditions, Looks, Outcome
from app.pictures import check_plot
from lattice.training.state import TrainingState
from monitors.events import AnyEvent, StageStarted
from presets.layers import toml_value
from presets.schema import RunConfig
from presets.stage import Stage

SCRATCH, GROWN = "scratch", "grown"

LEAST_STRIDE = 2


class GrowthLooks(Looks):
    """Takes looks in the last stage alone, and right before and right after every growth."""

    def __init__(self, conditions: Conditions) -> None:
        super().__init__(conditions)
        self._growing: tuple[TrainingState, float | None] | None = None

    def after_step(self, state: TrainingState) -> None:
        if state.progress.stage == len(state.config.stages) - 1:
            super().after_step(state)
        else:
            self.trained_cpu_s = self.time.so_far()

    def at_stage_end(self, state: TrainingState) -> None:
        super().at_stage_end(state)
        if not state.progress.finished(len(state.config.stages)):
            self._growing = state, self.loss_now(state)

    def on_event(self, event: AnyEvent) -> None:
        if isinstance(event, StageStarted) and self._growing is not None:
            (state, before), self._growing = self._growing, None
            self.trained_cpu_s = self.time.so_far()
            self.look(state)
            self.growths.append((before, self.losses[-1]))


def arms_of(config: RunConfig, before: float) -> list[Arm]:
    """Both arms.  If the preset has one stage only, `before` is the share of the steps on the smaller lattice.  Raises Stop."""
    *_, last = stages = [*config.stages]
    if len(stages) == 1:
        if last.steps < 2:
            raise Stop(ExitCode.USAGE, f"stages.0.steps: {last.steps} can't be shared by two lattices; use 2 or more")
        steps = min(max(1, round(before * last.steps)), last.steps - 1)
        stages = [halved(last, steps), last.model_copy(update={"steps": last.steps - steps})]
    alone = last.model_copy(update={"steps": config.total_steps})
    return [Arm(SCRATCH, (_stages([alone]),)), Arm(GROWN, (_stages(stages),))]


def halved(stage: Stage, steps: int) -> Stage:
    """The stage with half its size along each axis and half its strides, for `steps` steps."""
    strides = {
        axis: tuple(sorted({max(LEAST_STRIDE, stride // 2) for stride in getattr(stage.strides, axis)})) for axis in "xyz"
    }
    shape = tuple(max(1, size // 2) for size in stage.shape)
    changes = {"name": "half", "shape": shape, "strides": stage.strides.model_copy(update=strides), "steps": steps}
    return stage.model_copy(update=changes)


def _stages(stages: list[Stage]) -> str:
    return f"stages={toml_value([stage.model_dump(mode='json', exclude_none=True) for stage in stages])}"


def run(request: ExperimentRequest, before: float) -> None:
    """Trains both arms with every seed and prints what was found.  Scores BLEU only if runs go to their end.  Raises Stop."""
    conditions = dataclasses.replace(request.conditions, score=request.conditions.to_end)
    request = dataclasses.replace(request, conditions=conditions)
    check_plot(request.plot)
    arms = choose(arms_of(request.source.load().config, before), request.arms, request.own_arms)
    experiment = Experiment("transfer", request.source, request.conditions, arms, request.out, GrowthLooks)
    results, target = experiment.run(arms, request.seeds), request.conditions.target
    both = SCRATCH in results and GROWN in results
    main = report.compare(results, GROWN, SCRATCH, target) if both else None
    columns = ("reached", "steps", "CPU s", "loss")
    reference = SCRATCH if SCRATCH in results else None
    finding = report.Finding("transfer", arms, results, experiment.scored, reference, main, [], "cpu_s", columns)
    if request.plot:
        picture.draw(request.plot, "transfer: grown against from scratch", results, target)
    report.show(finding, request)
    if not request.as_json and (ratios := growth_ratios(results.get(GROWN, []))):
        print(
            f"held-out loss right after a growth: {statistics.mean(ratios):.3f} of that before "
            f"({min(ratios):.3f} to {max(ratios):.3f}, {len(ratios)} growths)"
        )


def growth_ratios(runs: list[Outcome]) -> list[float]:
    """The loss after every growth divided by the loss before it; infinite if the loss after it was not finite."""
    pairs = [pair for run in runs for pair in run.growths]
    return [math.inf if after is None else after / before for before, after in pairs if before]
