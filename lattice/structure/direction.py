"""Which way connections lead: how much of the weight of a cell comes from nearer the input, by depth."""

from __future__ import annotations

import itertools

import torch

from lattice.structure.spatial_order import in_bounds
from presets.topology import Topology

QUARTERS = 4
"""Parts of the depth, from the input face to the output face."""


@torch.no_grad()
def forward_shares(weights: torch.Tensor, topology: Topology, parts: int = QUARTERS) -> list[float]:
    """The share of Σ|w| whose sender lies nearer the input than its receiver, for each part of the receivers' depth.

    weights [K, X, Y, Z].  Connections over a wall are left out; the share of a part without any weight is 0.
    """
    depth = topology.shape[2]
    forward, total = torch.zeros(depth, dtype=torch.float64), torch.zeros(depth, dtype=torch.float64)
    for own, offset in zip(weights, topology.offsets, strict=True):
        size = (own.abs() * in_bounds(offset, topology).to(own.device)).sum((0, 1), dtype=torch.float64).cpu()
        total += size
        forward += size * (offset[2] < 0)
    ends = [depth * part // parts for part in range(parts + 1)]
    layers = [slice(first, last) for first, last in itertools.pairwise(ends)]
    return [float(forward[some].sum() / total[some].sum().clamp(min=1e-12)) for some in layers]
