"""Remembers what every stage really took, so that later plans on this machine can learn from it (monitors.measured)."""

from __future__ import annotations

import statistics
import time
from collections import deque
from pathlib import Path

import torch

from lattice.training.callbacks import Callback
from lattice.training.trainer import Trainer
from monitors import gauges, torch_memory
from monitors.events import AnyEvent, StageStarted, Trained, Warned
from monitors.measured import Measured, add, machine_key

FEWEST = 3
"""Steps of a stage that a measurement is taken from; the first one, which sets up and compiles, is no more than one of them."""

NEWEST = 101
"""Steps whose median counts."""


class Measuring(Callback):
    """Adds a record at the end of each stage of this process.

    The peak is known of the whole process only, so a stage is recorded where it is the largest so far.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._step_s: deque[float] = deque(maxlen=NEWEST)
        self._largest = 0

    def on_event(self, event: AnyEvent) -> None:
        if isinstance(event, StageStarted):
            self._step_s.clear()
        elif isinstance(event, Trained):
            self._step_s.append(event.step_s)

    def at_stage_end(self, trainer: Trainer) -> None:
        before, self._largest = self._largest, max(self._largest, trainer.plan.total_bytes)
        if len(self._step_s) < FEWEST or trainer.plan.total_bytes < before:
            return
        try:
            add(self._path, measured(trainer, list(self._step_s)))
        except OSError as error:
            why = f"what this stage took can't be remembered: {self._path}: {error.strerror or error}"
            trainer.emit(Warned(step=trainer.progress.step, stage=trainer.progress.stage, message=why))


def measured(trainer: Trainer, step_s: list[float]) -> Measured:
    """What the stage of a trainer took: seconds of its steps, and the peak until now."""
    training = trainer.config.training.model_copy(
        update={"micro_batch": trainer.micro_batch, "checkpoint_ticks": trainer.checkpoint_ticks}
    )
    taken = trainer.planning(trainer.config.model_copy(update={"training": training}))[trainer.progress.stage]
    device = trainer.device
    peak = torch_memory.peak(device) if device.type == "cuda" else gauges.peak_rss_bytes()
    return Measured(
        machine=machine_key(device_name(device)),
        features=taken.features,
        peak_bytes=int(peak),
        step_s=statistics.median(step_s),
        steps=len(step_s),
        at=time.time(),
    )


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
