"""A measured curve that grows for days in bounded memory.  It keeps its newest points, and spans of points for all of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

MOST_SPANS = 1024
"""If a curve has more spans than this, neighbours are joined.  From then on each span holds twice as many points."""

MOST_RECENT = 1024
"""The newest points that are kept one by one, for windows and smoothing."""


class Span(NamedTuple):
    """Neighbouring points of a curve: first and last step, lowest, highest and mean value, and the number of points."""

    first: int
    last: int
    low: float
    high: float
    mean: float
    points: int

    @classmethod
    def of(cls, step: int, value: float) -> Span:
        return cls(step, step, value, value, value, 1)

    def join(self, later: Span) -> Span:
        points = self.points + later.points
        mean = (self.mean * self.points + later.mean * later.points) / points
        return Span(self.first, later.last, min(self.low, later.low), max(self.high, later.high), mean, points)


@dataclass(frozen=True)
class Series:
    """A curve.  `whole` covers it from its first point in spans of `stride` points; the last span may hold fewer."""

    whole: tuple[Span, ...] = ()
    stride: int = 1
    recent: tuple[Span, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.recent)

    @property
    def last(self) -> float | None:
        return self.recent[-1].mean if self.recent else None

    def extended(self, points: Iterable[tuple[int, float]]) -> Series:
        """The series with later points, which come in order.  Joining never loses an extremum."""
        whole, stride, new = list(self.whole), self.stride, [Span.of(step, value) for step, value in points]
        if not new:
            return self
        for span in new:
            if whole and whole[-1].points < stride:
                whole[-1] = whole[-1].join(span)
            else:
                whole.append(span)
            if len(whole) > MOST_SPANS:
                joined = [a.join(b) for a, b in zip(whole[::2], whole[1::2], strict=False)]
                whole = joined + whole[len(joined) * 2 :]
                stride *= 2
        spans = tuple(whole)
        return Series(spans, stride, spans[-MOST_RECENT:] if stride == 1 else (*self.recent, *new)[-MOST_RECENT:])

    def thinned(self) -> Series:
        """The series with the last of its newest points only, so that it costs little.  Later points fill it up again."""
        return self if self.stride == 1 else replace(self, recent=self.recent[-1:])

    def window(self, steps: int | None) -> tuple[Span, ...]:
        """The spans of the last `steps` steps, or of the whole curve.  They are single points if these are still known."""
        if not self.recent:
            return ()
        first = self.recent[-1].last - steps + 1 if steps else self.whole[0].first
        if self.recent[0].first <= first:
            return tuple(span for span in self.recent if span.last >= first)
        return tuple(span for span in self.whole if span.last >= first)


def smoothed(spans: Iterable[Span], weight: float) -> list[Span]:
    """An exponential running mean of the spans' means.  `weight` 0 leaves them as they are; 1 would never move."""
    spans = list(spans)
    if not weight:
        return spans
    out: list[Span] = []
    running: float | None = None
    for span in spans:
        kept = weight**span.points
        running = span.mean if running is None else kept * running + (1 - kept) * span.mean
        out.append(Span(span.first, span.last, running, running, running, span.points))
    return out
