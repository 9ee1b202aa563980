"""Messages about what has happened outside the screens.  Threads post them and never touch a widget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from textual.message import Message

if TYPE_CHECKING:
    from app.tui.snapshot import View


@dataclass
class SnapshotRead(Message):
    """The reader has a newer view of the run."""

    view: View


@dataclass
class CommandAnswered(Message):
    """The engine applied a command at `step`, or refused it because of `error`."""

    number: int
    ok: bool
    step: int | None
    error: str


@dataclass
class RunsListed(Message):
    """The rows of monitors.runs.list_runs, or the reason why they could not be read."""

    rows: tuple[dict[str, Any], ...]
    trouble: str = ""


@dataclass
class RunChosen(Message):
    """The operator wants to see the run in this folder."""

    path: str


@dataclass
class RunLaunched(Message):
    """A new run has started and has a folder."""

    path: str


@dataclass
class LaunchFailed(Message):
    reason: str
