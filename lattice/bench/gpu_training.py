"""Measures training on a GPU: the memory and time that presets take, and whether a long run leaks.

Memory is reported by the components of the plan (presets.plan).  Tensors that live through a step are counted one by one.
`working` is the rest of torch's peak, to be compared with the plan's states and temporaries together.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from lattice.bench.gpu_kernels import Stopwatch
from lattice.data.batches import Schedule, TokenizedCorpus
from lattice.data.corpus import Corpus
from lattice.data.tokenizer import Tokenizer
from lattice.observing.decode_monitor import DecodeMonitor
from lattice.observing.leak_monitor import LeakMonitor
from lattice.training.build import build_trainer
from lattice.training.callbacks import Callback
from lattice.training.state import TrainingState
from lattice.training.trainer import Trainer
from monitors import gauges, torch_memory
from monitors.events import AnyEvent, StageStarted, Trained, Warned
from monitors.gauges import Absent
from monitors.leak_detector import Detector
from presets.plan import StagePlan
from presets.schema import RunConfig


@dataclass(frozen=True)
class StepTimes:
    """Times of training on a preset, in seconds."""

    first: float
    """The first step, with everything that it compiles."""
    step: list[float]
    """Whole steps."""
    micro_step: list[float]
    """Steps on a single micro-batch."""
    forward: list[float]
    """Forwards of a single micro-batch."""
    look: float
    """One look of the decode monitor."""
    look_share: float
    """`look` over the time of the steps between two looks, at the configured rate; no unit."""

    def as_json(self) -> dict[str, Any]:
        each = {"step_s": self.step, "micro_step_s": self.micro_step, "forward_s": self.forward}
        summaries = {name: {"median": statistics.median(t), "min": min(t), "max": max(t)} for name, t in each.items()}
        return {"first_step_s": self.first, **summaries, "look_s": self.look, "decode_share": self.look_share}


@dataclass
class PeakMemory(Callback):
    """The callback that finds the most memory taken, in bytes, as torch and the driver count it; None if there is no GPU."""

    device: torch.device
    allocated: int | None = None
    reserved: int | None = None
    driver: int | None = None

    def begin(self) -> None:
        """Forgets the peaks so far."""
        torch_memory.reset_peak(self.device)
        self.allocated = self.reserved = self.driver = None

    def after_step(self, state: TrainingState | None = None) -> None:
        """Reads the counts.  Between steps, the allocator still holds what the last step took."""
        read = {"allocated": torch_memory.peak, "reserved": torch_memory.reserved, "driver": torch_memory.driver_used}
        for name, reading in read.items():
            if not isinstance(found := reading(self.device), Absent):
                setattr(self, name, max(getattr(self, name) or 0, found))

    def as_json(self) -> dict[str, int | None]:
        return {"peak_allocated": self.allocated, "reserved": self.reserved, "driver_used": self.driver}


def components(state: TrainingState) -> dict[str, int]:
    """Bytes of the tensors that live through a step, by the plan's names for its components.

    To be called right after a step, while its gradients are there.
    """
    lattice = state.model.lattice
    parts: dict[str, list[torch.Tensor]] = {"cell_parameters": [], "connections": [], "clusters": [], "plasticity": []}
    own: dict[str, torch.Tensor] = {}
    if lattice is not None:
        own = {name: tensor for name, tensor in [*lattice.named_parameters(), *lattice.named_buffers()]}
        for name, tensor in own.items():
            owner = {"cells": "cell_parameters", "gain": "cell_parameters", "weights": "connections", "index": "connections"}
            owner |= {name: "cell_parameters"} if name.startswith("rule.") else {}
            parts[owner.get(name, "plasticity" if name.startswith("plasticity.") else "clusters")].append(tensor)
        if lattice.pattern is not None:
            parts["connections"].append(lattice.pattern.slots)
    mine = {id(tensor) for tensor in own.values()}
    parameters = list(state.model.parameters())
    parts["text"] = [p for p in parameters if id(p) not in mine]
    parts["gradients"] = [p.grad for p in parameters if p.grad is not None]
    moments = (value for kept in state.optimizer.state.values() for value in kept.values())
    parts["optimizer"] = [value for value in moments if isinstance(value, torch.Tensor)]
    return {name: sum(tensor.nbytes for tensor in tensors) for name, tensors in parts.items()}


class Heard(Callback):
    """The callback that collects the losses of each stage, the warnings, and the events at the stages' starts."""

    def __init__(self) -> None:
        self.losses: dict[int, list[float]] = {}
        self.warnings: list[str] = []
        self.stages: list[StageStarted] = []

    def on_event(self, event: AnyEvent) -> None:
        match event:
            case Trained():
                self.losses.setdefault(event.stage, []).append(math.nan if event.loss is None else event.loss)
            case Warned():
                self.warnings.append(event.message)
            case StageStarted():
                self.stages.append(event)


