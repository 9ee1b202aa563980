"""Commands on their way to the engine: one thread sends them in order and posts each answer.

Not a Textual worker: leaving the program would wait for that, and an answer waits for the end of a training step.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from app.commands.control import who
from app.tui.messages import CommandAnswered
from monitors.runs import RunFolder

TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Order:
    """A command, what it says on the screen, and its number among this screen's."""

    number: int
    command: str
    args: dict[str, Any]
    words: str


class Steering(threading.Thread):
    """Sends until `close`, which does not wait for an answer under way.  `post` must be safe to call from a thread."""

    def __init__(self, folder: RunFolder, post: Callable[[CommandAnswered], object]) -> None:
        super().__init__(name=f"steering {folder.name}", daemon=True)
        self._folder, self._post = folder, post
        self._orders: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
        self._who = f"{who()}, TUI"

    def order(self, order: Order) -> None:
        self._orders.put(order)

    def close(self) -> None:
        self._orders.put(None)

    def run(self) -> None:
        while (order := self._orders.get()) is not None:
            self._post(self._answer(order))

    def _answer(self, order: Order) -> CommandAnswered:
        from app.wire.client import ClientError, send

        try:
            reply = send(self._folder, order.command, order.args, self._who, TIMEOUT_S)
        except ClientError as error:
            return CommandAnswered(order.number, False, None, str(error))
        return CommandAnswered(order.number, reply.ok, reply.step, reply.error)
