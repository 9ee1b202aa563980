"""The memory plan: the memory that training a stage will take, counted before anything is allocated (presets.components).

The plan chooses the micro-batch: the largest divisor of the batch whose total is within `run.memory_budget_gb`.  If
`training.checkpoint_ticks` is auto, it also chooses the segments of ticks.

If runs were measured on this machine (monitors.learned_plan), the peak that is predicted from them replaces the total.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from pydantic import ValidationError

from presets.allowance import memory_limit, threads
from presets.components import assumed_kernel, component_bytes, segment_ticks, total_bytes
from presets.schema import RunConfig
from presets.stage import Stage
from presets.topology import reach

GB = 1_000_000_000


ENOUGH = 4
"""If so many sentences fit at once with all states kept, segments are not used.

Segments run ticks twice, which takes a fifth more time.  A larger micro-batch only saves reading the weights more often, which
costs less than that from here on.
"""


@dataclass(frozen=True)
class Lesson:
    """What measured runs predict for a stage: its peak in bytes, the seconds per step, and how many runs that is based on."""

    peak_bytes: int
    step_s: float
    runs: int


class Learned(Protocol):
    """Predictions from stages that were measured on this machine."""

    def predict(self, features: Mapping[str, float]) -> Lesson | None:
        """The prediction for a stage with these features; None if too little was measured."""


@dataclass(frozen=True)
class StagePlan:
    """The memory of one stage in bytes, by component.

    `reach` is the share of cells on a path from input to output.  `kernel` is the assumed kernel, a key of KERNELS, and
    `checkpoint_ticks` the chosen segment (0: all states are kept).  `features` describe the stage when it is measured, and
    `lesson` is what earlier measurements predict.  If the stage does not fit, `savings` are settings that would lower its
    total, each with the bytes that it saves alone.
    """

    name: str
    shape: tuple[int, int, int]
    cells: int
    components: dict[str, int]
    total_bytes: int
    budget_bytes: int
    fits: bool
    micro_batch: int
    accumulation: int
    reach: float
    kernel: str
    savings: dict[str, int]
    checkpoint_ticks: int = 0
    features: Mapping[str, float] = field(default_factory=dict)
    lesson: Lesson | None = None
    limited: bool = False
    """True if the budget is what the container or job may hold, which is less than the config's."""

    @property
    def needed_bytes(self) -> int:
        """The bytes that are compared with the budget: the predicted peak if there is one, or else the total."""
        return self.lesson.peak_bytes if self.lesson else self.total_bytes

    def as_json(self) -> dict[str, Any]:
        keys = (
            "shape", "cells", "components", "total_bytes", "budget_bytes", "fits", "micro_batch", "accumulation", "reach",
            "kernel", "checkpoint_ticks",
        )  # fmt: skip
        shown = {key: getattr(self, key) for key in keys}
        learned = asdict(self.lesson) if self.lesson else None
        return shown | {"shape": list(self.shape), "components": dict(self.components), "learned": learned}


Planning = Callable[[RunConfig, str | None], tuple[StagePlan, ...]]
"""Makes the plans of a config's stages.  The device of the config is settled; the kernel is named if it is known."""


def plan(config: RunConfig, kernel: str | None = None, learned: Learned | None = None) -> tuple[StagePlan, ...]:
    """One plan per stage, for this `kernel`, or without one for the assumed kernel.

    On a CPU the budget is at most what the control groups of this process may hold (presets.allowance).  If `learned` predicts
    a peak, that replaces the counted total.  If `training.micro_batch` is set, it is used whether it
    fits or not.
    """
    budget = _Budget.of(config)
    return tuple(_plan_stage(config, i, budget, kernel, learned) for i in range(len(config.stages)))


def on_device(config: RunConfig, device: str) -> RunConfig:
    """The config for a device that is known, in place of `auto`."""
    return _with(config, run=_with(config.run, device=device))


