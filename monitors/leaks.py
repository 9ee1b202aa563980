"""Whether a process leaks: statistics of readings that were taken at quiet points of equal work.

A meter *grows* if all of these hold over its window:

1. The Theil-Sen slope (Sen 1968) has a lower confidence bound above zero.  It is a median, which one cache or one bad reading
   does not move.
2. The smallest reading of the last third of the window is above that of the first third by at least the meter's floor.
   Saw-tooth readings rise between their troughs, but the troughs do not.
3. The second and the last third each add at least PART of that growth, and the last third alone has a rising slope.  Growth
   that happened once, or that is over, is no leak.

A count meter that grows is a leak.  A byte meter that grows is a leak if a second byte meter agrees, and suspicious if none
does: an allocator that only reserves more, or pages that only become resident, are no leak.

Work is equal if its key is equal (for a lattice: its cells, sparsity and profile).  Samples are compared only with samples of
the same work.  As in an analysis of covariance, each kind of work is taken around its own median, so that a lattice that has
grown is no leak.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

if TYPE_CHECKING:
    import numpy as np

Verdict = Literal["measuring", "flat", "suspicious", "leak"]

_Number = TypeVar("_Number", int, float)

WARM_UP = 4
"""Number of first samples that are not judged, since pools, caches and kernels are still filling."""

WINDOW = 24
"""Fewest samples that are judged."""

CAPACITY = 240
"""Most samples that are kept.  When they are full, every other one is dropped, and from then on every other one is left out."""

CONFIDENCE = 0.99
"""Confidence of the interval around the slope of the whole window."""

LAST_CONFIDENCE = 0.8
"""Confidence of the interval around the slope of the last third, which has few samples and need only show ongoing growth."""

PART = 0.2
"""Share of the growth that the second and the last third must each add at least.  On a straight line each adds half."""

AGREES = 0.5
"""Share of a meter's growth that another one must have grown at least to confirm it."""

LEAST_OF_A_WORK = 3
"""Fewest samples of a kind of work that is compared."""

KIB, MIB = 1024, 1024 * 1024


@dataclass(frozen=True)
class Meter:
    """A quantity that is metered.

    Growth below `floor`, in the meter's unit, is ignored.  `confirmed_by` names the byte meters that can confirm its growth.
    """

    name: str
    unit: Literal["bytes", "count"]
    floor: float
    confirmed_by: tuple[str, ...] = ()


METERS = (
    Meter("rss", "bytes", 16 * MIB, ("uss", "heap")),
    Meter("uss", "bytes", 16 * MIB, ("rss", "heap")),
    Meter("heap", "bytes", 128 * KIB, ("rss", "uss")),
    Meter("allocated", "bytes", 1 * MIB, ("reserved", "driver")),
    Meter("reserved", "bytes", 32 * MIB, ("allocated",)),
    Meter("driver", "bytes", 64 * MIB, ("allocated",)),
    Meter("python objects", "count", 128),
    Meter("tensors", "count", 8),
    Meter("descriptors", "count", 4),
    Meter("threads", "count", 4),
)
"""Resident pages, unshared pages, bytes in use in the C heap, GPU memory as torch and as the driver count it, blocks in use of
Python's allocator, live tensors, open file descriptors, threads.

Pages come and go with everything the machine does, so their floors are high.  The heap's count is exact, and its floor is low.
"""


@dataclass(frozen=True)
class Judged:
    """The verdict on a meter: `slope` and its lower bound `low` in units per step, `growth` from trough to trough in units."""

    meter: Meter
    value: float
    samples: int
    slope: float = 0.0
    low: float = 0.0
    growth: float = 0.0
    verdict: Verdict = "measuring"


