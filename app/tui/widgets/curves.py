"""Charts of loss, BLEU or exact answers, chrF, learning rate and step time over the steps, as many as there is room for."""

from __future__ import annotations

import math

from rich.text import Text
from textual.reactive import reactive

from app import formats
from app.tui.braille import chart
from app.tui.series import smoothed
from app.tui.snapshot import CURVES, View
from app.tui.widgets.panel import Panel

LEAST_ROWS = 6
"""Least rows of a chart with its heading and its scale of steps.  With less room, fewer charts are shown."""

SMOOTHING = (0.0, 0.8, 0.95)
WINDOWS = (None, 1000, 200, 50)
LABEL = 8
"""Width of the values beside the chart, in characters."""

COLOURS = {
    "loss": "cyan", "held-out loss": "cyan", "BLEU": "green", "exact answers": "green", "chrF": "green",
    "learning rate": "yellow",
}  # fmt: skip


class CurvesPanel(Panel):
    heading = "Curves"

    log_scaled: reactive[bool] = reactive(False, repaint=False)
    smoothing: reactive[int] = reactive(0, repaint=False)
    window: reactive[int] = reactive(0, repaint=False)
    first: reactive[int] = reactive(0, repaint=False)
    """The number of the curve on top."""

    def watch_log_scaled(self) -> None:
        self.remake()

    def watch_smoothing(self) -> None:
        self.remake()

    def watch_window(self) -> None:
        self.remake()

    def watch_first(self) -> None:
        self.remake()

    def note(self) -> str:
        steps = WINDOWS[self.window]
        words = [f"last {steps} steps" if steps else "all steps", "log" if self.log_scaled else ""]
        words.append(("", "smooth", "very smooth")[self.smoothing])
        return ", ".join(word for word in words if word)

    def lines(self, view: View, width: int) -> list[Text]:
        curves = view.snapshot.curves
        recorded = [name for name in CURVES if curves[name]]
        if not recorded:
            return [Text("nothing measured yet; the first step is on its way")]
        last = max(curves[name].recent[-1].last for name in recorded)
        steps = WINDOWS[self.window]
        first = min(curves[name].whole[0].first for name in recorded)
        first, last = (max(first, last - steps + 1), last) if steps else round_axis(first, last)
        room = max(3, self.content_size.height)
        shown = min(len(recorded), max(1, room // LEAST_ROWS))
        start = self.first % len(recorded)
        names = (recorded[start:] + recorded[:start])[:shown]
        made: list[Text] = []
        for i, name in enumerate(names):
            made += self._chart(view, name, width, room * (i + 1) // shown - room * i // shown, first, last)
        return made

    def _chart(self, view: View, name: str, width: int, rows: int, first: int, last: int) -> list[Text]:
        series = view.snapshot.curves[name]
        spans = smoothed(series.window(WINDOWS[self.window]), SMOOTHING[self.smoothing])
        across, down = max(4, width - LABEL - 1), max(1, rows - 2)
        drawn, limits = chart(spans, across, down, first, last, self.log_scaled, self.plain)
        head = Text.assemble((f"{name} ", "bold"), (value(name, series.last), COLOURS.get(name, "magenta")))
        if limits is None:
            head.append(
                "  no positive values for a log scale" if self.log_scaled and spans else "  no point in this window", "dim"
            )
        made = [head]
        for row, line in enumerate(drawn):
            label = "" if limits is None else self._label(name, limits, row, down)
            text = Text(f"{label:>{LABEL}}", "dim")
            text.append("|" if self.plain else "┤" if label else "│", "dim")
            made.append(text.append(line, COLOURS.get(name, "magenta")))
        if rows >= 3:
            ends = f"step {formats.count(first)}", formats.count(last)
            made.append(Text(" " * LABEL + " " + f"{ends[0]}{ends[1]:>{max(1, across - len(ends[0]))}}", "dim"))
        return made[:rows]

    def _label(self, name: str, limits: tuple[float, float], row: int, rows: int) -> str:
        low, high = limits
        if row not in (0, rows - 1) and not (rows >= 7 and row == rows // 2):
            return ""
        share = 1 - row / max(1, rows - 1)
        between = (
            math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
            if self.log_scaled
            else low + share * (high - low)
        )
        return value(name, high if row == 0 else between)


def round_axis(first: int, last: int) -> tuple[int, int]:
    """The ends of the axis of steps: multiples of 1, 2 or 5 times a power of ten, so that not every step moves the chart.

    Each lies beyond `first` or `last` by less than an eighth of the steps between these.
    """
    most = max(1, (last - first) // 8)
    power = 10 ** (len(str(most)) - 1)
    unit = max(factor * power for factor in (1, 2, 5) if factor * power <= most)
    return first // unit * unit, -(-last // unit) * unit


def value(name: str, number: float | None) -> str:
    """The value of a curve with its unit, in at most LABEL characters."""
    if number is None:
        return "-"
    if name == "step time":
        return f"{number:.2f} s" if number >= 1 else f"{1000 * number:.1f} ms"
    if name == "learning rate":
        return f"{number:.1e}"
    if name == "exact answers":
        return f"{number:.1f}%"
    return formats.score(number) if name in ("BLEU", "chrF") else formats.loss(number)
