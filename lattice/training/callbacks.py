"""What hangs on the training loop: small pieces with their own state, called at the moments below."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from lattice.training.state import TrainingState
from monitors.events import AnyEvent


class Callback:
    """Override what is needed."""

    def on_event(self, event: AnyEvent) -> None:
        """Something happened; every event of the run comes by here once."""

    def after_waves(self, state: TrainingState) -> None:
        """A stage's discovery waves are done; its first optimizer step is yet to come."""

    def after_step(self, state: TrainingState) -> None:
        """An optimizer step is done (or was skipped as bad); weights stand still until this returns."""

    def at_stage_end(self, state: TrainingState) -> None:
        """The stage's last step is done; the next stage's model does not exist yet."""

    def after_look(self, state: TrainingState, change: torch.Tensor | None) -> None:
        """The decode monitor has looked, at the end of a finished run also once more.

        `change` [X, Y, Z] is by how much each cell's state changed in the last tick (TextLattice.change).
        """

    def on_command(self, state: TrainingState, command: str) -> None:
        """The operator asks for `command` now, between two steps.  Raises steering.Refused saying why not."""


class Callbacks(Callback):
    """Several callbacks as one, called in their order."""

    def __init__(self, callbacks: Iterable[Callback]) -> None:
        self._all = list(callbacks)

    def append(self, callback: Callback) -> None:
        """One more, called after all others."""
        self._all.append(callback)

    def on_event(self, event: AnyEvent) -> None:
        for callback in self._all:
            callback.on_event(event)

    def after_waves(self, state: TrainingState) -> None:
        for callback in self._all:
            callback.after_waves(state)

    def after_step(self, state: TrainingState) -> None:
        for callback in self._all:
            callback.after_step(state)

    def at_stage_end(self, state: TrainingState) -> None:
        for callback in self._all:
            callback.at_stage_end(state)

    def after_look(self, state: TrainingState, change: torch.Tensor | None) -> None:
        for callback in self._all:
            callback.after_look(state, change)

    def on_command(self, state: TrainingState, command: str) -> None:
        for callback in self._all:
            callback.on_command(state, command)
