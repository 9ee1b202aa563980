"""Tells what plasticity did: a `plastic` event whenever the decode monitor looks, and a warning where it can't do its work."""

from __future__ import annotations

from lattice.training.callbacks import Callback
from lattice.training.trainer import Trainer
from monitors.events import Plastic, Warned


class PlasticityMonitor(Callback):
    """Reports every `config.decode.every` steps, after discovery and at the end of a stage; each kind of warning comes once.

    What was not yet reported is not part of a checkpoint: the first event after a resume covers the steps since then.
    """

    def __init__(self) -> None:
        self._warned: set[str] = set()

    def after_waves(self, trainer: Trainer) -> None:
        self._report(trainer)

    def after_step(self, trainer: Trainer) -> None:
        if trainer.progress.step % trainer.config.decode.every == 0:
            self._report(trainer)

    def at_stage_end(self, trainer: Trainer) -> None:
        self._report(trainer)

    def _report(self, trainer: Trainer) -> None:
        plasticity = trainer.model.lattice.plasticity if trainer.model.lattice is not None else None
        if plasticity is None:
            return
        if plasticity.spoilt:
            self._warn(trainer, "spoilt", f"plasticity left out {plasticity.spoilt} sentences whose states are not finite")
        busy, fields = plasticity.busy, plasticity.report()
        if fields is None:
            return
        threshold = f"stages.{trainer.progress.stage}.activity_threshold"
        if fields["active_share"] == 0:
            self._warn(trainer, "silent", f"no cell fires, so nothing is learned by plasticity; lower {threshold}")
        elif busy and plasticity.settings.rule == "stdp":
            self._warn(trainer, "busy", f"nearly every cell fires in every tick, so timing says nothing; raise {threshold}")
        trainer.emit(Plastic(step=trainer.progress.step, stage=trainer.progress.stage, **fields))

    def _warn(self, trainer: Trainer, kind: str, message: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            trainer.emit(Warned(step=trainer.progress.step, stage=trainer.progress.stage, message=message))
