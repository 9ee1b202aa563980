"""Wounding: destroys a part of a lattice for good.  presets.wound says what kinds there are.

A connection that is destroyed has the weight zero, without a sign.  A cell that is destroyed has parameters of zero, so its
state stays zero.  What is lost is told, because lattice.healing.waves regrows that and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from lattice.model.lattice3d import Lattice
from lattice.plasticity.products import leads_from, present
from lattice.plasticity.slabs import slabs
from presets.wound import Wound


@dataclass(frozen=True)
class Lost:
    """What a wound destroyed."""

    connections: torch.Tensor | None
    """The destroyed ones, bool [kept, X, Y, Z]; None if all connections are there, though perhaps with wrong weights."""
    count: int
    """Connections that the wound changed."""
    cells: int
    """Cells that lost their parameters."""


@torch.no_grad()
def wound(lattice: Lattice, what: Wound, stream: torch.Generator) -> Lost:
    """Wounds a lattice in place, and marks what is lost in `lattice.lost`.  All chance comes from `stream`.

    Raises ValueError, in one sentence, if the wound does not fit the lattice.
    """
    what.check_fit(lattice.topology.shape)
    lost = _wounded(lattice, what, stream)
    if lost.connections is not None:
        lattice.lose(lost.connections if lattice.lost is None else lost.connections | lattice.lost)
    return lost


def _wounded(lattice: Lattice, what: Wound, stream: torch.Generator) -> Lost:
    match what.kind:
        case "connections":
            return _destroy(lattice, what.amount, stream)
        case "cells":
            dead = _some_cells(lattice, what.amount, stream)
            for field in cell_fields(lattice):
                field[dead] = 0.0
            return _cut_off(lattice, dead, int(dead.sum()))
        case "block":
            return _cut_off(lattice, _block(lattice, int(what.amount), stream), 0)
        case "shuffle":
            return _shuffle(lattice, _some_cells(lattice, what.amount, stream), stream)
        case "noise":
            return _add_noise(lattice, what.amount, stream)


def cell_fields(lattice: Lattice) -> Iterator[torch.Tensor]:
    """Views [X, Y, Z, ...] of all parameters that each cell has for itself."""
    yield lattice.cells.data.movedim((1, 2, 4), (0, 1, 2))
    if lattice.gain is not None:
        yield lattice.gain.data.movedim(3, 2)
    if lattice.rule is not None and lattice.rule.per_cell:
        for parameter in lattice.rule.parameters():
            yield parameter.data.movedim(-1, 2)


def _layers(lattice: Lattice) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
    """Slabs of x: (rows, weights [kept, rows, Y, Z] as a view, which of them lead to a cell and not over a wall)."""
    weights = lattice.weights.data
    for rows in slabs(weights.shape[1], len(lattice.topology.offsets) * weights[0, 0].numel()):
        exists = present(lattice.topology, rows, weights.device)
        yield rows, weights[:, rows], exists if lattice.pattern is None else lattice.pattern.rows(rows).take(exists)


def _drawn(like: torch.Tensor, stream: torch.Generator) -> torch.Tensor:
    """Uniform numbers of 0..1 in the shape of a tensor, and on its device.  They are the same on every device."""
    return torch.rand(like.shape, generator=stream).to(like.device)


def _some_cells(lattice: Lattice, share: float, stream: torch.Generator) -> torch.Tensor:
    """A share of the cells, and at least one, bool [X, Y, Z]."""
    cells = lattice.topology.cells
    chosen = torch.randperm(cells, generator=stream)[: max(1, round(share * cells))]
    some = torch.zeros(cells, dtype=torch.bool)
    some[chosen] = True
    return some.view(lattice.topology.shape).to(lattice.weights.device)


def _block(lattice: Lattice, side: int, stream: torch.Generator) -> torch.Tensor:
    """A cube of cells at a place that is drawn, bool [X, Y, Z]."""
    shape = lattice.topology.shape
    start = [int(torch.randint(size - side + 1, (), generator=stream)) for size in shape]
    block = torch.zeros(shape, dtype=torch.bool, device=lattice.weights.device)
    block[tuple(slice(at, at + side) for at in start)] = True
    return block


def _destroy(lattice: Lattice, share: float, stream: torch.Generator) -> Lost:
    lost, count = torch.zeros_like(lattice.weights, dtype=torch.bool), 0
    for rows, weights, exists in _layers(lattice):
        gone = (_drawn(weights, stream) < share) & exists
        weights.masked_fill_(gone, 0.0)
        lost[:, rows] = gone
        count += int(gone.sum())
    return Lost(lost, count, 0)


def _cut_off(lattice: Lattice, cells: torch.Tensor, dead: int) -> Lost:
    """Destroys all connections from and to some cells, bool [X, Y, Z]."""
    topology, pattern = lattice.topology, lattice.pattern
    lost, count = torch.zeros_like(lattice.weights, dtype=torch.bool), 0
    for rows, weights, exists in _layers(lattice):
        touched = leads_from(cells, topology, rows) | cells[rows]
        gone = (touched if pattern is None else pattern.rows(rows).take(touched)) & exists
        weights.masked_fill_(gone, 0.0)
        lost[:, rows] = gone
        count += int(gone.sum())
    return Lost(lost, count, dead)


def _shuffle(lattice: Lattice, cells: torch.Tensor, stream: torch.Generator) -> Lost:
    count = 0
    for rows, weights, exists in _layers(lattice):
        order = torch.arange(len(weights), device=weights.device).view(-1, 1, 1, 1).expand_as(weights)
        # Places of existing connections come first, in both orders; those over a wall keep their places.
        to = (order + len(weights) * ~exists).argsort(0)
        by_chance = torch.where(exists, _drawn(weights, stream), 1.0 + order).argsort(0)
        mixed = torch.empty_like(weights).scatter_(0, to, weights.gather(0, by_chance))
        weights.copy_(torch.where(cells[rows], mixed, weights))
        count += int((exists & cells[rows]).sum())
    return Lost(None, count, 0)


def _add_noise(lattice: Lattice, amount: float, stream: torch.Generator) -> Lost:
    power, count = 0.0, 0
    for _, weights, exists in _layers(lattice):
        power += float((weights * exists).square().sum(dtype=torch.float64))
        count += int(exists.sum())
    size = amount * (power / max(1, count)) ** 0.5
    for _, weights, exists in _layers(lattice):
        noise = torch.randn(weights.shape, generator=stream).to(weights.device)
        weights.add_(noise.mul_(size).mul_(exists))
    return Lost(None, count, 0)
