"""What hangs on the training loop: small pieces with their own state, called at the moments below."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monitors.events import AnyEvent

if TYPE_CHECKING:
    import torch

    from lattice.training.trainer import Trainer


class Callback:
    """Override what is needed; called in the order in which the trainer was given its callbacks."""

    def on_event(self, event: AnyEvent) -> None:
        """Something happened; every event of the run comes by here once."""

    def after_waves(self, trainer: Trainer) -> None:
        """A stage's discovery waves are done; its first optimizer step is yet to come."""

    def after_step(self, trainer: Trainer) -> None:
        """An optimizer step is done (or was skipped as bad); weights stand still until this returns."""

    def at_stage_end(self, trainer: Trainer) -> None:
        """The stage's last step is done; the next stage's model does not exist yet."""

    def after_look(self, trainer: Trainer, change: torch.Tensor | None) -> None:
        """The decode monitor has looked, at the end of a finished run also once more.

        `change` [X, Y, Z] is by how much each cell's state changed in the last tick (TextLattice.change).
        """

    def on_command(self, trainer: Trainer, command: str) -> None:
        """The operator asks for `decode` or `checkpoint` now, between two steps.  Raises steering.Refused saying why not."""
