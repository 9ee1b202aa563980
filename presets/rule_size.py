"""The size of the shared rule, without torch."""

from __future__ import annotations

HIDDEN = 32
"""Default of rule.hidden."""

BLOCKS = 64
"""Blocks of cells over which the C kernel first sums the gradients of the rule.  At most so many threads share a backward."""

PROGRAMS = 1024
"""Programs at most over which the Triton kernel first sums the gradients of the rule; each sums some blocks of cells."""


def rule_size(channels: int, hidden: int | None) -> int:
    """Numbers of a shared rule for C channels: linear if `hidden` is 0, else with a hidden layer; 0 if it is None (no rule)."""
    width = 2 * channels
    if hidden is None:
        return 0
    return hidden * (width + 1) + width * (hidden + 1) if hidden else width * (width + 1)
