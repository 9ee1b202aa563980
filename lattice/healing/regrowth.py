"""Regrowth: what a wound destroyed takes after what lives beside it.

    cells         a cell without parameters takes the mean of its living neighbours'
    connections   a lost connection takes the mean of its living siblings: the connections of its offset to neighbouring cells
                  (in a pruned lattice, if no neighbour keeps it, of all living ones of its offset)

Both grow from the rim of a hole inwards.  Nothing runs through the lattice, so it needs no sentences.  It works because trained
wiring changes little from a cell to the next; `experiment heal` says how well.

A wound that only changed weights marks nothing as lost.  There `smooth` gives every connection the mean of its neighbourhood.
That takes most of the damage away, and with it whatever a connection has that its siblings have not.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from lattice.healing.wounding import cell_fields
from lattice.kernels.sparse import TILE
from lattice.model.lattice3d import Lattice
from lattice.plasticity.products import pairs_of
from presets.topology import Offset


@torch.no_grad()
def regrow(lattice: Lattice) -> int:
    """Revives dead cells and regrows lost connections, in place.  Returns how many cells and connections these are.

    What stays marked in `lattice.lost` has no living sibling anywhere; the mark is None if nothing is left.
    """
    count, still_lost, lost = revive(lattice), False, lattice.lost
    if lost is None:
        return count
    for slot, exists in _offsets(lattice):
        gone = _take(lost, slot) & exists
        if not bool(gone.any()):
            continue
        weights, left = _grown(lattice, _take(lattice.weights.data, slot), exists & ~gone, gone)
        _put(lattice.weights.data, slot, weights)
        _put(lost, slot, torch.where(exists, left, _take(lost, slot)))
        count += int(gone.sum()) - int(left.sum())
        still_lost |= bool(left.any())
    if not still_lost:
        lattice.lose(None)
    return count


@torch.no_grad()
def smooth(lattice: Lattice) -> None:
    """Gives every connection the mean of its siblings and itself, in place."""
    for slot, exists in _offsets(lattice):
        own = _take(lattice.weights.data, slot)
        mean = _around(lattice, own.float() * exists) / _around(lattice, exists.float()).clamp(min=1)
        _put(lattice.weights.data, slot, torch.where(exists, mean.to(own.dtype), own))


@torch.no_grad()
def revive(lattice: Lattice) -> int:
    """Gives each cell whose parameters are all zero the mean of those of its living neighbours, from the rim inwards.

    Returns the number of such cells.
    """
    dead = (lattice.cells.data == 0).all(3).all(0)
    count = int(dead.sum())
    while bool(dead.any()):
        alive = (~dead).float()
        living = _around(lattice, alive)
        reached = dead & (living > 0)
        if not bool(reached.any()):
            break  # all cells are dead
        for field in cell_fields(lattice):
            for values in _numbers(field):
                values[reached] = (_around(lattice, values * alive) / living)[reached].to(values.dtype)
        dead = dead & ~reached
    return count


def _grown(
    lattice: Lattice, weights: torch.Tensor, alive: torch.Tensor, lost: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights [X, Y, Z] of one offset after regrowth, and which of them are lost still (bool)."""
    grown, left = weights.float() * alive, lost
    if not bool(alive.any()):
        return weights, left
    mean = grown.sum() / alive.sum()
    while bool(left.any()):
        living = _around(lattice, alive.float())
        reached = left & (living > 0)
        if not bool(reached.any()):  # in a pruned lattice, an island of connections whose neighbours do not keep the offset
            grown, left = torch.where(left, mean, grown), torch.zeros_like(left)
            break
        grown = torch.where(reached, _around(lattice, grown) / living, grown)
        alive, left = alive | reached, left & ~reached
    return torch.where(lost, grown.to(weights.dtype), weights), left


def _offsets(lattice: Lattice) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """For each offset the slot in which each cell keeps it (int64 [X, Y, Z]), and which cells have such a connection (bool)."""
    for number, offset in enumerate(lattice.topology.offsets):
        exists = _leads_to_a_cell(lattice, offset)
        if lattice.pattern is None:
            yield torch.full((1, 1, 1), number, device=exists.device).expand(exists.shape), exists
        else:
            slots = lattice.pattern.slots[number].repeat_interleave(TILE, -1)[..., : exists.shape[-1]]
            kept = slots < lattice.pattern.kept
            yield slots.long().clamp(max=lattice.pattern.kept - 1), exists & kept


def _leads_to_a_cell(lattice: Lattice, offset: Offset) -> torch.Tensor:
    exists = torch.zeros(lattice.topology.shape, dtype=torch.bool, device=lattice.weights.device)
    for here, _ in pairs_of(lattice.topology, offset):
        exists[here] = True
    return exists


def _take(values: torch.Tensor, slot: torch.Tensor) -> torch.Tensor:
    """The numbers [X, Y, Z] in a slot of each cell, of values [kept, X, Y, Z]."""
    return values.gather(0, slot[None])[0]


def _put(values: torch.Tensor, slot: torch.Tensor, field: torch.Tensor) -> None:
    values.scatter_(0, slot[None], field[None])


def _numbers(field: torch.Tensor) -> Iterator[torch.Tensor]:
    """Views [X, Y, Z] of each of a cell's numbers in a field [X, Y, Z, ...]."""
    if field.dim() == 3:
        yield field
    else:
        for part in field.unbind(3):
            yield from _numbers(part)


def _around(lattice: Lattice, field: torch.Tensor) -> torch.Tensor:
    """The sum of a field [X, Y, Z] over each cell's 3 x 3 x 3 neighbourhood, fp32."""
    total, periodic = field.float(), lattice.topology.boundary == "periodic"
    for axis, size in enumerate(field.shape):  # axis by axis: six additions in place of 26
        own, total = total, total.clone()
        total.narrow(axis, 1, size - 1).add_(own.narrow(axis, 0, size - 1))
        total.narrow(axis, 0, size - 1).add_(own.narrow(axis, 1, size - 1))
        if periodic and axis < 2:
            total.select(axis, 0).add_(own.select(axis, size - 1))
            total.select(axis, size - 1).add_(own.select(axis, 0))
    return total