@dataclass(frozen=True)
class Material:
    """The corpus and the tokenizer that all runs of the bench share."""

    corpus: Corpus
    tokenizer: Tokenizer

    def trainer(self, config: RunConfig, device: torch.device, callbacks: Iterable[Callback]) -> Trainer:
        return build_trainer(config, TokenizedCorpus.of(self.corpus, config, self.tokenizer), device, callbacks)


@dataclass(frozen=True)
class PresetResult:
    """The result of training a preset's first stage for a few steps."""

    preset: str
    plan: StagePlan
    kernel: str
    losses: list[float]
    times: StepTimes
    memory: PeakMemory
    components: dict[str, int]
    warnings: list[str]
    micro_batch: int

    def as_json(self) -> dict[str, Any]:
        measured: dict[str, int | None] = dict(self.components)
        peak = self.memory.allocated
        measured["working"] = None if peak is None else peak - sum(self.components.values())
        return {
            "preset": self.preset,
            "shape": list(self.plan.shape),
            "kernel": self.kernel,
            "micro_batch": self.micro_batch,
            "plan": self.plan.as_json(),
            "measured": measured,
            **self.memory.as_json(),
            **self.times.as_json(),
            "losses": self.losses,
            "warnings": self.warnings,
        }


def train_preset(preset: str, config: RunConfig, material: Material, device: torch.device, steps: int) -> PresetResult:
    """Measures the config's first stage: the first step, `steps` whole steps, as many on a single micro-batch, as many
    forwards, and one look of the decode monitor."""
    heard, memory, watch = Heard(), PeakMemory(device), Stopwatch(device)
    memory.begin()
    trainer = material.trainer(config, device, [heard])
    state = trainer.state
    stage, progress = state.stage, state.progress
    schedule = Schedule(len(state.train_sentences), stage.data_share, config.training.batch, config.run.seed, 0)

    def step(count: int | None = None) -> None:
        trainer.step(schedule.rows(progress.stage_step)[:count])
        progress.advance()
        memory.after_step()

    first = watch.seconds(step)
    whole = [watch.seconds(step) for _ in range(steps)]
    of_first, living = list(heard.losses[0]), components(state)
    micro = [watch.seconds(lambda: step(state.micro_batch)) for _ in range(steps)]
    source, _, _ = state.train_sentences.batch(schedule.rows(0)[: state.micro_batch], device)
    with torch.no_grad():
        forward = watch.rounds({"forward": lambda: state.model.slots(source)}, steps)["forward"]
    monitor = DecodeMonitor()
    look = watch.seconds(lambda: monitor.look(state, config.decode.sentences))
    memory.after_step()
    share = look / (config.decode.every * statistics.median(whole))
    times = StepTimes(first, whole, micro, forward, look, share)
    line = state.model.kernel_line
    return PresetResult(preset, state.plan, line, of_first, times, memory, living, heard.warnings, state.micro_batch)


def train_through(config: RunConfig, material: Material, device: torch.device) -> dict[str, Any]:
    """Trains all stages of a config to their ends, including growth.

    Returns, as JSON, how it ended, warnings, memory, and for each stage its shape, kernel, plan, first and last loss.
    """
    heard, memory = Heard(), PeakMemory(device)
    memory.begin()
    clock = time.perf_counter()
    trainer = material.trainer(config, device, [heard, DecodeMonitor(), memory])
    end = trainer.run()
    stages = [
        {
            "name": started.name,
            "shape": list(started.shape),
            "kernel": started.kernel,
            "plan_bytes": started.plan_bytes,
            "micro_batch": started.micro_batch,
            "carried": started.carried,
            "steps": len(heard.losses.get(started.stage, [])),
            "first_loss": heard.losses[started.stage][0],
            "last_loss": heard.losses[started.stage][-1],
        }
        for started in heard.stages
    ]
    result = {"end": end, "seconds": time.perf_counter() - clock, "stages": stages, "warnings": heard.warnings}
    return result | memory.as_json()


@dataclass
class UntilTime(Callback):
    """The callback that requests a stop `seconds` after the first step, and counts the steps."""

    seconds: float
    steps: int = 0
    _end: float = math.inf

    def after_step(self, state: TrainingState) -> None:
        now = time.monotonic()
        self._end = min(self._end, now + self.seconds)
        self.steps += 1
        if now >= self._end:
            state.request_stop("the watch is over")


def watch_for_leaks(config: RunConfig, material: Material, device: torch.device, seconds: float, every: int) -> dict[str, Any]:
    """Trains for `seconds`, and returns the leak detector's verdict as JSON.

    Samples are taken at looks of the decode monitor, at least `every` steps apart.
    """
    with contextlib.closing(Detector()) as detector:
        until = UntilTime(seconds)
        trainer = material.trainer(config, device, [DecodeMonitor(), LeakMonitor(detector, every), until])
        clock = time.monotonic()
        trainer.run()
        judged = detector.latest
    return {
        "verdict": judged.verdict,
        "samples": judged.samples,
        "steps": until.steps,
        "seconds": time.monotonic() - clock,
        "meters": [meter.model_dump() for meter in judged.meters],
        "peak_rss": gauges.peak_rss_bytes(),
    }
