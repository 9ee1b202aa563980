"""The callback that saves checkpoints: every `checkpoint.every` steps, at the end of every stage, and on command.

It also marks the saved checkpoint with the best score so far, by the measure of the run; ties are decided (presets.measure).
"""

from __future__ import annotations

import time
from pathlib import Path

from lattice.training import checkpoint
from lattice.training.callbacks import Callback
from lattice.training.health import not_finite
from lattice.training.state import TrainingState
from lattice.training.steering import Refused
from monitors.events import AnyEvent, Decoded, Saved


class Checkpointer(Callback):
    """Saves checkpoints into `folder`; `fingerprint` says which data the run trains on.

    If a save fails, training goes on with a warning, and earlier checkpoints stay.  Weights are never saved if not finite.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._folder, self._fingerprint = folder, fingerprint
        self._look: Decoded | None = None
        self._saved: list[Path] = []  # the newest that this process has saved
        self.failure: str | None = None
        """Why the latest save failed; None if it did not."""

    def move(self, folder: Path) -> None:
        """Saves into another folder from now on, because the run folder was moved."""
        self._folder = folder

    def on_event(self, event: AnyEvent) -> None:
        if isinstance(event, Decoded):
            self._look = event

    def after_step(self, state: TrainingState) -> None:
        progress = state.progress
        # at_stage_end saves the last step of a stage, together with the reason why the stage ended.
        last_of_stage = progress.stage_step == state.stage.steps and not progress.held
        if progress.step % state.config.checkpoint.every == 0 and not last_of_stage:
            self.save(state)

    def at_stage_end(self, state: TrainingState) -> None:
        self.save(state)

    def on_command(self, state: TrainingState, command: str) -> None:
        if command == "checkpoint":
            self.save(state)
            if self.failure:
                raise Refused(f"checkpoint not saved: {self.failure}")

    def save(self, state: TrainingState) -> None:
        """Saves now.  Emits Saved, or Warned with the reason why nothing was saved."""
        clock, progress = time.perf_counter(), state.progress
        model, optimizer = state.tensors()
        if broken := not_finite(model) or not_finite(optimizer):
            self.failure = broken
            state.in_trouble(broken)
            state.warn(f"checkpoint not saved: {broken}")
            return
        rest = state.as_json() | {"data": self._fingerprint}
        try:
            path, size = checkpoint.save(self._folder, progress.step, model, optimizer, rest, state.tokenizer.to_json())
            # A checkpoint can be the best one only if it is of the step that was scored.
            look = self._look
            best = look is not None and look.step == progress.step
            if look is not None and best:
                best = checkpoint.mark_best(self._folder, path, look.score, look.measure, look.ties)
            keep = state.config.checkpoint.keep
            self._saved = [*(saved for saved in self._saved if saved != path), path][-keep:]
            checkpoint.retire(self._folder, keep, self._saved)
        except (checkpoint.CheckpointError, OSError) as error:
            self.failure = str(error)
            state.warn(f"checkpoint not saved: {error}")
            return
        self.failure, seconds = None, time.perf_counter() - clock
        progress.note_save(seconds)
        state.tell(Saved(path=path.name, seconds=seconds, bytes=size, best=best, **state.here))
