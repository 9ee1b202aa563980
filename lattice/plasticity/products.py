"""What a rule sees of a lattice: products of what two connected cells did, summed over samples, ticks and channels.

Every rule of lattice.plasticity.rules needs sums of the form  Σ_m pre_m[i + o_k] · post_m[i]  for each connection k of each
cell i; what the rules differ in is which fields they pair.  Fields are laid out as states are, [B, X, Y, M, Z], and `m` runs
over whatever they hold in a cell: the ticks or the channels of B sentences.

The work is counted in products of two tiles, 16 cells along z of one value of one sentence.  `products.c` leaves out those of
which an end is silent; the plain version, `plain_products`, does them all.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from importlib import resources

import torch
import torch.nn.functional as F

from lattice.kernels.native import MAX_OFFSETS, Geometry, KernelUnavailable, compiled, pointer
from lattice.kernels.sparse import TILE
from presets.topology import Offset, Topology

SLAB_NUMBERS = 8 * 1024 * 1024
"""Products of one offset held at once (32 MiB in fp32); larger lattices are taken in slabs along x."""

WORD = 64
"""Events of a tile kept in one integer; as in products.c."""

Region = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Work:
    """Products of two tiles: `done` of `possible`."""

    done: int
    possible: int


def pairs_of(topology: Topology, offset: Offset, rows: slice = slice(None)) -> list[tuple[Region, Region]]:
    """(where cells i lie, where i + offset lies), as slices of [X, Y, Z]: cells that read zero outside are left out.

    Only cells i with x in `rows`.  One pair with walls; with `periodic` up to four, for x and y wrap.  Empty where the offset
    is longer than the lattice.
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
    """Runs of positions i along one axis with the positions i + step, cut where they leave the axis (or wrap)."""
    first, last, _ = within.indices(size)
    if wraps:
        step %= size
        bounds = [(0, size - step, step), (size - step, size, step - size)]
    else:
        bounds = [(max(0, -step), size - max(0, step), step)]
    cut = [(max(start, first), min(stop, last), shift) for start, stop, shift in bounds]
    return [(slice(start, stop), slice(start + shift, stop + shift)) for start, stop, shift in cut if start < stop]


@torch.no_grad()
def products(pre: torch.Tensor, post: torch.Tensor, topology: Topology, total: torch.Tensor, floor: float = 0.0) -> Work:
    """Adds Σ_b Σ_m pre[b, i + o_k, m] · post[b, i, m] to `total` [K, X, Y, Z]; nothing where i + o_k lies outside.

    Fields [B, X, Y, M, Z] and `total` are fp32 and finite.  Tiles of `post` whose Σ|post| is not above `floor` count as
    silent: at 0 the result is exact, above it a share of the work is given up.
    """
    kernel = _library() if post.device.type == "cpu" and len(topology.offsets) <= MAX_OFFSETS else None
    if kernel is None:
        return plain_products(pre, post, topology, total, floor)
    batch, _, _, values, _ = post.shape
    steps = [(ctypes.c_int32 * len(topology.offsets))(*axis) for axis in zip(*topology.offsets, strict=True)]
    geometry = Geometry(
        batch, *topology.shape, len(topology.offsets), *map(ctypes.addressof, steps), topology.boundary == "periodic"
    )
    pre, post = pre.contiguous(), post.contiguous()
    events = [_events(kernel, geometry, field, least) for field, least in ((pre, 0.0), (post, floor))]
    done = kernel.products(
        ctypes.byref(geometry), pointer(pre), pointer(post), *(pointer(e, torch.int64) for e in events),
        ctypes.c_int64(values), pointer(total),
    )  # fmt: skip
    return Work(done, batch * values * tile_pairs(topology))


