"""The memory plan: what training a stage will take, counted before anything is allocated.

The plan decides the micro-batch and, where `training.checkpoint_ticks` is auto, the segments of ticks: the largest divisor of
the batch whose total stays within `run.memory_budget_gb`.  It adds
up what is never all there at one moment (the loss's activations go before the lattice's gradients come), so it errs upwards.
What lives through a step is counted exactly, tensor by tensor, from the shapes that lattice.model.lattice3d and
lattice.model.coder build; `temporaries` follow the allocations measured in lattice.kernels.propagate, and text activations
are an estimate.  The `reference` kernel is not planned for: autograd keeps every one of its intermediates.

What a tick holds beside the states depends on the kernel: `assumed_kernel` says which one a config will run on which device.
On a GPU all components but `runtime` are what torch allocates there, and `runtime` stands for the CUDA context.

Where runs of this machine were measured (monitors.learned_plan), what they teach takes the place of the total.
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
"""Taken for the interpreter, torch and what a run does beside its steps, whatever the lattice (measured)."""


CONTEXT_BYTES = 600_000_000
"""Taken on a GPU by the CUDA context and what libraries keep there."""

FLOAT, LABEL = 4, 8
"""Bytes of a parameter or running mean (always fp32), and of a cell's cluster label (int64)."""

STATE_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


# State-sized buffers of a backward tick (measured, see above).
TICK_GRADIENTS = 2
"""The gradient that arrives, which the one of the state replaces, and the tick's gradient of its message: in the states' own
precision, but in fp32 through the compiled kernel."""
CELL_FIELDS = 6
"""Numbers of a cell that plasticity keeps or gathers: theta, firing rate, threshold; firings, activity and its square."""
FUNCTIONAL_BUFFERS, FUNCTIONAL_CHANNELS = 1, 3
"""What the cells hear of their clusters, in fp32; and so many single channels of a state, on the way there and back."""
COMPILED_BUFFERS = 8
"""The state's gradient beside the one that arrives, and what the compiled kernel stores between its loops (9.3 states in all
measured at batch 1 on the CPU, not yet on a GPU); the native and the triton one need nothing."""

KERNELS = {
    "native": "native, on the CPU",
    "triton": "triton, on a CUDA GPU",
    "either": "native on the CPU, triton on a CUDA GPU",
    "compiled": "compiled (torch.compile)",
    "reference": "reference, counted as compiled",
}
"""What a plan may assume; `either` where the device is not known: then what takes more counts."""


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
"""Of every plan, in the order of the table."""

ENOUGH = 4
"""Sentences at once that make running ticks twice (a fifth more time) worse than reading the weights more often."""


@dataclass(frozen=True)
class Lesson:
    """What measured runs say of a stage: its peak in bytes, the seconds of a step, and how many runs that rests on."""

    peak_bytes: int
    step_s: float
    runs: int


class Learned(Protocol):
    """Predicts from what was measured on this machine; None where that says too little."""

    def predict(self, features: Mapping[str, float]) -> Lesson | None: ...


@dataclass(frozen=True)
class StagePlan:
    """One stage's memory in bytes, by component; `reach` is the share of cells on a path from input to output.

    `kernel` is the one that is assumed, a key of KERNELS; `checkpoint_ticks` the segment that was chosen (0: all states are
    kept).  `features` is what a measurement of this stage is remembered by, `lesson` what earlier ones say of it.  `savings`
    names settings that would lower the total of a stage that does not fit, each with the bytes it alone saves.
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
        """What the stage is held against its budget with: what was learned, else the total."""
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
    """One plan a stage, for a `kernel` that is known or the one assumed, by what was `learned` where that says anything.

    With `training.micro_batch` given, that one is taken whether it fits or not.
    """
    return tuple(_plan_stage(config, i, kernel, learned) for i in range(len(config.stages)))


def on_device(config: RunConfig, device: str) -> RunConfig:
    """The config with `auto` settled: what to plan where the device is known."""
    return _with(config, run=_with(config.run, device=device))


def assumed_kernel(config: RunConfig) -> str:
    """The kernel (a key of KERNELS) that a config runs on its `run.device`, where everything can be compiled.

    `auto` is taken for a GPU where states are fp16, which no fast kernel of the CPU takes.
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
    """One sentence: that the stage fits, or by how much it does not and what would help."""
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
    """A segment and a micro-batch, and what they take."""

    segment: int
    micro_batch: int
    components: dict[str, int]
    features: dict[str, float]
    lesson: Lesson | None

    @property
    def needed(self) -> int:
        return self.lesson.peak_bytes if self.lesson else sum(self.components.values())


def _choose(config: RunConfig, stage: Stage, budget: int, kernel: str | None, learned: Learned | None) -> _Choice:
    """What was set; else, for all states kept and for segments of about the root of the ticks, the largest micro-batch that
    fits, and of the two what measured runs say is faster, or all states where ENOUGH sentences fit that way."""
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
    """The segment that keeps the fewest states, about."""
    return math.ceil(math.sqrt(stage.ticks))


