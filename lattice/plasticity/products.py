"""What a rule sees of a lattice: for every connection the product of its two cells' values, summed over samples and values.

Every rule of lattice.plasticity.rules needs sums of the form  Σ_m pre_m[i + o_k] · post_m[i]  for each connection k of each
cell i.  Rules differ in the two fields that they multiply.  Fields are laid out like states, [B, X, Y, M, Z], and m runs over
the M values of a cell: its ticks, or its channels.

Work is counted in products of two tiles (TILE cells along z), for one value of one sentence.  `products.c` skips those of which
one end is silent, or both ends together are too quiet.  The plain version, `plain_products`, computes them all.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from lattice.kernels.native import pointer
from lattice.kernels.sparse import TILE, Pattern
from lattice.plasticity.c_library import ConnectionGeometry, library
from lattice.plasticity.slabs import slabs
from presets.topology import Offset, Topology

Region = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Work:
    """How many products of two tiles were computed (`done`), and how many there were (`possible`)."""

    done: int
    possible: int


def pairs_of(topology: Topology, offset: Offset, rows: slice = slice(None)) -> list[tuple[Region, Region]]:
    """Regions of cells i with the regions of the cells i + offset that they read, as slices of [X, Y, Z].

    Only cells with x in `rows` are taken, and none whose i + offset lies outside.  With walls there is one pair of regions;
    with `periodic` up to four, since x and y wrap; none if the offset is longer than the lattice.
    """
    x, y, z = topology.shape
    wraps = topology.boundary == "periodic"
    along_x, along_y = _runs(x, offset[0], wraps, rows), _runs(y, offset[1], wraps)
    return [
        ((here_x, here_y, here_z), (there_x, there_y, there_z))
        for here_x, there_x in along_x
        for here_y, there_y in along_y
        for here_z, there_z in _runs(z, offset[2], False)
    ]


def _runs(size: int, step: int, wraps: bool, within: slice = slice(None)) -> list[tuple[slice, slice]]:
    """Runs of positions i along one axis with the runs of i + step.  A run ends where i + step leaves the axis or wraps."""
    first, last, _ = within.indices(size)
    if wraps:
        step %= size
        bounds = [(0, size - step, step), (size - step, size, step - size)]
    else:
        bounds = [(max(0, -step), size - max(0, step), step)]
    cut = [(max(start, first), min(stop, last), shift) for start, stop, shift in bounds]
    return [(slice(start, stop), slice(start + shift, stop + shift)) for start, stop, shift in cut if start < stop]


@torch.no_grad()
def products(
    pre: torch.Tensor,
    post: torch.Tensor,
    topology: Topology,
    total: torch.Tensor,
    quiet: float = 0.0,
    pattern: Pattern | None = None,
) -> Work:
    """Adds Σ_b Σ_m pre[b, i + o_k, m] · post[b, i, m] to `total` [kept, X, Y, Z], and nothing if i + o_k lies outside.

    The connections are those of `pattern`, or all K without one.  Fields [B, X, Y, M, Z] and `total` are fp32 and finite.

    The loudness of a tile is its sum of |values|.  A pair of tiles is left out unless the product of its two loudnesses is
    above `quiet` times the product of the mean loudnesses.  With `quiet` = 0 the result is exact; above it, a part of the
    change is given up to save a larger part of the work.
    """
    kernel = library("products.c") if post.device.type == "cpu" else None
    if kernel is None:
        return plain_products(pre, post, topology, total, quiet, pattern)
    batch, x, y, values, z = post.shape
    geometry = ctypes.byref(ConnectionGeometry(topology, len(total), pattern, batch))
    fields, count = [pre.contiguous(), post.contiguous()], ctypes.c_int64(values)
    loudness = [torch.empty(batch, x, y, -(-z // TILE), values) for _ in fields]
    for field, loud in zip(fields, loudness, strict=True):
        kernel.loudness(geometry, pointer(field), count, pointer(loud))
    floor = quiet * float(loudness[0].mean()) * float(loudness[1].mean()) if quiet else 0.0
    work = (ctypes.c_int64 * 2)()
    kernel.products(
        geometry, *map(pointer, fields), *map(pointer, loudness), count, ctypes.c_float(floor), pointer(total), work
    )
    return Work(*work)


@torch.no_grad()
def plain_products(
    pre: torch.Tensor,
    post: torch.Tensor,
    topology: Topology,
    total: torch.Tensor,
    quiet: float = 0.0,
    pattern: Pattern | None = None,
) -> Work:
    """`products` in plain torch, on any device.  `quiet` is ignored, and all of the work is done."""
    batch, _, y, values, z = post.shape
    offsets, tile_pairs = len(topology.offsets), 0
    for rows in slabs(topology.shape[0], max(offsets, batch * values) * y * z):
        start = rows.start
        slab = torch.zeros(offsets, rows.stop - start, y, z, device=post.device)
        for k, offset in enumerate(topology.offsets):
            for (own_x, own_y, own_z), (other_x, other_y, other_z) in pairs_of(topology, offset, rows):
                paired = post[:, own_x, own_y, :, own_z] * pre[:, other_x, other_y, :, other_z]
                slab[k, own_x.start - start : own_x.stop - start, own_y, own_z] = paired.sum((0, 3))
        leads = present(topology, rows, post.device)
        if pattern is not None:
            kept = pattern.rows(rows)
            slab, leads = kept.take(slab), kept.take(leads)
        total[:, rows] += slab
        tile_pairs += int(F.max_pool1d(leads.flatten(0, 2).float(), TILE, ceil_mode=True).sum())
    work = batch * values * tile_pairs
    return Work(work, work)


@torch.no_grad()
def present(topology: Topology, rows: slice, device: torch.device | None = None) -> torch.Tensor:
    """Which connections of the cells in `rows` of x lead to a cell and not over a wall, bool [K, rows, Y, Z]."""
    return leads_from(torch.ones(topology.shape, dtype=torch.bool, device=device), topology, rows)


@torch.no_grad()
def leads_from(cells: torch.Tensor, topology: Topology, rows: slice) -> torch.Tensor:
    """Which connections of the cells in `rows` of x read one of some cells (bool [X, Y, Z]), bool [K, rows, Y, Z]."""
    x, y, z = topology.shape
    first, last, _ = rows.indices(x)
    found = torch.zeros(len(topology.offsets), last - first, y, z, dtype=torch.bool, device=cells.device)
    for k, offset in enumerate(topology.offsets):
        for (own_x, own_y, own_z), there in pairs_of(topology, offset, rows):
            found[k, own_x.start - first : own_x.stop - first, own_y, own_z] = cells[there]
    return found


@torch.no_grad()
def message(state: torch.Tensor, weights: torch.Tensor, topology: Topology, rows: slice, start: int = 0) -> torch.Tensor:
    """The messages Σ_k w_k[i] · s[i + o_k] to the cells in `rows` of x, [B, rows, Y, C, Z].

    weights [K, rows, Y, Z]; state [B, X', Y, C, Z] begins at x = `start` and holds all layers that cells in `rows` read.
    """
    first, last, _ = rows.indices(topology.shape[0])
    total = torch.zeros_like(state[:, first - start : last - start])
    for k, offset in enumerate(topology.offsets):
        for (own_x, y, z), (other_x, other_y, other_z) in pairs_of(topology, offset, rows):
            x = slice(own_x.start - first, own_x.stop - first)
            beside = slice(other_x.start - start, other_x.stop - start)
            total[:, x, y, :, z] += weights[k, x, y, None, z] * state[:, beside, other_y, :, other_z]
    return total
