"""Compact-sparse connections: weights [kept, X, Y, Z] of the offsets that a tile keeps, and an index of which these are.

All cells of a tile (TILE of them along z) keep the same offsets, and all tiles as many, so that vector reads stay whole and
the index costs `kept` bytes a tile: at 30 % kept a lattice's connections take 31 % of the dense memory.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from presets.topology import TILE

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
        return cls.of_tiles(tiles)

    @classmethod
    def of_tiles(cls, tiles: torch.Tensor) -> Pattern:
        """From which offsets each tile keeps [K, X, Y, tiles] (bool), listed in the topology's order.

        Raises ValueError where tiles keep different numbers of offsets.
        """
        counts = tiles.sum(0)
        kept = int(counts.max())
        if int(counts.min()) != kept:
            raise ValueError(f"mask: every tile must keep as many offsets, not {int(counts.min())} here and {kept} there")
        # A stable sort puts the kept ones first, in the topology's order.
        order = torch.sort(tiles.to(torch.uint8), dim=0, descending=True, stable=True).indices
        return cls(order[:kept].to(torch.uint8).contiguous(), len(tiles))

    @property
    def kept(self) -> int:
        """Connections of each cell, those over a wall included."""
        return len(self.index)

    @functools.cached_property
    def slots(self) -> torch.Tensor:
        """The inverse of `index` [offsets, X, Y, tiles] (uint8): where an offset is kept, or NONE."""
        slots = torch.full((self.offsets, *self.index.shape[1:]), NONE, dtype=torch.uint8, device=self.index.device)
        positions = torch.arange(len(self.index), dtype=torch.uint8, device=self.index.device)
        return slots.scatter_(0, self.index.long(), positions.view(-1, 1, 1, 1).expand_as(self.index))

    @property
    def tiles(self) -> torch.Tensor:
        """Which offsets each tile keeps [offsets, X, Y, tiles] (bool)."""
        return self.slots != NONE

    def rows(self, rows: slice) -> Pattern:
        """The pattern of the cells in `rows` of x."""
        return Pattern(self.index[:, rows], self.offsets)

    def mask(self, depth: int) -> torch.Tensor:
        """Which connections each cell keeps [offsets, X, Y, depth] (bool)."""
        return self.tiles.repeat_interleave(TILE, -1)[..., :depth]

    def take(self, dense: torch.Tensor) -> torch.Tensor:
        """The kept weights [kept, X, Y, Z] of dense ones [K, X, Y, Z]; differentiable."""
        return _untiled(_tiled(dense).gather(0, _lanes(self.index)), dense.shape[-1])

    def expand(self, weights: torch.Tensor) -> torch.Tensor:
        """Dense weights [K, X, Y, Z], zero where nothing is kept, of compact ones; differentiable."""
        tiled = _tiled(weights)
        dense = tiled.new_zeros(self.offsets, *tiled.shape[1:])
        return _untiled(dense.scatter(0, _lanes(self.index), tiled), weights.shape[-1])


def tile_means(values: torch.Tensor) -> torch.Tensor:
    """values [..., Z] -> the mean over each tile's cells [..., tiles]; the last tile may be short."""
    depth = values.shape[-1]
    sizes = torch.full((-(-depth // TILE),), float(TILE), device=values.device)
    sizes[-1] = depth - TILE * (len(sizes) - 1)
    return _tiled(values).sum(-1) / sizes


def moved(values: torch.Tensor, old: Pattern | None, new: Pattern | None) -> torch.Tensor:
    """What belongs to connections (weights, moments), from one pattern to another; None is dense.

    Connections that both have keep their values exactly; new ones get 0.
    """
    if new is None:
        return values if old is None else old.expand(values)
    if old is None:
        return new.take(values)
    slots = old.slots.gather(0, new.index.long())  # where each connection of the new pattern lies in the old one
    found = _tiled(values).gather(0, _lanes(slots.clamp(max=old.kept - 1)))
    return _untiled(found.masked_fill_((slots == NONE)[..., None], 0), values.shape[-1])


def _tiled(values: torch.Tensor) -> torch.Tensor:
    """[..., Z] -> [..., tiles, TILE], with zeros behind the last cell."""
    short = -values.shape[-1] % TILE
    return (F.pad(values, (0, short)) if short else values).unflatten(-1, (-1, TILE))


def _untiled(tiles: torch.Tensor, depth: int) -> torch.Tensor:
    return tiles.flatten(-2)[..., :depth].contiguous()


def _lanes(index: torch.Tensor) -> torch.Tensor:
    """An index by tile as one by cell, [..., tiles, TILE] (int64), without taking memory for each cell."""
    return index.long()[..., None].expand(*index.shape, TILE)
