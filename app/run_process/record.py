"""What an engine writes of its run while it trains: the event log, and `run.json`."""

from __future__ import annotations

import time

from app.wire.feed import Feed
from lattice.training.callbacks import Callback
from lattice.training.progress import Progress
from lattice.training.state import TrainingState
from monitors import torch_memory
from monitors.event_log import EventLog
from monitors.events import AnyEvent, Edited, StageStarted
from monitors.runs import RunFolder, RunInfo

INFO_EVERY_S = 1.0
"""Least seconds between two writes of `run.json` at the end of steps."""


def standing(progress: Progress) -> dict[str, float | None]:
    """What `run.json` says of the progress of training."""
    names = ("stage", "step", "bleu", "exact", "loss", "elapsed_s", "cpu_s", "saving_s")
    return {name: getattr(progress, name) for name in names}


class Record(Callback):
    """The callback that writes the event log, passes events on to viewers, and keeps `run.json` up to date."""

    def __init__(self, folder: RunFolder, log: EventLog, info: RunInfo, feed: Feed) -> None:
        self._folder, self._log, self.info, self._feed = folder, log, info, feed
        self._written = 0.0

    def on_event(self, event: AnyEvent) -> None:
        self._feed.publish(self._log.append(event))
        if isinstance(event, StageStarted):
            self.update(state="running", stage=event.stage, step=event.step)
        if isinstance(event, Edited) and event.key == "paused":
            self.update(state="paused" if event.new else "running", step=event.step)

    def after_step(self, state: TrainingState) -> None:
        if time.monotonic() - self._written >= INFO_EVERY_S:
            self.follow(state)

    def at_stage_end(self, state: TrainingState) -> None:
        self.follow(state)

    def follow(self, training: TrainingState, **changes: object) -> None:
        """Writes the progress of training, and `changes`, into `run.json`."""
        progress = training.progress
        self.update(**standing(progress), peak_bytes=torch_memory.most_reserved(training.device), **changes)

    def update(self, **changes: object) -> None:
        """Changes fields of `run.json` and writes it."""
        self.info = self.info.model_copy(update=changes)
        self._folder.write_info(self.info)
        self._written = time.monotonic()
