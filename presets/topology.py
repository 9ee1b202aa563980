"""The topology of a lattice: which cells a cell reads, and whether a signal can cross the lattice in the ticks of a stage.

A topology is a list of offsets (dx, dy, dz) that all cells share.  Cell i reads cell i + offset, so there is no index table.
Offsets have two tiers: the 26 Moore neighbours (*local*), and a few far cells along the axes (*distant*).  The third tier,
*functional*, goes through the means of clusters and has no offsets (lattice.kernels.functional.Functional).

With the boundary `walls`, cells outside read as zero.  `periodic` wraps x and y.  z always ends in walls: the input and output
faces lie there, and a wrap would join them in one hop.
"""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass

Offset = tuple[int, int, int]

_STEPS = (-1, 0, 1)
LOCAL_OFFSETS: tuple[Offset, ...] = tuple(o for o in itertools.product(_STEPS, _STEPS, _STEPS) if o != (0, 0, 0))

TILE = 16
"""Cells along z that keep the same connections in a pruned lattice: one for each lane of a vector in the C kernels, which get
this number when they are compiled."""

REACH_FLOOR = 0.9
"""Smallest accepted share of useful cells; the others would never get a gradient."""


@dataclass(frozen=True)
class Topology:
    """The shape (x, y, z) in cells, the distant strides along each axis in cells, each in both directions, and the boundary."""

    shape: tuple[int, int, int]
    strides: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] = ((), (), ())
    boundary: str = "walls"

    @property
    def offsets(self) -> tuple[Offset, ...]:
        """All K offsets, local ones first, in the order of the weight tensor's first axis."""
        return LOCAL_OFFSETS + self.distant_offsets

    @property
    def distant_offsets(self) -> tuple[Offset, ...]:
        offsets: list[Offset] = []
        for axis, strides in enumerate(self.strides):
            for stride in strides:
                for sign in (-1, 1):
                    offset = [0, 0, 0]
                    offset[axis] = sign * stride
                    offsets.append((offset[0], offset[1], offset[2]))
        return tuple(offsets)

    @property
    def cells(self) -> int:
        x, y, z = self.shape
        return x * y * z


def hops_from(face: int, depth: int, strides: tuple[int, ...]) -> list[int]:
    """Fewest hops from depth `face` to every depth 0..depth-1, by steps of 1 or of a stride in both directions.

    Only depth counts, since all cells share the offsets, and every cell of a face is driven or read.
    """
    hops = [-1] * depth
    hops[face] = 0
    queue = deque([face])
    while queue:
        z = queue.popleft()
        for step in (1, *strides):
            for other in (z - step, z + step):
                if 0 <= other < depth and hops[other] < 0:
                    hops[other] = hops[z] + 1
                    queue.append(other)
    return hops


def _path_lengths(topology: Topology) -> list[int]:
    depth, strides = topology.shape[2], topology.strides[2]
    inward = hops_from(0, depth, strides)
    outward = hops_from(depth - 1, depth, strides)
    return [a + b for a, b in zip(inward, outward, strict=True)]


def reach(topology: Topology, ticks: int) -> float:
    """Share of cells that lie on a path from input to output of at most `ticks` hops."""
    lengths = _path_lengths(topology)
    return sum(length <= ticks for length in lengths) / len(lengths)


def ticks_for_reach(topology: Topology, floor: float = REACH_FLOOR) -> int:
    """Fewest ticks for which the reach is at least `floor`."""
    lengths = sorted(_path_lengths(topology))
    needed = -(-len(lengths) * floor // 1)
    return lengths[max(0, int(needed) - 1)]
