"""The base of all panels: a box with a title that shows lines made from the newest view, and scrolls through them.

A panel never reads anything itself.  The screen gives it a view, and the watcher of the view makes lines.  Only the parts of
the lines that differ from those on the screen are drawn again, since drawing is most of what a panel costs over SSH.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import ClassVar

from rich.console import Console
from rich.text import Text
from textual import events
from textual.geometry import Region
from textual.message import Message
from textual.reactive import reactive
from textual.strip import Strip
from textual.widget import Widget

from app.tui.snapshot import View

_MEASURE = Console(width=80, color_system=None, emoji=False)
"""Rich wants a console for its defaults; nothing is printed on it."""


class Panel(Widget):
    """Subclasses make `lines`.  With `sticks_to_end` the last lines are shown until the operator scrolls back."""

    heading: ClassVar[str] = ""
    sticks_to_end: ClassVar[bool] = False
    indent: ClassVar[int] = 2
    """Indent of the rest of a line that is too long for the panel."""

    view: reactive[View | None] = reactive(None, always_update=True, repaint=False)
    plain: reactive[bool] = reactive(False, repaint=False)
    """Draw with ASCII characters only."""

    class Clicked(Message):
        """This panel was clicked."""

        def __init__(self, panel: Panel) -> None:
            super().__init__()
            self.panel = panel

    def __init__(self, number: int, id: str | None = None) -> None:
        super().__init__(id=id)
        self.number = number
        self._top: int | None = None  # None: the end where it sticks there, else the start
        self._made: list[Text] = []
        self._title = ""

    def lines(self, view: View, width: int) -> list[Text]:
        """The lines of the panel.  Those longer than `width` are wrapped."""
        raise NotImplementedError

    def note(self) -> str:
        """A word beside the title."""
        return ""

    @property
    def has_lines(self) -> bool:
        """Whether the panel has had a view and a size."""
        return bool(self._made)

    def watch_view(self) -> None:
        self.remake()

    def watch_plain(self) -> None:
        self.remake()

    def on_resize(self) -> None:
        self.remake()

    def remake(self) -> None:
        width = self.content_size.width
        if self.view is None or width <= 0 or not self.display:
            return
        before = self._shown()
        self._made = [part for line in self.lines(self.view, width) for part in wrapped(line, width, self.indent)]
        self.retitle()
        self._redraw(before)

    def retitle(self) -> None:
        room, count = self.content_size.height, len(self._made)
        parts = [f"{self.number} {self.heading}", self.note()]
        if count > room > 0:
            top = self._first()
            parts.append(f"{top + 1}-{min(top + room, count)} of {count}")
        title = " | ".join(part for part in parts if part)
        if title != self._title:  # setting it draws the whole panel, also when it is the same
            self._title = title
            self.border_title = title.replace("[", r"\[")

    def scroll_lines(self, by: int) -> None:
        """Scrolls by this many lines.  A panel that sticks to its end does so again when it gets there."""
        last = max(0, len(self._made) - self.content_size.height)
        top, before = min(max(self._first() + by, 0), last), self._shown()
        self._top = None if self.sticks_to_end and top == last else top
        self.retitle()
        self._redraw(before)

    def show_line(self, line: int) -> None:
        """Scrolls so that the line stands a third of the way down."""
        before = self._shown()
        self._top = min(max(line - self.content_size.height // 3, 0), max(0, len(self._made) - self.content_size.height))
        self.retitle()
        self._redraw(before)

    def _first(self) -> int:
        last = max(0, len(self._made) - self.content_size.height)
        if self._top is None:
            return last if self.sticks_to_end else 0
        return min(self._top, last)

    def _shown(self) -> list[Text]:
        first = self._first()
        return self._made[first : first + self.content_size.height]

    def _redraw(self, before: list[Text]) -> None:
        """Draws again only what has changed."""
        after, width = self._shown(), self.content_size.width
        regions = []
        for y in range(max(len(before), len(after))):
            old, new = (lines[y] if y < len(lines) else Text() for lines in (before, after))
            if changed := difference(old, new, width):
                regions.append(Region(changed[0], y, changed[1] - changed[0], 1))
        if regions:
            self.refresh(*regions)

    def render_line(self, y: int) -> Strip:
        shown, width, style = self._shown(), self.content_size.width, self.rich_style
        if y >= len(shown):
            return Strip.blank(width, style)
        return Strip(shown[y].render(_MEASURE)).apply_style(style).adjust_cell_length(width, style)

    def on_click(self) -> None:
        self.post_message(self.Clicked(self))

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        event.stop()
        self.scroll_lines(3)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        event.stop()
        self.scroll_lines(-3)


def wrapped(text: Text, width: int, indent: int) -> list[Text]:
    """The text in lines of at most `width` characters, all but the first indented."""
    if text.cell_len <= width:
        return [text]
    first = text.wrap(_MEASURE, max(8, width))[0]
    rest = text[len(first.plain) :]
    rest = rest[len(rest.plain) - len(rest.plain.lstrip()) :]
    first.rstrip()
    lines = [Text(" " * indent).append_text(line) for line in rest.wrap(_MEASURE, max(8, width - indent))]
    for line in lines:
        line.rstrip()
    return [first, *lines]


def prose(said: str, width: int) -> list[Text]:
    """A sentence about what is not there, in lines without the indent of rows."""
    return [Text(line, "dim") for line in textwrap.wrap(said, max(8, width))]


def difference(old: Text, new: Text, width: int) -> tuple[int, int] | None:
    """The columns from `first` up to `end` in which two lines differ; None if they are equal.  All columns if styles moved."""
    if old == new:
        return None
    a, b = old.plain, new.plain
    if old.spans != new.spans or len(a) != len(b) or old.cell_len != len(a) or new.cell_len != len(b):
        return 0, width
    differing = [x for x, (one, other) in enumerate(zip(a, b, strict=True)) if one != other]
    return (differing[0], differing[-1] + 1) if differing else (0, width)


def bar(share: float, width: int, plain: bool) -> str:
    """A bar of `width` characters, filled to a share 0..1."""
    full = round(min(max(share, 0.0), 1.0) * width)
    return ("#" if plain else "█") * full + ("." if plain else "░") * (width - full)


def spark(values: Sequence[float], width: int, plain: bool) -> str:
    """At most `width` columns, whose heights reach from nothing to the highest value.  If there are more values than columns, a
    column shows the highest of its neighbours.

    Only a value of 0 is a blank.
    """
    ramp = " .:-=+*#%@" if plain else " ▁▂▃▄▅▆▇█"
    most, count = max(values, default=0), min(width, len(values))
    if most <= 0:
        return ""
    highest = [max(values[i * len(values) // count : (i + 1) * len(values) // count]) for i in range(count)]
    return "".join(ramp[math.ceil(max(value, 0) / most * (len(ramp) - 1))] for value in highest)
