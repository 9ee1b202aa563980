"""Wounds: lasting damage to a lattice, written as `connections:0.3`.  `heal` repairs what it can of it.

(`training.wounds` is another thing: cells that fall silent for one sentence.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["connections", "cells", "block", "shuffle", "noise"]

KINDS: dict[str, str] = {
    "connections": "a share of all connections is destroyed, 0 to 1",
    "cells": "a share of the cells loses its parameters and all its connections, 0 to 1",
    "block": "a cube of cells with so many along each side loses all its connections",
    "shuffle": "in a share of the cells the weights of a cell change places, 0 to 1",
    "noise": "all connections get normal noise, so many times as large as their root mean square",
}
"""What each kind does, and what its amount is."""

assert tuple(KINDS) == get_args(Kind)


@dataclass(frozen=True)
class Wound:
    """A kind of damage and its amount."""

    kind: Kind
    amount: float

    @property
    def destroys(self) -> bool:
        """True if something is gone, which stays marked; False if weights only change, and nothing tells which ones."""
        return self.kind in ("connections", "cells", "block")

    def __str__(self) -> str:
        return f"{self.kind}:{self.amount:.12g}"

    def check_fit(self, shape: tuple[int, int, int]) -> None:
        """Raises ValueError, in one sentence, if the wound does not fit a lattice of so many cells along x, y and z."""
        if self.kind == "block" and self.amount > min(shape):
            raise ValueError(f"{self} does not fit {' x '.join(map(str, shape))} cells; use {min(shape)} or less")
        if self.kind == "block" and all(self.amount == size for size in shape):
            raise ValueError(f"{self} would leave nothing to heal from; use less than {self.amount:g}")


def parse(text: str) -> Wound:
    """The wound that `connections:0.3` or the like stands for.  Raises ValueError, in one sentence, if it stands for none."""
    name, colon, number = (part.strip() for part in text.partition(":"))
    kind = next((kind for kind in get_args(Kind) if kind == name), None)
    if kind is None or not colon:
        raise ValueError(f"{text!r} is no wound; use KIND:AMOUNT, such as connections:0.3, with one of {', '.join(KINDS)}")
    try:
        amount = float(number)
    except ValueError:
        amount = math.nan
    if not math.isfinite(amount) or amount < 0:
        raise ValueError(f"{number!r} is no amount: {kind}: {KINDS[kind]}")
    if amount == 0:
        raise ValueError(f"{text} would change nothing; use more than 0")
    if kind in ("connections", "cells") and amount >= 1:
        raise ValueError(f"{text} would leave nothing to heal from; use less than 1")
    if kind == "shuffle" and amount > 1:
        raise ValueError(f"{text}: there are no more than all cells; use 1 or less")
    if kind == "block" and amount != int(amount):
        raise ValueError(f"{text}: the side of a block is a whole number of cells")
    return Wound(kind, amount)
