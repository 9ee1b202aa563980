"""Paired comparisons over seeds: bootstrap intervals, and what can be said of runs that never reached the target.

Such a run is censored: it needs more than it was given.  It enters with what it was given, and the comparison then says
which way that errs, so that no run is dropped and none is flattered.
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
    """What a run needed to reach the target; where `censored`, it had not reached it after this much."""

    value: float
    censored: bool = False


@dataclass(frozen=True)
class Effect:
    """Mean of paired effects over seeds with a 95 % interval.

    All are None where nothing can be said, `low` and `high` for a single seed.  `bound` says what censored runs make of it: the
    true effect is this, or at least, or at most this.
    """

    mean: float | None
    low: float | None
    high: float | None
    bound: Literal["exact", "at least", "at most", "unknown"]


UNKNOWN = Effect(None, None, None, "unknown")


def interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """95 % percentile bootstrap of the mean; (None, None) for a single value, of which nothing can be said."""
    if len(values) < 2:
        return None, None
    draw = random.Random(0)
    means = sorted(statistics.fmean(draw.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return means[math.floor(0.025 * RESAMPLES)], means[math.ceil(0.975 * RESAMPLES) - 1]


def saved(candidate: Sequence[Need], reference: Sequence[Need]) -> Effect:
    """Share of the reference's need that the candidate saves, 1 - candidate / reference, paired by position (the seed).

    A censored reference needs more than it is counted with, so the candidate saves at least this; a censored candidate saves
    at most this.  Where both of a pair are censored, or pairs err in both ways, nothing can be said.
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
    """Sorts arms, best first: fewest runs that missed the target, then the least mean need."""
    return sum(need.censored for need in needs), statistics.mean(need.value for need in needs)


def crossing(along: Sequence[float], losses: Sequence[float | None], target: float) -> float | None:
    """Where the loss first is at or below the target, linear between looks; None where it never is.

    `along` (steps, seconds) belongs to `losses`, None where a loss was not finite.  A first look that is already there counts
    as it is.
    """
    before: tuple[float, float] | None = None
    for at, loss in zip(along, losses, strict=True):
        if loss is not None and loss <= target:
            return at if before is None else before[0] + (at - before[0]) * (before[1] - target) / (before[1] - loss)
        before = None if loss is None else (at, loss)
    return None


def value_at(along: Sequence[float], losses: Sequence[float | None], where: float) -> float:
    """The loss at `where`, linear between looks and level beyond them; infinite where it was not finite."""
    looks = list(zip(along, losses, strict=True))
    after = next((i for i, (at, _) in enumerate(looks) if at >= where), len(looks))
    (x0, y0), (x1, y1) = looks[max(0, after - 1)], looks[min(after, len(looks) - 1)]
    if y0 is None or y1 is None:
        return math.inf
    return y1 if x1 == x0 else y0 + (y1 - y0) * (where - x0) / (x1 - x0)
