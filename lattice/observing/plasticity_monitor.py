"""The plasticity monitor: reports what plasticity did, and warns if it can't do its work."""

from __future__ import annotations

from lattice.training.callbacks import Callback
from lattice.training.state import TrainingState
from monitors.events import Plastic


class PlasticityMonitor(Callback):
    """The callback that emits Plastic every `config.decode.every` steps, after discovery waves, and at the end of a stage.

    Each kind of warning comes once.  Counts that are not reported yet are not part of a checkpoint.  So the first event after a
    resume covers only the steps since the resume.
    """

    def __init__(self) -> None:
        self._warned: set[str] = set()

    def after_waves(self, state: TrainingState) -> None:
        self._report(state)

    def after_step(self, state: TrainingState) -> None:
        if state.progress.step % state.config.decode.every == 0:
            self._report(state)

    def at_stage_end(self, state: TrainingState) -> None:
        self._report(state)

    def _report(self, state: TrainingState) -> None:
        plasticity = state.model.lattice.plasticity if state.model.lattice is not None else None
        if plasticity is None:
            return
        if plasticity.spoilt:
            self._warn(state, "spoilt", f"plasticity left out {plasticity.spoilt} sentences whose states are not finite")
        busy, fields = plasticity.busy, plasticity.report()
        if fields is None:
            return
        threshold = f"stages.{state.progress.stage}.activity_threshold"
        if fields["active_share"] == 0:
            self._warn(state, "silent", f"no cell fires, so nothing is learned by plasticity; lower {threshold}")
        elif busy and plasticity.settings.rule == "stdp":
            self._warn(state, "busy", f"nearly every cell fires in every tick, so timing says nothing; raise {threshold}")
        state.tell(Plastic(**state.here, **fields))

    def _warn(self, state: TrainingState, kind: str, message: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            state.warn(message)
