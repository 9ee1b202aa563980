"""The inbox of a run: orders that any thread puts in while the run trains, and that the training thread takes out."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from presets.control_commands import Arguments


@dataclass(frozen=True)
class Order:
    """A command of presets.control_commands for the training thread, and who gave it.

    The training thread calls `answer(step, error)` once.  `step` counts the steps done; it is None if the order was refused,
    and `error` then says why.  `answer` must not block.
    """

    command: str
    who: str
    answer: Callable[[int | None, str], None]
    arguments: Arguments = field(default_factory=Arguments)


class Inbox:
    """A queue of orders from other threads.  `wake` may also be called in a signal handler."""

    def __init__(self) -> None:
        self._orders: queue.SimpleQueue[Order | None] = queue.SimpleQueue()

    def put(self, order: Order) -> None:
        self._orders.put(order)

    def wake(self) -> None:
        """Lets `wait` return without an order."""
        self._orders.put(None)

    def waiting(self) -> Iterator[Order]:
        """Yields the orders that are there now, without waiting for more."""
        while True:
            try:
                order = self._orders.get_nowait()
            except queue.Empty:
                return
            if order is not None:
                yield order

    def wait(self) -> Order | None:
        """Waits for the next order.  Returns None after `wake`."""
        return self._orders.get()