def explain(stage_plan: StagePlan) -> str:
    """One sentence that says that the stage fits, or by how much it does not fit and what would help."""
    total, budget = stage_plan.needed_bytes, stage_plan.budget_bytes
    if stage_plan.fits:
        return f"stage {stage_plan.name} fits: {total / GB:.2f} of {budget / GB:.2f} GB at micro-batch {stage_plan.micro_batch}"
    over = (
        f"stage {stage_plan.name} does not fit: {total / GB:.2f} GB at micro-batch {stage_plan.micro_batch} is "
        f"{(total - budget) / GB:.2f} GB over the budget of {budget / GB:.2f} GB"
    )
    switches = [f"{switch} saves {saved / GB:.2f} GB" for switch, saved in stage_plan.savings.items()]
    if stage_plan.limited:
        over += ", which is what this container or job may hold"
    else:
        switches.append(f"run.memory_budget_gb={math.ceil(total / GB)} allows it")
    return f"{over}; {', '.join(switches)}" if switches else over


@dataclass(frozen=True)
class _Budget:
    """The bytes that training may take, and whether the machine allows fewer than the config does."""

    size: int
    limited: bool

    @classmethod
    def of(cls, config: RunConfig) -> _Budget:
        wanted = round(config.run.memory_budget_gb * GB)
        limit = memory_limit() if config.run.device == "cpu" else None
        limited = limit is not None and limit.limit_bytes < wanted
        return cls(limit.limit_bytes if limit is not None and limited else wanted, limited)


def _plan_stage(config: RunConfig, index: int, allowed: _Budget, kernel: str | None, learned: Learned | None) -> StagePlan:
    stage, batch, budget = config.stages[index], config.training.batch, allowed.size
    choice = _choose(config, stage, budget, kernel, learned)
    config = _in_segments(config, choice.segment)
    total, micro_batch = sum(choice.components.values()), choice.micro_batch
    return StagePlan(
        name=stage.name,
        shape=stage.shape,
        cells=math.prod(stage.shape),
        components=choice.components,
        total_bytes=total,
        budget_bytes=budget,
        fits=choice.needed <= budget,
        micro_batch=micro_batch,
        accumulation=batch // micro_batch,
        reach=reach(stage.topology(config.lattice.boundary), config.path_ticks(stage)),
        kernel=kernel or assumed_kernel(config),
        savings={} if choice.needed <= budget else _savings(config, index, micro_batch, budget, kernel),
        checkpoint_ticks=choice.segment,
        features=choice.features,
        lesson=choice.lesson,
        limited=allowed.limited,
    )


@dataclass(frozen=True)
class _Choice:
    """A segment and a micro-batch, with the memory that they take."""

    segment: int
    micro_batch: int
    components: dict[str, int]
    features: dict[str, float]
    lesson: Lesson | None

    @property
    def needed(self) -> int:
        return self.lesson.peak_bytes if self.lesson else sum(self.components.values())


def _choose(config: RunConfig, stage: Stage, budget: int, kernel: str | None, learned: Learned | None) -> _Choice:
    """The segment and the micro-batch that were set, or else the best that fit.

    If they were not set, two segments are tried: all states kept, and about the root of the ticks.  Each gets the largest
    micro-batch that fits.  If measured runs predict both, the faster one is taken; if not, all states are kept if ENOUGH
    sentences fit that way.
    """
    training = config.training
    sizes = [training.micro_batch] if training.micro_batch else _divisors(training.batch)
    if training.checkpoint_ticks != "auto":
        segments = [training.checkpoint_ticks]
    else:
        segments = [0] if config.lattice.arm != "lattice" else [0, segment_ticks(stage)]

    def choice(segment: int, size: int) -> _Choice:
        segmented = _in_segments(config, segment)
        components = component_bytes(segmented, stage, size, kernel)
        features = _features(segmented, stage, size, kernel, components)
        return _Choice(segment, size, components, features, learned.predict(features) if learned else None)

    fitting: list[_Choice] = []
    for segment in segments:
        tried = (choice(segment, size) for size in sizes)
        fitting += [best for best in [next((each for each in tried if each.needed <= budget), None)] if best]
        if fitting and fitting[0].segment == 0 and fitting[0].micro_batch == sizes[0]:
            break  # everything at once
    if not fitting:
        return choice(segments[-1], sizes[-1])
    whole, parts = fitting[0], fitting[-1]
    if whole.lesson and parts.lesson:
        return whole if whole.lesson.step_s <= parts.lesson.step_s else parts
    enough = whole.micro_batch >= min(ENOUGH, sizes[0]) or whole.micro_batch >= parts.micro_batch
    return whole if enough else parts


