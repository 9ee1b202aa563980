"""What a cell-update costs as the lattice grows: the C tick on lattices from 16x16x16 up to as many cells as memory takes.

The cost of a cell should not depend on how many there are.  Small lattices lie in a cache and are held to no floor.
"""

from __future__ import annotations

from collections.abc import Callable

from lattice.bench.timings import Row, bench_tick, tick_bytes

GROWTH = (
    (16, 16, 16),
    (32, 32, 16),
    (50, 50, 25),
    (64, 64, 32),
    (100, 100, 50),
    (150, 150, 75),
    (200, 200, 100),
    (300, 300, 150),
)

KERNEL = ("native",)


def bench_growth(
    repeats: int,
    limit: float,
    told: Callable[[str], object],
    shapes: tuple[tuple[int, int, int], ...] = GROWTH,
) -> tuple[list[Row], list[str]]:
    """(rows, remarks) at batch 1; forward alone where gradients would take more than `limit` bytes, nothing where that does."""
    rows: list[Row] = []
    remarks: list[str] = []
    for shape in shapes:
        name = "x".join(map(str, shape))
        both = tick_bytes(shape, 1, KERNEL) <= limit
        needed = tick_bytes(shape, 1, KERNEL, both)
        if needed > limit:
            remarks.append(f"{name}: takes {needed / 1e9:.1f} GB, and {limit / 1e9:.1f} GB may be taken")
            continue
        told(f"growth: {name}{'' if both else ', forward only'}")
        found, missing = bench_tick(shape, 1, repeats, KERNEL, both)
        if missing:
            return rows, remarks + missing
        rows += found
        if not both:
            remarks.append(f"{name}: forward only; with gradients it takes {tick_bytes(shape, 1, KERNEL) / 1e9:.1f} GB")
    return rows, remarks
