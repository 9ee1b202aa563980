"""The memory plan: the memory that training a stage will take, counted before anything is allocated.

The plan chooses the micro-batch: the largest divisor of the batch whose total is within `run.memory_budget_gb`.  If
`training.checkpoint_ticks` is auto, it also chooses the segments of ticks.

Tensors that live through a step are counted exactly, from the shapes that lattice.model.lattice3d and lattice.model.coder
build.  `temporaries` follow allocations that were measured in lattice.kernels.propagate, and the activations of text are an
estimate.  The plan is too high rather than too low: it adds up tensors that never exist at the same moment, since the loss's
activations are freed before the lattice's gradients are made.  The `reference` kernel is not planned for, since autograd keeps
all its intermediates.

The memory of a tick besides its states depends on the kernel; `assumed_kernel` says which one a config will run on which
device.  On a GPU, `runtime` is the CUDA context, and all other components are what torch allocates there.

If runs were measured on this machine (monitors.learned_plan), the peak that is predicted from them replaces the total.
"""

from __future__ import annotations

import bisect
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from pydantic import ValidationError

from presets.optimizer_state import CELL_VECTORS, state_bytes
from presets.schema import RunConfig, Stage
from presets.text_memory import TEXT_BYTES, activations, encoder_size, ports_size, text_on_disk
from presets.topology import TILE, reach

GB = 1_000_000_000
RUNTIME_BYTES = 400_000_000
"""Memory of the interpreter, of torch and of everything that a run does besides its steps (measured)."""


CONTEXT_BYTES = 600_000_000
"""Memory on a GPU of the CUDA context and of what libraries keep there."""

FLOAT, LABEL = 4, 8
"""Bytes of a parameter or running mean (always fp32), and of a cell's cluster label (int64)."""

STATE_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


# State-sized buffers of a backward tick (measured, see above).
TICK_GRADIENTS = 2
"""The gradient of the next state, which that of the state replaces, and the gradient of the message.  They have the precision
of the states, but fp32 in the compiled kernel."""
CELL_FIELDS = 6
"""Numbers per cell that plasticity keeps (theta, firing rate, threshold) or sums up (firings, activity, activity squared)."""
FUNCTIONAL_BUFFERS, FUNCTIONAL_CHANNELS = 1, 3
"""State-sized buffers in fp32 for the part of messages that comes from clusters, and single channels of a state that computing
it forward and backward takes."""
COMPILED_BUFFERS = 8
"""State-sized buffers of the compiled kernel: a second gradient of the state, and what it stores between its loops.  Measured
are 9.3 states in all at batch 1 on the CPU; a GPU has not been measured yet.  The native and the triton kernel need none."""

KERNELS = {
    "native": "native, on the CPU",
    "triton": "triton, on a CUDA GPU",
    "either": "native on the CPU, triton on a CUDA GPU",
    "compiled": "compiled (torch.compile)",
    "reference": "reference, counted as compiled",
}
"""Kernels that a plan may assume.  `either` is for a device that is not known yet; then the larger need counts."""


COMPONENTS = (
    "cell_parameters",
    "connections",
    "plasticity",
    "clusters",
    "text",
    "gradients",
    "optimizer",
    "states",
    "temporaries",
    "runtime",
)
"""The components of every plan, in the order of the table."""

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


def plan(config: RunConfig, kernel: str | None = None, learned: Learned | None = None) -> tuple[StagePlan, ...]:
    """One plan per stage, for this `kernel`, or without one for the assumed kernel.

    If `learned` predicts a peak, that replaces the counted total.  If `training.micro_batch` is set, it is used whether it
    fits or not.
    """
    return tuple(_plan_stage(config, i, kernel, learned) for i in range(len(config.stages)))


def on_device(config: RunConfig, device: str) -> RunConfig:
    """The config for a device that is known, in place of `auto`."""
    return _with(config, run=_with(config.run, device=device))


def assumed_kernel(config: RunConfig) -> str:
    """The kernel (a key of KERNELS) that a config runs on its `run.device`, if everything can be compiled there.

    If states are fp16, a device of `auto` is assumed to be a GPU, since no fast kernel on the CPU takes fp16.
    """
    run = config.run
    if run.kernel != "auto":
        return run.kernel
    if run.device == "auto":
        return "triton" if run.precision == "fp16" else "either"
    if run.device.startswith("cuda"):
        return "triton"
    return "compiled" if run.precision == "fp16" else "native"


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
    return f"{over}; {', '.join([*switches, f'run.memory_budget_gb={math.ceil(total / GB)} allows it'])}"


