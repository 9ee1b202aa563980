"""Slabs: a lattice cut along x, so that temporary tensors stay small."""

from __future__ import annotations

from collections.abc import Iterator

SLAB_NUMBERS = 4 * 1024 * 1024
"""Most numbers of a temporary tensor, unless a single layer of x has more.

That is 16 MiB in fp32, which malloc reuses again and again.  From 32 MiB on it maps fresh pages, and page faults cost more than
the sums themselves.
"""


def slabs(size: int, numbers: int) -> Iterator[slice]:
    """Runs that cover 0..size along x, if a layer of x has so many `numbers`.

    A run has at most SLAB_NUMBERS numbers, or a single layer.
    """
    step = max(1, SLAB_NUMBERS // numbers)
    return (slice(start, min(start + step, size)) for start in range(0, size, step))
