"""What an engine writes of its run while it trains: the event log, and `run.json`.

The record looks before each event whether the run folder is still where it was.  If it was moved, the record follows, and has
all others follow that write into the folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from app.wire.feed import Feed
from lattice.training.callbacks import Callback
from lattice.training.progress import Progress
from lattice.training.state import TrainingState
from monitors import torch_memory
from monitors.event_log import EventLog
from monitors.events import AnyEvent, Edited, StageStarted
from monitors.held_folder import HeldFolder
from monitors.runs import RunInfo

INFO_EVERY_S = 1.0
"""Least seconds between two writes of `run.json` at the end of steps."""


def standing(progress: Progress) -> dict[str, float | None]:
    """What `run.json` says of the progress of training."""
    names = ("stage", "step", "bleu", "exact", "loss", "elapsed_s", "cpu_s", "saving_s")
    return {name: getattr(progress, name) for name in names}


class Record(Callback):
    """The callback that writes the event log, passes events on to viewers, and keeps `run.json` up to date."""

    def __init__(self, held: HeldFolder, log: EventLog, info: RunInfo, feed: Feed) -> None:
        self._held, self._folder, self._log, self.info, self._feed = held, held.folder, log, info, feed
        self._written = 0.0
        self._told_path = held.folder.path
        self.when_moved: Callable[[], str | None] = lambda: info.socket
        """A function that has others follow a folder that was moved.  It returns the path of the socket then."""

    def on_event(self, event: AnyEvent) -> None:
        """Writes the event.  Raises RunFolderError if the run folder is gone."""
        if moved := self._moved():
            self.update(**moved)
        self._feed.publish(self._log.append(event))
        if isinstance(event, StageStarted):
            self.update(state="running", stage=event.stage, step=event.step)
        if isinstance(event, Edited) and event.key == "paused":
            self.update(state="paused" if event.new else "running", step=event.step)

    def follow_folder(self, state: TrainingState) -> bool:
        """Emits Warned and returns True if the run folder was moved since the last call.

        Raises RunFolderError if it is gone.
        """
        if moved := self._moved():
            self.update(**moved)
        if self._folder.path == self._told_path:
            return False
        before, self._told_path = self._told_path, self._folder.path
        state.warn(f"the run folder was moved from {before} to {self._folder.path}; the run goes on there")
        return True

    def _moved(self) -> dict[str, object]:
        """What `run.json` has to say if the run folder was moved; empty if not."""
        return {"run": self._folder.name, "socket": self.when_moved()} if self._held.follow() else {}

    def after_step(self, state: TrainingState) -> None:
        self.follow_folder(state)
        if time.monotonic() - self._written >= INFO_EVERY_S:
            self.follow(state)

    def at_stage_end(self, state: TrainingState) -> None:
        self.follow(state)

    def follow(self, training: TrainingState, **changes: object) -> None:
        """Writes the progress of training, and `changes`, into `run.json`."""
        progress = training.progress
        self.update(**standing(progress), peak_bytes=torch_memory.most_reserved(training.device), **changes)

    def update(self, **changes: object) -> None:
        """Changes fields of `run.json` and writes it.  Raises RunFolderError if the run folder is gone."""
        self.info = self.info.model_copy(update=self._moved() | changes)
        self._folder.write_info(self.info)
        self._written = time.monotonic()
