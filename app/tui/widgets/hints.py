"""A line of keys and what they do.  A click on a key does it, too."""

from __future__ import annotations

from collections.abc import Iterable

from rich.style import Style
from rich.text import Text
from textual import events
from textual.widgets import Static

from app.tui.keys import Key

_ACTION = "key_action"
"""The name under which a part of the text has the action of its key."""


class Hints(Static):
    """Shows texts made by `hint_text` or `part`."""

    async def on_click(self, event: events.Click) -> None:
        if action := event.style.meta.get(_ACTION):
            event.stop()
            await self.screen.run_action(action)


def part(shown: str, words: str, action: str, style: str = "") -> Text:
    """One key and its words, in `style`, with what a click on them does."""
    text = Text.assemble((shown, "bold cyan"), (f" {words}", style))
    text.stylize(Style(meta={_ACTION: action}))
    return text


def hint_text(keys: Iterable[Key], width: int) -> Text:
    """As many keys as there is room for."""
    text = Text()
    for key in keys:
        one = part(key.shown, key.hint, key.action)
        if text.cell_len + one.cell_len + 2 > width:
            break
        text.append_text(one).append("  ")
    return text
