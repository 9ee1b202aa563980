"""The cost of a cell-update as the lattice grows: times the C tick from 16x16x16 up to the largest lattice that fits memory.

The cost per cell should not depend on the number of cells.  Small lattices fit into a cache, so the memory-copy floor does not
apply to them.
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
    """Times the C tick at batch 1 on all `shapes`.  Returns (rows, remarks).

    If gradients would take more than `limit` bytes, a shape gets the forward alone.  If that would, too, it is left out.
    `told` is called with a line before each measurement.
    """
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
