"""What others ask of a run while it trains: orders, put in by any thread and taken out by the training thread."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from presets.control_commands import Arguments


@dataclass(frozen=True)
class Order:
    """A command of presets.control_commands for the training thread, and who gave it.

    `answer(step, error)` is called once by the training thread and must not block: steps done, or None and the reason.
    """

    command: str
    who: str
    answer: Callable[[int | None, str], None]
    arguments: Arguments = field(default_factory=Arguments)


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
