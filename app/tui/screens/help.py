"""The help overlay: all keys of a screen, made from its table of keys."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import Static

from app.tui.keys import Key
from app.tui.screens.dialogs import Dialog


class Help(Dialog[None]):
    """The overlay.  It scrolls; escape, q and ? close it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,question_mark,f1,enter", "dismiss(None)", "close", show=False)]

    def __init__(self, keys: tuple[Key, ...], read_only: bool = False) -> None:
        super().__init__()
        self._keys, self._read_only = keys, read_only

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="dialog help"):
            yield Static(help_text(self._keys, self._read_only))


def help_text(keys: tuple[Key, ...], read_only: bool = False) -> Text:
    """The keys by group, in the order of the table."""
    text = Text("Keys (esc closes, arrows scroll)\n", "bold")
    for group in dict.fromkeys(key.group for key in keys):
        members = [key for key in keys if key.group == group]
        off = " (off: read-only)" if read_only and any(key.steers for key in members) else ""
        text.append(f"\n{group}{off}\n", "bold")
        for key in members:
            text.append(f"  {key.shown:<11}", "cyan").append(f"{key.does}\n")
    return text