class Window:
    """Readings of some meters over steps, at most CAPACITY of them, in memory that is allocated once."""

    def __init__(self, meters: Sequence[Meter] = METERS, warm_up: int = WARM_UP) -> None:
        self.meters = tuple(meters)
        self._left = warm_up
        self._stride, self._seen, self._count = 1, 0, 0
        self._steps = array("d", bytes(8 * CAPACITY))
        self._works = array("l", bytes(array("l").itemsize * CAPACITY))
        self._columns = {meter.name: array("d", bytes(8 * CAPACITY)) for meter in self.meters}
        self._known: dict[str, int] = {}

    def __len__(self) -> int:
        return self._count

    @property
    def warm(self) -> bool:
        return self._left == 0

    def join(self, meter: Meter) -> None:
        """Adds a meter, which is read from now on."""
        self.meters = (*self.meters, meter)
        self._columns[meter.name] = array("d", [float("nan")] * CAPACITY)

    def add(self, step: float, work: str, readings: Mapping[str, float]) -> None:
        """Adds a sample at a quiet point.  Meters without a reading are left out.  Steps must not decrease."""
        if self._left:
            self._left -= 1
            return
        self._seen += 1
        if (self._seen - 1) % self._stride:
            return
        if self._count == CAPACITY:
            _thin(self._works)
            for column in (self._steps, *self._columns.values()):
                _thin(column)
            self._count, self._stride = CAPACITY // 2, 2 * self._stride
        at, self._count = self._count, self._count + 1
        self._steps[at] = step
        self._works[at] = self._known.setdefault(work, len(self._known))
        for name, column in self._columns.items():
            column[at] = readings.get(name, float("nan"))

    def series(self, name: str) -> tuple[list[float], list[float], list[int]]:
        """The steps, readings and kinds of work of the samples in which a meter was read."""
        column = self._columns[name]
        at = [i for i in range(self._count) if column[i] == column[i]]
        return [self._steps[i] for i in at], [column[i] for i in at], [self._works[i] for i in at]

    def judge(self) -> list[Judged]:
        """The verdict on every meter that was ever read."""
        judged = [judge(meter, *self.series(meter.name)) for meter in self.meters if self.series(meter.name)[0]]
        return confirm(judged)


def _thin(column: array[_Number]) -> None:
    """Moves every other entry of a full column into its first half."""
    for i in range(CAPACITY // 2):
        column[i] = column[2 * i]


def judge(meter: Meter, steps: Sequence[float], values: Sequence[float], works: Sequence[int] | None = None) -> Judged:
    """The verdict on one meter by itself: "measuring", "flat", or "suspicious" if it grows.

    Samples with the same number in `works` are of equal work.
    """
    import numpy as np

    last = float(values[-1]) if len(values) else 0.0
    x, y = np.asarray(steps, dtype=float), np.asarray(values, dtype=float)
    kinds = np.zeros(len(x), dtype=int) if works is None else np.asarray(works)
    found, inverse, counts = np.unique(kinds, return_inverse=True, return_counts=True)
    kept = counts[inverse] >= LEAST_OF_A_WORK
    x, y, kinds = x[kept], y[kept], kinds[kept]
    if len(x) < WINDOW:
        return Judged(meter, last, len(x))
    middle_x, middle_y = np.zeros(len(x)), np.zeros(len(x))
    for kind in found:
        here = kinds == kind
        if here.any():
            middle_x[here], middle_y[here] = np.median(x[here]), np.median(y[here])
    slope, low = slope_of(x - middle_x, y - middle_y, CONFIDENCE)
    # All on the line of the first kind: what is left of a difference between kinds is what the common slope makes of it.
    level = y - middle_y + slope * (middle_x - middle_x[0])
    first, second, third = (part.min() for part in np.array_split(level, 3))
    growth = float(third - first)
    size = len(x) // 3
    _, late = slope_of((x - middle_x)[-size:], (y - middle_y)[-size:], LAST_CONFIDENCE)
    grows = (
        low > 0 and growth >= meter.floor and second - first >= PART * growth and third - second >= PART * growth and late > 0
    )
    return Judged(meter, last, len(x), slope, low, growth, "suspicious" if grows else "flat")


def slope_of(x: np.ndarray, y: np.ndarray, confidence: float) -> tuple[float, float]:
    """The Theil-Sen slope of y over x, and the lower bound of its confidence interval.

    If x has ties, too, scipy's variance is too small, and it is below zero if hardly any reading differs.  Then nothing grows.
    """
    import numpy as np
    from scipy.stats import theilslopes

    with np.errstate(invalid="ignore"):
        slope, _, low, _ = theilslopes(y, x, confidence)
    return float(slope), float(low) if np.isfinite(low) else min(float(slope), 0.0)


def confirm(judged: Sequence[Judged]) -> list[Judged]:
    """Turns "suspicious" into "leak": for count meters always, for byte meters if one of their `confirmed_by` agrees."""
    by_name = {each.meter.name: each for each in judged}

    def is_leak(each: Judged) -> bool:
        if each.verdict != "suspicious":
            return False
        others = (by_name[name] for name in each.meter.confirmed_by if name in by_name)
        return each.meter.unit == "count" or any(o.low > 0 and o.growth >= AGREES * each.growth for o in others)

    return [
        Judged(each.meter, each.value, each.samples, each.slope, each.low, each.growth, "leak") if is_leak(each) else each
        for each in judged
    ]


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict on several meters together.  It is "measuring" as long as one of them is and none leaks."""
    for verdict in ("leak", "measuring", "suspicious"):
        if verdict in verdicts:
            return verdict
    return "flat" if verdicts else "measuring"
