"""Saves the run every so many steps and at the end of every stage; marks the saved checkpoint with the best BLEU so far."""

from __future__ import annotations

import time
from pathlib import Path

from lattice.training import checkpoint
from lattice.training.callbacks import Callback
from lattice.training.health import not_finite
from lattice.training.steering import Refused
from lattice.training.trainer import Trainer
from monitors.events import AnyEvent, Decoded, Saved, Warned


class Checkpointer(Callback):
    """A save that fails is a warning while training goes on: the checkpoints that stand stay.

    Weights that are not finite are never saved.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._folder, self._fingerprint = folder, fingerprint
        self._look: Decoded | None = None
        self.failure: str | None = None
        """Why the latest save failed, if it did."""

    def on_event(self, event: AnyEvent) -> None:
        if isinstance(event, Decoded):
            self._look = event

    def after_step(self, trainer: Trainer) -> None:
        progress = trainer.progress
        # The last one of a stage is saved by at_stage_end, with the reason why it ended.
        last_of_stage = progress.stage_step == trainer.stage.steps and not progress.held
        if progress.step % trainer.config.checkpoint.every == 0 and not last_of_stage:
            self.save(trainer)

    def at_stage_end(self, trainer: Trainer) -> None:
        self.save(trainer)

    def on_command(self, trainer: Trainer, command: str) -> None:
        if command == "checkpoint":
            self.save(trainer)
            if self.failure:
                raise Refused(f"checkpoint not saved: {self.failure}")

    def save(self, trainer: Trainer) -> None:
        """Saves now; emits Saved, or Warned with the reason why not."""
        clock, progress = time.perf_counter(), trainer.progress
        here = {"step": progress.step, "stage": progress.stage}
        model, optimizer = trainer.tensors()
        if broken := not_finite(model) or not_finite(optimizer):
            self.failure = trainer.trouble = broken
            trainer.emit(Warned(message=f"checkpoint not saved: {broken}", **here))
            return
        state = trainer.state() | {"data": self._fingerprint}
        try:
            path, size = checkpoint.save(self._folder, progress.step, model, optimizer, state, trainer.tokenizer.to_json())
            # Only a checkpoint of the very step that was scored can be the best one.
            best = self._look is not None and self._look.step == progress.step
            best = best and checkpoint.mark_best(self._folder, path, self._look.bleu)
            checkpoint.retire(self._folder, trainer.config.checkpoint.keep)
        except (checkpoint.CheckpointError, OSError) as error:
            self.failure = str(error)
            trainer.emit(Warned(message=f"checkpoint not saved: {error}", **here))
            return
        self.failure, seconds = None, time.perf_counter() - clock
        progress.saving_s += seconds
        trainer.emit(Saved(path=path.name, seconds=seconds, bytes=size, best=best, **here))
