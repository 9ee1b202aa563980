"""The base of all panels: a titled box that shows lines made from the newest view, and scrolls through them.

A panel never reads anything itself: the screen gives it a view, the view's watcher makes lines, render shows some of them.
"""

from __future__ import annotations

from typing import ClassVar

from rich.console import Console
from rich.text import Text
from textual import events
from textual.message import Message
from textual.reactive import reactive
from textual.widget import Widget

from app.tui.snapshot import View

_MEASURE = Console(width=80, color_system=None)
"""Text.wrap wants a console for its defaults; nothing is printed on it."""


class Panel(Widget):
    """Subclasses make `lines`; with `sticks_to_end` the newest are shown until the operator scrolls back."""

    heading: ClassVar[str] = ""
    sticks_to_end: ClassVar[bool] = False
    indent: ClassVar[int] = 2
    """Of what is left of a line that is too long for the panel."""

    view: reactive[View | None] = reactive(None, always_update=True)
    plain: reactive[bool] = reactive(False)
    """Draw with ASCII characters only."""

    class Clicked(Message):
        """The mouse chose this panel."""

        def __init__(self, panel: Panel) -> None:
            super().__init__()
            self.panel = panel

    def __init__(self, number: int, **options: object) -> None:
        super().__init__(**options)
        self.number = number
        self._top: int | None = None  # None: the end where it sticks there, else the start
        self._made: list[Text] = []

    def lines(self, view: View, width: int) -> list[Text]:
        """What the panel says, a line each; longer ones are wrapped."""
        raise NotImplementedError

    def note(self) -> str:
        """A word beside the title."""
        return ""

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
        self._made = [part for line in self.lines(self.view, width) for part in wrapped(line, width, self.indent)]
        self.retitle()
        self.refresh()

    def retitle(self) -> None:
        room, count = self.content_size.height, len(self._made)
        parts = [f"{self.number} {self.heading}", self.note()]
        if count > room > 0:
            top = self._first()
            parts.append(f"{top + 1}-{min(top + room, count)} of {count}")
        self.border_title = Text(" | ".join(part for part in parts if part)).plain.replace("[", r"\[")

    def scroll_lines(self, by: int) -> None:
        """Moves by so many lines; at the end of a panel that sticks there, it sticks again."""
        last = max(0, len(self._made) - self.content_size.height)
        top = min(max(self._first() + by, 0), last)
        self._top = None if self.sticks_to_end and top == last else top
        self.retitle()
        self.refresh()

    def show_line(self, line: int) -> None:
        """Scrolls so that the line is seen, a third of the way down."""
        self._top = min(max(line - self.content_size.height // 3, 0), max(0, len(self._made) - self.content_size.height))
        self.retitle()
        self.refresh()

    def _first(self) -> int:
        last = max(0, len(self._made) - self.content_size.height)
        if self._top is None:
            return last if self.sticks_to_end else 0
        return min(self._top, last)

    def render(self) -> Text:
        first = self._first()
        shown = self._made[first : first + max(1, self.content_size.height)]
        return Text("\n", no_wrap=True, overflow="crop", end="").join(shown)

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


def bar(share: float, width: int, plain: bool) -> str:
    """A bar of `width` characters, filled to a share 0..1."""
    full = round(min(max(share, 0.0), 1.0) * width)
    return ("#" if plain else "█") * full + ("." if plain else "░") * (width - full)
