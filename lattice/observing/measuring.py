"""Remembers what every stage really took, so that later plans on this machine can learn from it (monitors.measured)."""

from __future__ import annotations

import statistics
import time
from collections import deque
from pathlib import Path

import torch

from lattice.training.callbacks import Callback
from lattice.training.state import TrainingState
from monitors import torch_memory
from monitors.events import AnyEvent, StageStarted, Trained
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

    def at_stage_end(self, state: TrainingState) -> None:
        before, self._largest = self._largest, max(self._largest, state.plan.total_bytes)
        if len(self._step_s) < FEWEST or state.plan.total_bytes < before:
            return
        try:
            add(self._path, measured(state, list(self._step_s)))
        except OSError as error:
            state.warn(f"what this stage took can't be remembered: {self._path}: {error.strerror or error}")


def measured(state: TrainingState, step_s: list[float]) -> Measured:
    """What the stage of a trainer took: seconds of its steps, and the peak until now."""
    training = state.config.training.model_copy(
        update={"micro_batch": state.micro_batch, "checkpoint_ticks": state.checkpoint_ticks}
    )
    taken = state.planning(state.config.model_copy(update={"training": training}))[state.progress.stage]
    return Measured(
        machine=machine_key(device_name(state.device)),
        features=taken.features,
        peak_bytes=torch_memory.most_held(state.device),
        step_s=statistics.median(step_s),
        steps=len(step_s),
        at=time.time(),
    )


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