def _divisors(batch: int) -> list[int]:
    """Largest first."""
    return [size for size in range(batch, 0, -1) if batch % size == 0]


def _in_segments(config: RunConfig, segment: int) -> RunConfig:
    return _with(config, training=_with(config.training, checkpoint_ticks=segment))


def _features(
    config: RunConfig, stage: Stage, micro_batch: int, kernel: str | None, components: Mapping[str, int]
) -> dict[str, float]:
    """What a measurement is remembered by: the plan's components in bytes, and what sets memory and time beside them."""
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
    """Bytes by component, in the order of the table; `kernel=None` is the one assumed."""
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
    # A byte for each offset that a tile keeps, and for each that it might where that one is looked up.
    index = (kept + offsets) * math.prod(stage.shape[:2]) * -(-stage.shape[2] // TILE) * sparse

    cells_learn = config.lattice.cells == "gradient"
    weights_learn = config.connections.learning in ("gradient", "hybrid") and stage.profile != "freeze"
    lattice_trained = cell_parameters * cells_learn + weights * weights_learn
    trained = text + lattice_trained

    state = channels * cells  # numbers a sentence
    # Backward needs most at its first tick: all states are there yet.
    of_gradients = TICK_GRADIENTS * (FLOAT if compiled else itemsize)
    of_others = FLOAT * (FUNCTIONAL_BUFFERS * functional + COMPILED_BUFFERS * compiled)
    in_tick = (of_gradients + of_others) * state + FLOAT * FUNCTIONAL_CHANNELS * functional * cells
    # Backward always writes a gradient of the cells, and drops it where they are frozen.
    written = cell_parameters + weights * weights_learn
    in_backward = written - lattice_trained
    if compiled and sparse:
        # It takes dense connections only: pruned ones are expanded, and so is their gradient.
        in_backward += offsets * cells * (1 + weights_learn)
        if config.training.batch > micro_batch:
            in_backward += weights * weights_learn  # made compact before it is added to the step's
    heard = _heard(stage, config.lattice.boundary) if sparse and runs in ("native", "either") else 0
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
        "temporaries": micro_batch * (in_tick + FLOAT * activations(config, stage)) + FLOAT * in_backward + heard,
        "runtime": CONTEXT_BYTES if config.run.device.startswith("cuda") else _process(config),
    }


def _heard(stage: Stage, boundary: str) -> int:
    """Bytes of pruned connections by the tile that they lead to, as the native kernel lists them for a backward.

    Owners at another place of their tile than the cell of its own lie in two, each of which may keep the offset.
    """
    offsets = stage.topology(boundary).offsets
    share, tiles = stage.kept(0) / len(offsets), math.prod(stage.shape[:2]) * -(-stage.shape[2] // TILE)
    led = sum(share if dz % TILE == 0 else 1 - (1 - share) ** 2 for _, _, dz in offsets)
    return round(led * tiles * (FLOAT * TILE + 1))


def _plasticity(config: RunConfig, stage: Stage, weights: int, cells: int, state: int, micro_batch: int) -> int:
    """Numbers that lattice.plasticity.plasticity holds during a backward."""
    if not (stage.waves or config.connections.learning in ("plastic", "hybrid")):
        return 0
    rule, watched = config.plasticity.rule, min(config.plasticity.sentences, micro_batch)
    sums = (2 if rule == "stdp" else 1) * weights
    # A probe's state, as far as one layer of x hears; of three_factor the signal that arrives, and the credit.
    heard = min(stage.shape[0], 2 * max((1, *stage.strides.x)) + 1) if cells else 0
    signals = 2 * watched * state if rule == "three_factor" else 0
    return sums + CELL_FIELDS * cells + state // stage.shape[0] * heard + signals


def states_kept(config: RunConfig, stage: Stage) -> int:
    """States before a tick that are there at once: the first ones of segments, and all of the last or of a whole one.

    With segments on auto, those of segments: the fewest that the plan may choose.
    """
    ticks = config.training.checkpoint_ticks
    segment = min(_root(stage) if ticks == "auto" else ticks or 1, stage.ticks)
    segments = -(-stage.ticks // segment)
    last = stage.ticks - (segments - 1) * segment
    return max(segments + last - 1, segments - 1 + segment - 1)


def _process(config: RunConfig) -> int:
    """The process with its text; where the device is not known, no less than a GPU's context."""
    taken = RUNTIME_BYTES + TEXT_BYTES * text_on_disk(config.data)
    return taken if config.run.device == "cpu" else max(taken, CONTEXT_BYTES)


def _savings(config: RunConfig, index: int, micro_batch: int, budget: int, kernel: str | None) -> dict[str, int]:
    """Settings that would lower the stage's total, with the bytes each saves alone."""
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
    """The stage at the largest depth that fits with the same proportions and keeps every rule of the schema."""
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
