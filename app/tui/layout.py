"""Computes where the panels of the run screen go.  Pure: from a size to a region for each panel that is shown."""

from __future__ import annotations

from textual.geometry import Region

NARROW = 100
LOW = 30
"""With fewer columns or rows than these, one panel is shown at a time."""

WIDE = 190
TALL = 47
"""With this many columns there is a third column of panels.  With this many rows every panel is shown."""


def arrange(width: int, height: int, alone: str | None) -> dict[str, Region]:
    """The regions of the panels, which tile width x height.  With `alone`, that panel has all of it."""
    if alone is not None:
        return {alone: Region(0, 0, width, height)}
    if width >= WIDE:
        left, right = width * 2 // 5, width // 4
        middle = width - left - right
        rows = {"Stages": 12, "Memory": 0, "Clusters": 5, "Plasticity": 5}
        if height >= TALL:
            rows = {"Stages": 12, "Memory": height * 3 // 10, "Clusters": 0, "Plasticity": 11}
        return {
            **_column(0, left, height, {"Curves": 0}),
            **_column(left, middle, height, {"Text": 0, "Log": height // 3}),
            **_column(left + middle, right, height, rows),
        }
    left = width * 11 // 20
    return {
        **_column(0, left, height, {"Curves": 0, "Text": height * 2 // 5}),
        **_column(left, width - left, height, _side(height)),
    }


def is_small(width: int, height: int) -> bool:
    return width < NARROW or height < LOW


def _side(height: int) -> dict[str, int]:
    """The panels of the right column and their rows.  If there is little room, Clusters and Plasticity are left out."""
    rows = {"Stages": 10, "Memory": 12, "Clusters": 14, "Plasticity": 5, "Log": 0}
    if height >= 60:
        rows = {"Stages": 11, "Memory": 16, "Clusters": 16, "Plasticity": 11, "Log": 0}
    if height < TALL:
        rows = {"Stages": 10, "Memory": 11, "Log": 0}
    return rows


def _column(x: int, width: int, height: int, rows: dict[str, int]) -> dict[str, Region]:
    """The regions of panels under each other.  The panel with 0 rows takes what is left."""
    free = height - sum(rows.values())
    regions, y = {}, 0
    for name, wanted in rows.items():
        taken = wanted or free
        regions[name] = Region(x, y, width, taken)
        y += taken
    return regions
