"""A small chart of characters, in braille dots or in ASCII.  Pure functions.

Curves are reduced to the width of the chart without losing a peak: a column of dots reaches from the lowest to the highest
value of all spans that touch it.  A line joins it to its neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from app.tui.series import Span

DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""The bits of the dots of U+2800, by row and column."""

Range = tuple[float, float]


def columns(spans: Sequence[Span], width: int, first: int, last: int) -> list[Range | None]:
    """Lowest and highest value in each of `width` equal parts of the steps first..last; None for a part without a point.

    A span that lies across a boundary counts for both sides.
    """
    found: list[Range | None] = [None] * width
    steps = last - first + 1
    for span in spans:
        if span.last < first or span.first > last:
            continue
        begin = (max(span.first, first) - first) * width // steps
        end = (min(span.last, last) - first) * width // steps
        for column in range(begin, end + 1):
            known = found[column]
            found[column] = (min(known[0], span.low), max(known[1], span.high)) if known else (span.low, span.high)
    return found


def limits(found: Sequence[Range | None], log: bool) -> Range | None:
    """The lowest and the highest value to show, with `log` of the positive values; None if there are none."""
    values = [value for known in found if known for value in known if value > 0 or not log]
    return (min(values), max(values)) if values else None


def plot(found: Sequence[Range | None], height: int, low: float, high: float, log: bool) -> list[tuple[int, int] | None]:
    """The rows of dots that each column fills; row 0 is the top.  Columns are joined so that the line has no holes."""

    def row(value: float) -> int:
        if log:
            value, bottom, top = math.log(max(value, low)), math.log(low), math.log(high)
        else:
            bottom, top = low, high
        share = (value - bottom) / (top - bottom) if top > bottom else 0.5
        return round((1 - min(max(share, 0.0), 1.0)) * (height - 1))

    filled: list[tuple[int, int] | None] = []
    for known in found:
        filled.append((row(known[1]), row(known[0])) if known and (known[1] > 0 or not log) else None)
    return _joined(filled)


def _joined(filled: list[tuple[int, int] | None]) -> list[tuple[int, int] | None]:
    """Points far apart leave empty columns between them.  These are filled along the straight line."""
    known = [(x, rows) for x, rows in enumerate(filled) if rows]
    for (x0, a), (x1, b) in pairwise(known):
        start, end = sum(a) / 2, sum(b) / 2
        before = start
        for x in range(x0 + 1, x1):
            at = start + (end - start) * (x - x0) / (x1 - x0)
            filled[x] = min(round(before), round(at)), max(round(before), round(at))
            before = at
        top, bottom = b
        came = round(before) if x1 > x0 + 1 else None
        if came is not None:
            filled[x1] = min(top, came), max(bottom, came)
        elif a[1] < top:  # neighbours that do not overlap
            filled[x1] = a[1] + 1, bottom
        elif a[0] > bottom:
            filled[x1] = top, a[0] - 1
    return filled


def braille(filled: Sequence[tuple[int, int] | None], height: int) -> list[str]:
    """Lines of braille.  A character has two columns and four rows of dots."""
    width = -(-len(filled) // 2)
    cells = [[0] * width for _ in range(height)]
    for x, rows in enumerate(filled):
        for y in range(rows[0], rows[1] + 1) if rows else ():
            cells[y // 4][x // 2] |= DOTS[y % 4][x % 2]
    return ["".join(chr(0x2800 + bits) if bits else " " for bits in line) for line in cells]


def ascii_plot(filled: Sequence[tuple[int, int] | None], height: int) -> list[str]:
    """Lines of ASCII.  A character is one column and one row."""
    lines = [[" "] * len(filled) for _ in range(height)]
    for x, rows in enumerate(filled):
        if rows:
            for y in range(rows[0], rows[1] + 1):
                lines[y][x] = "|" if rows[0] < rows[1] else "*"
    return ["".join(line) for line in lines]


def chart(
    spans: Sequence[Span], width: int, height: int, first: int, last: int, log: bool = False, plain: bool = False
) -> tuple[list[str], Range | None]:
    """`height` lines of `width` characters, and the values at the bottom and at the top.  Without a point: blanks and None."""
    across, down = (width, height) if plain else (2 * width, 4 * height)
    found = columns(spans, max(1, across), first, last)
    shown = limits(found, log)
    if shown is None:
        return [" " * width] * height, None
    filled = plot(found, down, *shown, log)
    return (ascii_plot if plain else braille)(filled, height), shown
