"""The thread that sends an operator's commands to the engine, one after another, and posts each answer.

It is a plain thread and not a Textual worker: the program would wait for a worker before it ends, and an answer comes only at
the end of a training step.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from app.tui.messages import CommandAnswered
from app.wire.client import who
from monitors.runs import RunFolder

TIMEOUT_S = 60.0
"""How long an answer is waited for."""


@dataclass(frozen=True)
class SentCommand:
    """A command with its arguments, its number on this screen, and the words in which the screen shows it."""

    number: int
    command: str
    args: dict[str, Any]
    words: str


class CommandSender(threading.Thread):
    """Sends commands until `close`, which does not wait for an answer.  `post` must be safe to call from a thread."""

    def __init__(self, folder: RunFolder, post: Callable[[CommandAnswered], object]) -> None:
        super().__init__(name=f"command sender of {folder.name}", daemon=True)
        self._folder, self._post = folder, post
        self._waiting: queue.SimpleQueue[SentCommand | None] = queue.SimpleQueue()
        self._who = f"{who()}, TUI"

    def send(self, command: SentCommand) -> None:
        """Puts the command behind those that still wait."""
        self._waiting.put(command)

    def close(self) -> None:
        """Ends the thread after the commands that still wait."""
        self._waiting.put(None)

    def run(self) -> None:
        while (command := self._waiting.get()) is not None:
            self._post(self._answer(command))

    def _answer(self, command: SentCommand) -> CommandAnswered:
        from app.wire.client import ClientError, send

        try:
            reply = send(self._folder, command.command, command.args, self._who, TIMEOUT_S)
        except ClientError as error:
            return CommandAnswered(command.number, False, None, str(error))
        return CommandAnswered(command.number, reply.ok, reply.step, reply.error)
