"""Compact-sparse connections: weights [kept, X, Y, Z] of the offsets that a tile keeps, and an index of which these are.

All cells of a tile (TILE of them along z) keep the same offsets, and all tiles as many, so that vector reads stay whole and
the index costs `kept` bytes a tile: at 30 % kept a lattice's connections take 31 % of the dense memory.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

TILE = 16
"""Cells along z that share one pattern: the lanes of a vector in the C kernel."""

NONE = 255
"""In `Pattern.slots`: this tile does not keep the offset."""


@dataclass(frozen=True, eq=False)
class Pattern:
    """index [kept, X, Y, tiles] (uint8): the offsets a tile keeps, all different; offsets: how many there are in all."""

    index: torch.Tensor
    offsets: int

    @classmethod
    def of(cls, mask: torch.Tensor) -> Pattern:
        """From a mask [K, X, Y, Z] (bool) that is alike in the cells of a tile.

        Raises ValueError where a tile's cells differ, or tiles keep different numbers of offsets.
        """
        tiles = mask[..., ::TILE]
        if not torch.equal(tiles.repeat_interleave(TILE, -1)[..., : mask.shape[-1]], mask):
            raise ValueError(f"mask: the {TILE} cells of a tile along z must keep the same offsets")
        counts = tiles.sum(0)
        kept = int(counts.max())
        if int(counts.min()) != kept:
            raise ValueError(f"mask: every tile must keep as many offsets, not {int(counts.min())} here and {kept} there")
        # A stable sort puts the kept ones first, in the topology's order.
        order = torch.sort(tiles.to(torch.uint8), dim=0, descending=True, stable=True).indices
        return cls(order[:kept].to(torch.uint8).contiguous(), len(mask))

    @functools.cached_property
    def slots(self) -> torch.Tensor:
        """The inverse of `index` [offsets, X, Y, tiles] (uint8): where an offset is kept, or NONE."""
        slots = torch.full((self.offsets, *self.index.shape[1:]), NONE, dtype=torch.uint8, device=self.index.device)
        positions = torch.arange(len(self.index), dtype=torch.uint8, device=self.index.device)
        return slots.scatter_(0, self.index.long(), positions.view(-1, 1, 1, 1).expand_as(self.index))

    def take(self, dense: torch.Tensor) -> torch.Tensor:
        """The kept weights [kept, X, Y, Z] of dense ones [K, X, Y, Z]; differentiable."""
        return dense.gather(0, self._cells(dense.shape[-1]))

    def expand(self, weights: torch.Tensor) -> torch.Tensor:
        """Dense weights [K, X, Y, Z], zero where nothing is kept, of compact ones; differentiable."""
        dense = weights.new_zeros(self.offsets, *weights.shape[1:])
        return dense.scatter(0, self._cells(weights.shape[-1]), weights)

    def _cells(self, depth: int) -> torch.Tensor:
        """The index by cell instead of by tile [kept, X, Y, Z] (int64)."""
        return self.index.long().repeat_interleave(TILE, -1)[..., :depth]
