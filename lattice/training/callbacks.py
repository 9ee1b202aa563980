"""Callbacks of the training loop: small objects with a state of their own.  The loop calls them at the moments below."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from lattice.training.state import TrainingState
from monitors.events import AnyEvent


class Callback:
    """Base class of all callbacks.  Its methods do nothing; a subclass overrides the ones it needs."""

    def on_event(self, event: AnyEvent) -> None:
        """Is called once for every event of the run."""

    def after_waves(self, state: TrainingState) -> None:
        """Is called when a stage's discovery waves are done, before its first optimizer step."""

    def after_step(self, state: TrainingState) -> None:
        """Is called after every optimizer step, also after one that was skipped as bad.  Weights do not change meanwhile."""

    def at_stage_end(self, state: TrainingState) -> None:
        """Is called after the last step of a stage, before the model of the next stage exists."""

    def after_look(self, state: TrainingState, change: torch.Tensor | None) -> None:
        """Is called after every look of the decode monitor.  The end of a finished run brings one more look.

        `change` [X, Y, Z] says how much each cell's state changed in the last tick (TextLattice.change).  It is None if there
        is no lattice.
        """

    def on_command(self, state: TrainingState, command: str) -> None:
        """Is called between two steps when the operator asks for `command`.  Raises steering.Refused if it can't be done."""


class Callbacks(Callback):
    """Several callbacks that act as one.  They are called in the order of the list."""

    def __init__(self, callbacks: Iterable[Callback]) -> None:
        self._all = list(callbacks)

    def append(self, callback: Callback) -> None:
        """Adds a callback, which is called after all others."""
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