def _plan_stage(config: RunConfig, index: int, kernel: str | None, learned: Learned | None) -> StagePlan:
    stage, batch = config.stages[index], config.training.batch
    budget = round(config.run.memory_budget_gb * GB)
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
        reach=reach(stage.topology(config.lattice.boundary), stage.ticks),
        kernel=kernel or assumed_kernel(config),
        savings={} if choice.needed <= budget else _savings(config, index, micro_batch, budget, kernel),
        checkpoint_ticks=choice.segment,
        features=choice.features,
        lesson=choice.lesson,
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
        segments = [0] if config.lattice.arm == "identity" else [0, _root(stage)]

    def choice(segment: int, size: int) -> _Choice:
        segmented = _in_segments(config, segment)
        components = _components(segmented, stage, size, kernel)
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


def _root(stage: Stage) -> int:
    """The segment that keeps about the fewest states."""
    return math.ceil(math.sqrt(stage.ticks))


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
        "threads": config.run.threads or len(os.sched_getaffinity(0)),
    }


def _total(config: RunConfig, stage: Stage, micro_batch: int, kernel: str | None = None) -> int:
    return sum(_components(config, stage, micro_batch, kernel).values())


def _components(config: RunConfig, stage: Stage, micro_batch: int, kernel: str | None = None) -> dict[str, int]:
    """Bytes by component, in the order of the table.  `kernel=None` is the assumed kernel."""
    channels, itemsize = config.lattice.channels, STATE_BYTES[config.run.precision]
    functional, clusters = stage.clustering.functional, stage.clustering.clusters
    runs = kernel or assumed_kernel(config)
    compiled = runs in ("compiled", "reference")

    text = encoder_size(config.text) + config.text.decoder_size(config.text.decoder_feed_forward())
    cells = 0
    if config.lattice.arm == "lattice":
        text += ports_size(config.text, channels)
        cells = math.prod(stage.shape)
    cell_parameters = (CELL_VECTORS + functional) * channels * cells
    offsets, kept = len(stage.topology(config.lattice.boundary).offsets), stage.kept(0)
    weights, sparse = kept * cells, cells > 0 and kept < offsets
    # One byte for each offset that a tile keeps, and in the inverse one for each offset that there is.
    index = (kept + offsets) * math.prod(stage.shape[:2]) * -(-stage.shape[2] // TILE) * sparse

    cells_learn = config.lattice.cells == "gradient"
    weights_learn = config.connections.learning in ("gradient", "hybrid") and stage.profile != "freeze"
    lattice_trained = cell_parameters * cells_learn + weights * weights_learn
    trained = text + lattice_trained

    state = channels * cells  # numbers per sentence
    # The backward needs most at its first tick, when all states are still there.
    of_gradients = TICK_GRADIENTS * (FLOAT if compiled else itemsize)
    of_others = FLOAT * (FUNCTIONAL_BUFFERS * functional + COMPILED_BUFFERS * compiled)
    in_tick = (of_gradients + of_others) * state + FLOAT * FUNCTIONAL_CHANNELS * functional * cells
    # The backward always writes a gradient of the cells, and drops it if they are frozen.
    written = cell_parameters + weights * weights_learn
    in_backward = written - lattice_trained
    if compiled and sparse:
        # It takes dense connections only: pruned ones are expanded, and so is their gradient.
        in_backward += offsets * cells * (1 + weights_learn)
        if config.training.batch > micro_batch:
            in_backward += weights * weights_learn  # made compact before it is added to the step's
    transposed = _transposed(stage, config.lattice.boundary) if sparse and runs in ("native", "either") else 0
    if sparse and stage.rewiring.regrow == "gradient":
        in_backward += 4 * weights  # a probe's copy with as many absent connections, and its gradient
    # After backward, clipping and the optimizers work in place, or in small chunks.

    return {
        "cell_parameters": FLOAT * cell_parameters,
        "connections": FLOAT * weights + index,
        "plasticity": FLOAT * _plasticity(config, stage, weights, cells, state, micro_batch),
        "clusters": (LABEL * cells + FLOAT * channels * (cells + clusters)) * (clusters > 0 and cells > 0),
        "text": FLOAT * text,
        "gradients": FLOAT * trained,
        "optimizer": 2 * FLOAT * text + state_bytes(config, stage, kept),
        "states": micro_batch * states_kept(config, stage) * state * itemsize,
        "temporaries": micro_batch * (in_tick + FLOAT * activations(config, stage)) + FLOAT * in_backward + transposed,
        "runtime": CONTEXT_BYTES if config.run.device.startswith("cuda") else _process(config),
    }


def _transposed(stage: Stage, boundary: str) -> int:
    """Bytes of the list that the native kernel makes for a backward: sparse connections by the tile that they read.

    If an offset goes along z, the cells that read a tile lie in two tiles, each of which may keep the offset.
    """
    offsets = stage.topology(boundary).offsets
    share, tiles = stage.kept(0) / len(offsets), math.prod(stage.shape[:2]) * -(-stage.shape[2] // TILE)
    led = sum(share if dz % TILE == 0 else 1 - (1 - share) ** 2 for _, _, dz in offsets)
    return round(led * tiles * (FLOAT * TILE + 1))


def _plasticity(config: RunConfig, stage: Stage, weights: int, cells: int, state: int, micro_batch: int) -> int:
    """Numbers that lattice.plasticity.plasticity keeps during a backward."""
    if not (stage.waves or config.connections.learning in ("plastic", "hybrid")):
        return 0
    rule, watched = config.plasticity.rule, min(config.plasticity.sentences, micro_batch)
    sums = (2 if rule == "stdp" else 1) * weights
    # A probe's state in the layers that one layer of x reads; for three_factor the signal that arrives, and the credit.
    layers = min(stage.shape[0], 2 * max((1, *stage.strides.x)) + 1) if cells else 0
    signals = 2 * watched * state if rule == "three_factor" else 0
    return sums + CELL_FIELDS * cells + state // stage.shape[0] * layers + signals


def states_kept(config: RunConfig, stage: Stage) -> int:
    """Most states that are kept at once.

    These are the first states of all segments, and all states of the last segment, or of the whole one that the backward runs
    again.  If `training.checkpoint_ticks` is auto, this is the number with segments, the fewest that the plan may choose.
    """
    ticks = config.training.checkpoint_ticks
    segment = min(_root(stage) if ticks == "auto" else ticks or 1, stage.ticks)
    segments = -(-stage.ticks // segment)
    last = stage.ticks - (segments - 1) * segment
    return max(segments + last - 1, segments - 1 + segment - 1)


def _process(config: RunConfig) -> int:
    """Bytes of the process with its text; on an unknown device at least those of a GPU's context."""
    taken = RUNTIME_BYTES + TEXT_BYTES * text_on_disk(config.data)
    return taken if config.run.device == "cpu" else max(taken, CONTEXT_BYTES)


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
        elif runs == "compiled" and (config.run.kernel, config.run.device) == ("auto", "cpu"):
            other = _with(config, run=_with(config.run, precision="bf16"))
            trials["run.precision=bf16"] = other, stage, micro_batch, "native"
        if config.optimizer.name == "adamw":
            factored = _with(config, optimizer=_with(config.optimizer, name="adafactor"))
            trials["optimizer.name=adafactor"] = factored, stage, micro_batch, runs
        if not config.training.checkpoint_ticks:
            segment = _root(stage)
            segmented = _in_segments(config, segment)
            trials[f"training.checkpoint_ticks={segment}"] = segmented, stage, micro_batch, runs
        if config.connections.learning != "frozen":
            frozen = _with(config, connections=_with(config.connections, learning="frozen"))
            trials["connections.learning=frozen"] = frozen, stage, micro_batch, runs
    if micro_batch > 1:
        trials["training.micro_batch=1"] = config, stage, 1, runs
    total = _total(config, stage, micro_batch, kernel)
    saved = {switch: total - _total(*trial) for switch, trial in trials.items()}
    return {switch: saving for switch, saving in saved.items() if saving > 0}


def _largest_that_fits(config: RunConfig, stage: Stage, micro_batch: int, budget: int, kernel: str | None) -> Stage | None:
    """The largest stage of the same proportions that fits and satisfies the schema; None if there is none."""
    size_x, size_y, depth = stage.shape

    def shrunk(z: int) -> Stage:
        return _with(stage, shape=(max(1, size_x * z // depth), max(1, size_y * z // depth), z))

    largest = bisect.bisect_right(range(1, depth), budget, key=lambda z: _total(config, shrunk(z), micro_batch, kernel))
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