def _events(kernel: ctypes.CDLL, geometry: Geometry, field: torch.Tensor, floor: float) -> torch.Tensor:
    """One bit a value [B, X, Y, tiles, words]: set where the tile's Σ|field| is above `floor`."""
    batch, x, y, values, z = field.shape
    tiles, count, where = -(-z // TILE), ctypes.c_int64(values), ctypes.byref(geometry)
    loudness = torch.empty(batch, x, y, values, tiles)
    events = torch.empty(batch, x, y, tiles, -(-values // WORD), dtype=torch.int64)
    kernel.loudness(where, pointer(field), count, pointer(loudness))
    kernel.mark(where, pointer(loudness), count, ctypes.c_float(floor), pointer(events, torch.int64))
    return events


@functools.cache
def _library() -> ctypes.CDLL | None:
    """The compiled kernel, or None where it can't be built."""
    sources = {
        name: resources.files(package).joinpath(name).read_text()
        for package, name in (
            ("lattice.kernels", "vectors.h"),
            ("lattice.kernels", "tiles.h"),
            ("lattice.plasticity", "products.c"),
        )
    }
    try:
        library = compiled("products.c", sources, "-Wno-unused-function")
    except KernelUnavailable:
        return None
    library.products.restype = ctypes.c_int64
    return library


@functools.cache
def tile_pairs(topology: Topology) -> int:
    """Connections between tiles: of every tile and offset, those that lead to a cell from at least one of the 16."""
    return sum(
        (here[0].stop - here[0].start) * (here[1].stop - here[1].start) * (-(-here[2].stop // TILE) - here[2].start // TILE)
        for offset in topology.offsets
        for here, _ in pairs_of(topology, offset)
    )


@torch.no_grad()
def plain_products(pre: torch.Tensor, post: torch.Tensor, topology: Topology, total: torch.Tensor, floor: float = 0.0) -> Work:
    """`products` in plain torch, on any device; all of the work is done, whatever is silent."""
    batch, _, y, values, z = post.shape
    if floor > 0:
        loud = F.pad(post.abs(), (0, -z % TILE)).unflatten(-1, (-1, TILE)).sum(-1) > floor
        post = post * loud.repeat_interleave(TILE, -1)[..., :z]
    step = max(1, SLAB_NUMBERS // (batch * values * y * z))
    for start in range(0, topology.shape[0], step):
        for k, offset in enumerate(topology.offsets):
            for (x, *here), (beside, *there) in pairs_of(topology, offset, slice(start, start + step)):
                paired = post[:, x, here[0], :, here[1]] * pre[:, beside, there[0], :, there[1]]
                total[k, x, *here] += paired.sum((0, 3))
    work = batch * values * tile_pairs(topology)
    return Work(work, work)


@torch.no_grad()
def present(topology: Topology, rows: slice, device: torch.device | None = None) -> torch.Tensor:
    """bool [K, rows, Y, Z]: connections of the cells in `rows` of x that lead to a cell, not over a wall."""
    x, y, z = topology.shape
    first, last, _ = rows.indices(x)
    inside = torch.zeros(len(topology.offsets), last - first, y, z, dtype=torch.bool, device=device)
    for k, offset in enumerate(topology.offsets):
        for (x, *here), _ in pairs_of(topology, offset, rows):
            inside[k, x.start - first : x.stop - first, *here] = True
    return inside


@torch.no_grad()
def message(state: torch.Tensor, weights: torch.Tensor, topology: Topology, rows: slice) -> torch.Tensor:
    """Σ_k w_k[i] · s[i + o_k] of the cells in `rows` of x: state [B, X, Y, C, Z], weights [K, rows, Y, Z]."""
    first = rows.indices(topology.shape[0])[0]
    total = torch.zeros_like(state[:, rows])
    for k, offset in enumerate(topology.offsets):
        for (x, y, z), (beside, *there) in pairs_of(topology, offset, rows):
            x = slice(x.start - first, x.stop - first)
            total[:, x, y, :, z] += weights[k, x, y, None, z] * state[:, beside, there[0], :, there[1]]
    return total
