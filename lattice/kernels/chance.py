"""Chance in the ticks: cells that do not update, and wounds (Mordvintsev et al. 2020, "Growing Neural Cellular Automata").

No number is drawn from a generator.  Each is a hash of what it is for, so that it does not matter when, in which order, how
often or in which micro-batch it is computed: a segment that the backward runs again, and a resumed run, meet the same chance.
The hash is the stream of SplitMix64 (Steele, Lea & Flood 2014), nested:

    number(key, n) = mixed(key + (n + 1) * GOLDEN)                  a key of 64 bits, n from 0
    sentence = number(key, sentence in its batch)
    cell     = number(number(sentence, tick), cell)                 the cell updates if this / 2^64 < update_probability
    wound    = number(sentence, -WOUND_NUMBERS ... -1)              whether, when, and where along x and y
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

GOLDEN = 0x9E3779B97F4A7C15
"""2^64 divided by the golden ratio: the step of SplitMix64."""

WOUND_NUMBERS = 4

_FACTORS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_LAST_SHIFT = 31


@dataclass(frozen=True)
class Chance:
    """What chance does to the ticks of some sentences.  The defaults leave nothing to it."""

    key: int = 0
    """64 bits that say what the numbers are for: a step of a run, or its evaluation (lattice.random_streams.key)."""
    first: int = 0
    """Number in its batch of the first of the sentences."""
    update_probability: float = 1.0
    """Probability of each cell to update in a tick.  Otherwise it keeps its state."""
    wounds: float = 0.0
    """Probability of each sentence to be wounded once: a block of columns of cells, through all z, falls silent."""
    wound_size: float = 0.25
    """Share of the x-y face that a wound takes, as near as a rectangle of whole columns comes to it."""
    ticks: torch.Tensor | None = None
    """Ticks of each sentence [B], before one of which it is wounded; None if all sentences have all ticks."""


CERTAIN = Chance()
"""Nothing is left to chance."""


def mixed(numbers: torch.Tensor) -> torch.Tensor:
    """The mixing function of SplitMix64, in place on int64.  Products wrap, and shifts are logical."""
    for shift, factor in _FACTORS:
        numbers ^= (numbers >> shift).bitwise_and_((1 << (64 - shift)) - 1)
        numbers *= _signed(factor)
    numbers ^= (numbers >> _LAST_SHIFT).bitwise_and_((1 << (64 - _LAST_SHIFT)) - 1)
    return numbers


def _signed(number: int) -> int:
    """The int64 of the same 64 bits."""
    number %= 1 << 64
    return number - (1 << 64) if number >> 63 else number


def _below(share: float) -> int:
    """The int64 that this share of all int64 is below."""
    return min(round(share * 2**64) - 2**63, 2**63 - 1)


def _up_to(numbers: torch.Tensor, counts: torch.Tensor | int) -> torch.Tensor:
    """For each number, uniform on int64, one that is uniform on 0 ... count - 1."""
    return ((numbers >> 33).bitwise_and_((1 << 31) - 1) * counts) >> 31


def _sentences(chance: Chance, batch: int, device: torch.device) -> torch.Tensor:
    """The keys of the sentences, int64 [B]."""
    numbers = torch.arange(chance.first + 1, chance.first + batch + 1, device=device)
    return mixed(numbers.mul_(_signed(GOLDEN)).add_(_signed(chance.key)))


class Updates:
    """Which cells update in which tick."""

    def __init__(self, chance: Chance, batch: int, shape: tuple[int, int, int], device: torch.device) -> None:
        """For so many sentences on a lattice of this shape."""
        x, y, z = shape
        self._shape = (batch, x, y, 1, z)
        self._sentences = _sentences(chance, batch, device)
        self._cells = torch.arange(1, x * y * z + 1, device=device).mul_(_signed(GOLDEN))
        self._below = _below(chance.update_probability)

    def cells(self, tick: int) -> torch.Tensor:
        """The cells that update in a tick, bool [B, X, Y, 1, Z]."""
        ticks = mixed(self._sentences + _signed(GOLDEN * (tick + 1)))
        return (mixed(ticks[:, None] + self._cells) < self._below).view(self._shape)

    def apply(self, tick: int, after: torch.Tensor, before: torch.Tensor) -> None:
        """Puts the state `before` the tick back into the one `after` it, where cells do not update.  Both [B, X, Y, C, Z]."""
        torch.where(self.cells(tick), after, before, out=after)

    def part(self, tick: int, grad: torch.Tensor) -> torch.Tensor:
        """The part of dL/d(state after the tick) that passes by the tick, [B, X, Y, C, Z].  In `grad` the other part stays."""
        cells = self.cells(tick)
        passing = grad.masked_fill(cells, 0.0)
        grad.masked_fill_(cells.logical_not_(), 0.0)
        return passing


@functools.lru_cache
def wound_columns(size: float, x: int, y: int) -> tuple[int, int]:
    """Columns along x and y of the rectangle that comes nearest to a share of a face, and of these the one most like it."""

    def off(sides: tuple[int, int]) -> tuple[float, float]:
        return abs(sides[0] * sides[1] - size * x * y), abs(sides[0] / x - sides[1] / y)

    nearest = [(along_x, min(max(round(size * x * y / along_x), 1), y)) for along_x in range(1, x + 1)]
    return min(nearest, key=off)


class Wounds:
    """Where and when sentences are wounded.

    A wound comes before a tick and before its drive, so what is driven enters the wounded cells as well.  It spares the first
    tick, before which all cells are silent.
    """

    def __init__(self, chance: Chance, batch: int, face: tuple[int, int], ticks: int) -> None:
        """For so many sentences, which have `ticks` ticks or as many as `chance` says."""
        sentences = _sentences(chance, batch, torch.device("cpu"))
        own = torch.full((batch,), ticks) if chance.ticks is None else chance.ticks.cpu()
        sides = wound_columns(chance.wound_size, *face)
        numbers = (mixed(sentences + _signed(GOLDEN * (i - WOUND_NUMBERS + 1))) for i in range(WOUND_NUMBERS))
        whether, when, *where = numbers
        hit = (whether < _below(chance.wounds)) & (own > 1)
        at = [
            1 + _up_to(when, own - 1),
            *(_up_to(n, size - side + 1) for n, size, side in zip(where, face, sides, strict=True)),
        ]
        self._blocks: dict[int, list[tuple[int, slice, slice]]] = {}
        for sentence in hit.nonzero().flatten().tolist():
            tick, x, y = (int(numbers[sentence]) for numbers in at)
            self._blocks.setdefault(tick, []).append((sentence, slice(x, x + sides[0]), slice(y, y + sides[1])))

    def columns(self, tick: int, batch: int, face: tuple[int, int]) -> torch.Tensor | None:
        """The columns that are wounded before a tick, bool [B, X, Y]; None if there are none."""
        if tick not in self._blocks:
            return None
        columns = torch.zeros(batch, *face, dtype=torch.bool)
        for block in self._blocks[tick]:
            columns[block] = True
        return columns

    def apply(self, tick: int, state: torch.Tensor, drive: torch.Tensor | None = None) -> None:
        """Wounds the state [B, X, Y, C, Z] before a tick, in place, but for the `drive` [B, X, Y, C] that it already has.

        Applied to the gradient of such a state, without a drive, it gives that of the state before the wound.
        """
        for block in self._blocks.get(tick, ()):
            state[block] = 0
            if drive is not None:
                state[block][..., 0] = drive[block]
