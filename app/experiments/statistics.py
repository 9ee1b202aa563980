"""Paired comparisons over seeds, with bootstrap intervals.

A run that never reached the target is censored: it needs more than it was given.  It is counted with what it was given, and the
comparison then says whether the true effect is larger or smaller.  So no run is dropped, and none looks better than it is.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

RESAMPLES = 10_000


@dataclass(frozen=True)
class Need:
    """What a run needed to reach the target.  If it is `censored`, the run had not reached it after this much."""

    value: float
    censored: bool = False


@dataclass(frozen=True)
class Effect:
    """The mean of paired effects over seeds, with a 95 % interval from `low` to `high`.

    All three are None if the effect is unknown.  `low` and `high` are None for a single seed.  `bound` says how censored runs
    change the mean: the true effect is exactly this, at least this, or at most this.
    """

    mean: float | None
    low: float | None
    high: float | None
    bound: Literal["exact", "at least", "at most", "unknown"]


UNKNOWN = Effect(None, None, None, "unknown")


def interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """The 95 % percentile bootstrap interval of the mean; (None, None) for a single value, which has none."""
    if len(values) < 2:
        return None, None
    draw = random.Random(0)
    means = sorted(statistics.fmean(draw.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return means[math.floor(0.025 * RESAMPLES)], means[math.ceil(0.975 * RESAMPLES) - 1]


def saved(candidate: Sequence[Need], reference: Sequence[Need]) -> Effect:
    """The share of the reference's need that the candidate saves: 1 - candidate / reference, paired by position (the seed).

    A censored reference needs more than it is counted with, so the candidate saves at least this.  A censored candidate saves
    at most this.  If there are censored runs on both sides, the effect is unknown.
    """
    pairs = list(zip(candidate, reference, strict=True))
    at_most, at_least = any(c.censored for c, _ in pairs), any(r.censored for _, r in pairs)
    if not pairs or (at_most and at_least):
        return UNKNOWN
    return _effect([1 - c.value / r.value for c, r in pairs], "at most" if at_most else "at least" if at_least else "exact")


def difference(candidate: Sequence[float | None], reference: Sequence[float | None]) -> Effect:
    """candidate - reference, paired by position; unknown if a value is missing, since leaving its pair out would flatter."""
    pairs = _complete(candidate, reference)
    return _effect([c - r for c, r in pairs], "exact") if pairs else UNKNOWN


def change(candidate: Sequence[float | None], reference: Sequence[float | None]) -> Effect:
    """candidate / reference - 1, paired by position; unknown if a value is missing."""
    pairs = _complete(candidate, reference)
    return _effect([c / r - 1 for c, r in pairs], "exact") if pairs else UNKNOWN


def _complete(candidate: Sequence[float | None], reference: Sequence[float | None]) -> list[tuple[float, float]]:
    """The pairs by position; none at all if a single value is missing."""
    pairs = list(zip(candidate, reference, strict=True))
    known = [(c, r) for c, r in pairs if c is not None and r is not None]
    return known if len(known) == len(pairs) else []


def _effect(values: list[float], bound: Literal["exact", "at least", "at most"]) -> Effect:
    return Effect(statistics.mean(values), *interval(values), bound)


def rank(needs: Sequence[Need]) -> tuple[int, float]:
    """A key that sorts arms, the best first: by the number of runs that missed the target, then by the mean need."""
    return sum(need.censored for need in needs), statistics.mean(need.value for need in needs)


def crossing(along: Sequence[float], losses: Sequence[float | None], target: float) -> float | None:
    """The step or second at which the loss first is at or below the target; None if it never is.

    `along` has the step or second of each of `losses`.  A loss that was not finite is None.  Between looks the loss is taken as
    linear.  If the first look is already at the target, its own step counts.
    """
    before: tuple[float, float] | None = None
    for at, loss in zip(along, losses, strict=True):
        if loss is not None and loss <= target:
            return at if before is None else before[0] + (at - before[0]) * (before[1] - target) / (before[1] - loss)
        before = None if loss is None else (at, loss)
    return None


def value_at(along: Sequence[float], losses: Sequence[float | None], where: float) -> float:
    """The loss at `where`: linear between looks, constant before the first and after the last.

    It is infinite if a look beside `where` was not finite.
    """
    looks = list(zip(along, losses, strict=True))
    after = next((i for i, (at, _) in enumerate(looks) if at >= where), len(looks))
    (x0, y0), (x1, y1) = looks[max(0, after - 1)], looks[min(after, len(looks) - 1)]
    if y0 is None or y1 is None:
        return math.inf
    return y1 if x1 == x0 else y0 + (y1 - y0) * (where - x0) / (x1 - x0)
