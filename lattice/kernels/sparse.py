"""Compact-sparse connections: the weights [kept, X, Y, Z] that a pruned lattice keeps, and an index of their offsets.

A tile is TILE cells side by side along z.  All cells of a tile keep the same offsets, so that vector reads stay whole and the
index takes only `kept` bytes per tile.  All tiles keep equally many.  If 30 % of the connections are kept, they take 31 % of
the memory of dense ones.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from presets.topology import TILE

NONE = 255
"""The value in `Pattern.slots` of an offset that a tile does not keep."""


@dataclass(frozen=True, eq=False)
class Pattern:
    """Which connections a pruned lattice keeps.

    index [kept, X, Y, tiles] (uint8) lists the offsets that each tile keeps, all different, out of `offsets` in all.
    """

    index: torch.Tensor
    offsets: int

    @classmethod
    def of(cls, mask: torch.Tensor) -> Pattern:
        """The pattern of a mask [K, X, Y, Z] (bool) of kept connections.

        Raises ValueError if the cells of a tile differ, or if tiles keep different numbers of offsets.
        """
        tiles = mask[..., ::TILE]
        if not torch.equal(tiles.repeat_interleave(TILE, -1)[..., : mask.shape[-1]], mask):
            raise ValueError(f"mask: the {TILE} cells of a tile along z must keep the same offsets")
        return cls.of_tiles(tiles)

    @classmethod
    def of_tiles(cls, tiles: torch.Tensor) -> Pattern:
        """The pattern of a mask [K, X, Y, tiles] (bool) of the offsets that each tile keeps, listed in the topology's order.

        Raises ValueError if tiles keep different numbers of offsets.
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
        """Connections per cell, those that lead over a wall included."""
        return len(self.index)

    @functools.cached_property
    def slots(self) -> torch.Tensor:
        """The inverse of `index`: the slot that keeps each offset, or NONE [offsets, X, Y, tiles] (uint8)."""
        slots = torch.full((self.offsets, *self.index.shape[1:]), NONE, dtype=torch.uint8, device=self.index.device)
        positions = torch.arange(len(self.index), dtype=torch.uint8, device=self.index.device)
        return slots.scatter_(0, self.index.long(), positions.view(-1, 1, 1, 1).expand_as(self.index))

    @property
    def tiles(self) -> torch.Tensor:
        """Which offsets each tile keeps [offsets, X, Y, tiles] (bool)."""
        return self.slots != NONE

    def rows(self, rows: slice) -> Pattern:
        """The pattern of the cells whose x is in `rows`."""
        return Pattern(self.index[:, rows], self.offsets)

    def mask(self, depth: int) -> torch.Tensor:
        """Which connections each cell keeps [offsets, X, Y, depth] (bool)."""
        return self.tiles.repeat_interleave(TILE, -1)[..., :depth]

    def take(self, dense: torch.Tensor) -> torch.Tensor:
        """The kept ones [kept, X, Y, Z] of dense weights [K, X, Y, Z]; differentiable."""
        return _untiled(_tiled(dense).gather(0, _lanes(self.index)), dense.shape[-1])

    def expand(self, weights: torch.Tensor) -> torch.Tensor:
        """Dense weights [K, X, Y, Z] of compact ones [kept, X, Y, Z], zero if not kept; differentiable."""
        tiled = _tiled(weights)
        dense = tiled.new_zeros(self.offsets, *tiled.shape[1:])
        return _untiled(dense.scatter(0, _lanes(self.index), tiled), weights.shape[-1])


def tile_means(values: torch.Tensor) -> torch.Tensor:
    """The mean over the cells of each tile [..., tiles] of values [..., Z]; the last tile may be short."""
    depth = values.shape[-1]
    sizes = torch.full((-(-depth // TILE),), float(TILE), device=values.device)
    sizes[-1] = depth - TILE * (len(sizes) - 1)
    return _tiled(values).sum(-1) / sizes


def moved(values: torch.Tensor, old: Pattern | None, new: Pattern | None) -> torch.Tensor:
    """Values of the connections of the `new` pattern, from those of the `old` one; a pattern of None is dense.

    Values may be weights or moments [kept, X, Y, Z].  Connections that both patterns keep have exactly the old values, new
    ones 0.
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
    """An index [..., tiles] repeated for each cell of its tile, [..., tiles, TILE] (int64), without memory for each cell."""
    return index.long()[..., None].expand(*index.shape, TILE)
