"""What a rule sees of a lattice: products of what two connected cells did, summed over samples, ticks and channels.

Every rule of lattice.plasticity.rules needs sums of the form  Σ_m pre_m[i + o_k] · post_m[i]  for each connection k of each
cell i; what the rules differ in is which fields they pair.  `m` runs over whatever a field holds in a cell: samples and ticks,
or samples and channels.
"""

from __future__ import annotations

import torch

from presets.topology import Offset, Topology

SLAB_NUMBERS = 8 * 1024 * 1024
"""Products of one offset held at once (32 MiB in fp32); larger lattices are taken in slabs along x."""

Region = tuple[slice, slice, slice]


def pairs_of(topology: Topology, offset: Offset) -> list[tuple[Region, Region]]:
    """(where cells i lie, where i + offset lies), as slices of [X, Y, Z]: cells that read zero outside are left out.

    One pair with walls; with `periodic` up to four, for x and y wrap.  Empty where the offset is longer than the lattice.
    """
    x, y, z = topology.shape
    wraps = topology.boundary == "periodic"
    along_x, along_y = _runs(x, offset[0], wraps), _runs(y, offset[1], wraps)
    return [
        ((here_x, here_y, here_z), (there_x, there_y, there_z))
        for here_x, there_x in along_x
        for here_y, there_y in along_y
        for here_z, there_z in _runs(z, offset[2], False)
    ]


def _runs(size: int, step: int, wraps: bool) -> list[tuple[slice, slice]]:
    """Runs of positions i along one axis with the positions i + step, cut where they leave the axis (or wrap)."""
    if wraps:
        step %= size
        runs = [(slice(0, size - step), slice(step, size)), (slice(size - step, size), slice(0, step))]
    else:
        runs = [(slice(max(0, -step), size - max(0, step)), slice(max(0, step), size - max(0, -step)))]
    return [(here, there) for here, there in runs if here.start < here.stop and there.start < there.stop]


@torch.no_grad()
def products(pre: torch.Tensor, post: torch.Tensor, topology: Topology) -> torch.Tensor:
    """Σ_m pre[m, i + o_k] · post[m, i] for fields [M, X, Y, Z] -> [K, X, Y, Z], in fp32; 0 where i + o_k lies outside."""
    total = torch.zeros(len(topology.offsets), *topology.shape, device=post.device)
    _, _, y, z = post.shape
    rows = max(1, SLAB_NUMBERS // (post.shape[0] * y * z))
    for k, offset in enumerate(topology.offsets):
        for here, there in pairs_of(topology, offset):
            for start in range(here[0].start, here[0].stop, rows):
                x = slice(start, min(start + rows, here[0].stop))
                shift = there[0].start - here[0].start
                at, beside = (x, *here[1:]), (slice(x.start + shift, x.stop + shift), *there[1:])
                torch.sum(post[:, *at] * pre[:, *beside], dim=0, out=total[k, *at])
    return total


@torch.no_grad()
def present(topology: Topology, device: torch.device | None = None) -> torch.Tensor:
    """bool [K, X, Y, Z]: connections that lead to a cell, not over a wall."""
    inside = torch.zeros(len(topology.offsets), *topology.shape, dtype=torch.bool, device=device)
    for k, offset in enumerate(topology.offsets):
        for here, _ in pairs_of(topology, offset):
            inside[k, *here] = True
    return inside
