"""The size of the recurrent network that can stand in the lattice's place, without torch."""

from __future__ import annotations

import math

GRU_WIDTH = 137
"""Default of lattice.gru_width: the least with as many parameters as lattice, rule and ports of the preset walker."""

MAX_GRU_WIDTH = 4096


def gru_size(slot_width: int, width: int) -> int:
    """Number of parameters of lattice.model.recurrent.Recurrent: torch's GRU of so many units, and its linear read."""
    return 3 * width * (slot_width + width + 2) + slot_width * (width + 1)


def least_gru_width(slot_width: int, parameters: int) -> int:
    """The least width with at least so many parameters: gru_size solved for it."""
    linear = 4 * slot_width + 6
    root = math.sqrt(linear**2 + 12 * max(0, parameters - slot_width))
    width = max(1, math.floor((root - linear) / 6))
    return width if gru_size(slot_width, width) >= parameters else width + 1
