"""Temporaries that stay small: what is taken over a whole lattice is taken in slabs along x."""

from __future__ import annotations

from collections.abc import Iterator

SLAB_NUMBERS = 4 * 1024 * 1024
"""Numbers of a temporary tensor, where a layer of x has no more.

16 MiB in fp32 are taken by malloc again and again; from 32 MiB on it maps fresh pages, and faults cost more than the sums.
"""


def slabs(size: int, numbers: int) -> Iterator[slice]:
    """Runs of 0..size along x, at most SLAB_NUMBERS each where a layer of x has so many `numbers`."""
    step = max(1, SLAB_NUMBERS // numbers)
    return (slice(start, min(start + step, size)) for start in range(0, size, step))
