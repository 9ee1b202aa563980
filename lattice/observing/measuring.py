"""Records what every stage really took, so that later plans on this machine can learn from it (monitors.measured)."""

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
from monitors.measured import StageRecord, add, machine_key

FEWEST = 3
"""Fewest steps of a stage that is recorded.  The first step also sets up and compiles, so it must not be the only one."""

NEWEST = 101
"""The step time is the median of this many newest steps."""


class Measuring(Callback):
    """The callback that adds a record to the file `path` at the end of a stage.

    Only the peak of the whole process is known.  So a stage is recorded only if none before it was planned larger.
    If the file can't be written, Warned is emitted.
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


def measured(state: TrainingState, step_s: list[float]) -> StageRecord:
    """The record of the current stage: `step_s` are the seconds of its steps, and the peak is that of the process until now."""
    training = state.config.training.model_copy(
        update={"micro_batch": state.micro_batch, "checkpoint_ticks": state.checkpoint_ticks}
    )
    taken = state.planning(state.config.model_copy(update={"training": training}))[state.progress.stage]
    return StageRecord(
        machine=machine_key(device_name(state.device)),
        features=taken.features,
        peak_bytes=torch_memory.most_held(state.device),
        step_s=statistics.median(step_s),
        steps=len(step_s),
        at=time.time(),
    )


def device_name(device: torch.device) -> str:
    """The name of a GPU as its driver gives it, or "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
