"""Steering a run while it trains: orders wait in an inbox and are applied between two steps, in the order in which they came.

Each applied order is an `edited` event and counts in `Progress.edits`; an order that can't be applied is refused with a
reason and changes nothing.  A pause is a wait for the next order, so that it costs nothing and ends at once.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from monitors.events import Edited
from presets.layers import ConfigError
from presets.live import edit
from presets.plan import explain

if TYPE_CHECKING:
    from lattice.training.trainer import Trainer

Scalar = bool | int | float | str | None


class Refused(Exception):
    """Why an order is not obeyed, in one sentence for the operator."""


@dataclass(frozen=True)
class Order:
    """`command` is set (with key and value), stage next | hold | release | goto (value: its number), pause, resume, decode,
    checkpoint or stop.

    `answer(step, error)` is called once by the training thread and must not block: steps done, or None and the reason.
    """

    command: str
    who: str
    answer: Callable[[int | None, str], None]
    key: str = ""
    value: Scalar = None


class Inbox:
    """Orders from other threads; `wake` is also safe in a signal handler."""

    def __init__(self) -> None:
        self._orders: queue.SimpleQueue[Order | None] = queue.SimpleQueue()

    def put(self, order: Order) -> None:
        self._orders.put(order)

    def wake(self) -> None:
        """Ends a wait without an order."""
        self._orders.put(None)

    def waiting(self) -> Iterator[Order]:
        """Those that are there by now."""
        while True:
            try:
                order = self._orders.get_nowait()
            except queue.Empty:
                return
            if order is not None:
                yield order

    def wait(self) -> Order | None:
        """The next one, or None after `wake`."""
        return self._orders.get()


class Steering:
    """Applies orders to a trainer."""

    def __init__(self) -> None:
        self.inbox = Inbox()
        self.paused = False

    def at_boundary(self, trainer: Trainer) -> None:
        """Between two steps: obeys what waits; while the run is paused, stays until it is resumed, stopped or sent on."""
        for order in self.inbox.waiting():
            self._obey(trainer, order)
        while self.paused and not trainer.stop_request:
            order = self.inbox.wait()
            if order is not None:
                self._obey(trainer, order)

    def _obey(self, trainer: Trainer, order: Order) -> None:
        try:
            _OBEY[order.command](self, trainer, order)
        except (Refused, ConfigError) as refusal:
            order.answer(None, "; ".join(str(refusal).split("\n")))
        else:
            order.answer(trainer.progress.step, "")

    def _log(self, trainer: Trainer, order: Order, key: str = "", old: Scalar = None, new: Scalar = None) -> None:
        trainer.progress.edits += 1
        here = {"step": trainer.progress.step, "stage": trainer.progress.stage}
        trainer.emit(Edited(who=order.who, command=order.command, key=key, old=old, new=new, **here))

    def _set(self, trainer: Trainer, order: Order) -> None:
        current = trainer.progress.stage
        config = edit(trainer.config, order.key, order.value, current)
        for planned in trainer.planning(config)[current:]:
            if not planned.fits:
                raise Refused(explain(planned))
        old, new = _value(trainer.config, order.key), _value(config, order.key)
        trainer.reconfigure(config)
        self._log(trainer, order, order.key, old, new)

    def _hold(self, trainer: Trainer, order: Order) -> None:
        if trainer.progress.held:
            raise Refused(f"stage {trainer.progress.stage} is held already")
        trainer.progress.held = True
        self._log(trainer, order, "held", False, True)

    def _release(self, trainer: Trainer, order: Order) -> None:
        if not trainer.progress.held:
            raise Refused(f"stage {trainer.progress.stage} is not held")
        trainer.progress.held = False
        self._log(trainer, order, "held", True, False)

    def _next(self, trainer: Trainer, order: Order) -> None:
        self._leave(trainer, order, trainer.progress.stage + 1)

    def _goto(self, trainer: Trainer, order: Order) -> None:
        target, current, count = order.value, trainer.progress.stage, len(trainer.config.stages)
        if not isinstance(target, int) or not current < target < count:
            later = f"stages {current + 1} to {count - 1} can be gone to" if current + 1 < count else "this is the last one"
            raise Refused(f"stage {target} does not come after stage {current}, and a lattice only grows; {later}")
        self._leave(trainer, order, target)

    def _leave(self, trainer: Trainer, order: Order, target: int) -> None:
        if trainer.progress.leave_for is not None:
            raise Refused(f"stage {trainer.progress.stage} is being left already")
        trainer.progress.leave_for = target
        self._log(trainer, order, "stage", trainer.progress.stage, target)
        self._go_on(trainer, order)

    def _pause(self, trainer: Trainer, order: Order) -> None:
        if self.paused:
            raise Refused("the run is paused already")
        self.paused = True
        self._log(trainer, order, "paused", False, True)

    def _resume(self, trainer: Trainer, order: Order) -> None:
        if not self.paused:
            raise Refused("the run is not paused")
        self._go_on(trainer, order)

    def _go_on(self, trainer: Trainer, order: Order) -> None:
        if self.paused:
            self.paused = False
            self._log(trainer, order, "paused", True, False)

    def _now(self, trainer: Trainer, order: Order) -> None:
        self._log(trainer, order)
        for callback in trainer.callbacks:
            callback.on_command(trainer, order.command)

    def _stop(self, trainer: Trainer, order: Order) -> None:
        self._log(trainer, order)
        trainer.stop_request = f"stopped by {order.who}"


_OBEY: dict[str, Callable[[Steering, Trainer, Order], None]] = {
    "set": Steering._set,
    "stage next": Steering._next,
    "stage hold": Steering._hold,
    "stage release": Steering._release,
    "stage goto": Steering._goto,
    "pause": Steering._pause,
    "resume": Steering._resume,
    "decode": Steering._now,
    "checkpoint": Steering._now,
    "stop": Steering._stop,
}


def _value(config: object, key: str) -> Scalar:
    for part in key.split("."):
        config = config[int(part)] if isinstance(config, tuple) else getattr(config, part)
    return config  # type: ignore[return-value]