def _divisors(batch: int) -> list[int]:
    """The divisors of a number, largest first."""
    return [size for size in range(batch, 0, -1) if batch % size == 0]


def _in_segments(config: RunConfig, segment: int) -> RunConfig:
    return _with(config, training=_with(config.training, checkpoint_ticks=segment))


def _features(
    config: RunConfig, stage: Stage, micro_batch: int, kernel: str | None, components: Mapping[str, int]
) -> dict[str, float]:
    """The features of a stage when it is measured: the plan's components in bytes, and what else sets memory and time."""
    segment = config.training.checkpoint_ticks
    assert segment != "auto", "the plan has chosen one by now"
    return {
        **components,
        "cells": math.prod(stage.shape) if config.lattice.arm == "lattice" else 0,
        "ticks": stage.ticks,
        "kept": stage.kept(),
        "segment": min(segment or 1, stage.ticks),
        "micro_batch": micro_batch,
        "batch": config.training.batch,
        "compiled": int((kernel or assumed_kernel(config)) in ("compiled", "reference")),
        "threads": threads(config.run.threads),
    }


def _savings(config: RunConfig, index: int, micro_batch: int, budget: int, kernel: str | None) -> dict[str, int]:
    """Settings that would lower the stage's total, each with the bytes that it saves alone."""
    stage = config.stages[index]
    runs = kernel or assumed_kernel(config)
    trials: dict[str, tuple[RunConfig, Stage, int, str]] = {}
    if config.lattice.arm == "lattice":
        if smaller := _largest_that_fits(config, stage, micro_batch, budget, kernel):
            trials[f"stages.{index}.shape={list(smaller.shape)}"] = config, smaller, micro_batch, runs
        if config.run.precision == "fp32":
            halved = _with(config, run=_with(config.run, precision="bf16"))
            trials["run.precision=bf16"] = halved, stage, micro_batch, runs
        elif runs in ("compiled", "reference") and (config.run.kernel, config.run.device) == ("auto", "cpu"):
            other = _with(config, run=_with(config.run, precision="bf16"))
            trials["run.precision=bf16"] = other, stage, micro_batch, "native"
        if config.optimizer.name == "adamw":
            factored = _with(config, optimizer=_with(config.optimizer, name="adafactor"))
            trials["optimizer.name=adafactor"] = factored, stage, micro_batch, runs
        if not config.training.checkpoint_ticks:
            segment = segment_ticks(stage)
            segmented = _in_segments(config, segment)
            trials[f"training.checkpoint_ticks={segment}"] = segmented, stage, micro_batch, runs
        if config.connections.learning != "frozen":
            frozen = _with(config, connections=_with(config.connections, learning="frozen"))
            trials["connections.learning=frozen"] = frozen, stage, micro_batch, runs
    if micro_batch > 1:
        trials["training.micro_batch=1"] = config, stage, 1, runs
    total = total_bytes(config, stage, micro_batch, kernel)
    saved = {switch: total - total_bytes(*trial) for switch, trial in trials.items()}
    return {switch: saving for switch, saving in saved.items() if saving > 0}


def _largest_that_fits(config: RunConfig, stage: Stage, micro_batch: int, budget: int, kernel: str | None) -> Stage | None:
    """The largest stage of the same proportions that fits and satisfies the schema; None if there is none."""
    size_x, size_y, depth = stage.shape

    def shrunk(z: int) -> Stage:
        return _with(stage, shape=(max(1, size_x * z // depth), max(1, size_y * z // depth), z))

    largest = bisect.bisect_right(range(1, depth), budget, key=lambda z: total_bytes(config, shrunk(z), micro_batch, kernel))
    for z in range(largest, 0, -1):
        smaller = shrunk(z)
        if min(smaller.shape[:2]) < config.text.grid:
            return None
        try:
            return Stage.model_validate(smaller.model_dump())
        except ValidationError:
            continue
    return None


def _with(section: Any, **changes: Any) -> Any:
    return section.model_copy(update=changes)
