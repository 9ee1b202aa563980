"""The state that each optimizer keeps for a tensor of the lattice, counted without torch.

lattice.optimizers uses the same shapes when it makes that state.

adamw      two moments in fp32                                                    8 bytes per number
adam8bit   two moments in 8 bits, a scale for each block of them                  2.03
adafactor  second moment as an outer product; first one in bf16 or none           2.4 or 0.4 (cells of 12 x 150 numbers)
lion       momentum in bf16                                                       2
galore     two moments in fp32 of the gradient's projection to a share of itself  8 times the share, and the factors

The shared rule always has the two moments of AdamW.
"""

from __future__ import annotations

import bisect
import math
from typing import TYPE_CHECKING, assert_never

from presets.rule_size import rule_size

if TYPE_CHECKING:
    from presets.schema import Optimizer, RunConfig
    from presets.stage import Stage

TENSOR_RANK, GAP, LION_RATE = 0.25, 100, 0.3
"""Defaults of galore's tensor_rank and gap, and of lion's lion_rate."""

BLOCK = 256
"""Numbers that share one scale in 8-bit moments."""

CELL_VECTORS = 6
"""Parameter vectors of C numbers per cell; the gain of the functional tier is one more."""

_SHARES = 1000
"""A share that is derived from a budget is a multiple of 1 / _SHARES."""

Shape = tuple[int, ...]


def lattice_tensors(config: RunConfig, stage: Stage, kept: int | None = None) -> list[tuple[str, Shape]]:
    """(part, shape) of each tensor of a stage's lattice that follows `optimizer.name`, with `kept` or all connections per cell.

    The profile `freeze` is ignored, since it can be changed while the stage trains.
    """
    if config.lattice.arm != "lattice":
        return []
    channels, (x, y, z) = config.lattice.channels, stage.shape
    tensors: list[tuple[str, Shape]] = []
    if config.lattice.cells == "gradient":
        tensors.append(("cells", (CELL_VECTORS, x, y, channels, z)))
        if stage.clustering.functional:
            tensors.append(("cells", (x, y, channels, z)))
    if config.connections.learning in ("gradient", "hybrid"):
        tensors.append(("connections", (len(stage.topology("walls").offsets) if kept is None else kept, x, y, z)))
    return tensors


def rule_numbers(config: RunConfig, stage: Stage) -> int:
    """Numbers of a stage's rule, or of those of all its cells."""
    rules = math.prod(stage.shape) if config.rule.scope == "cell" else 1
    return rules * rule_size(config.lattice.channels, config.rule.hidden_numbers)


def state_bytes(config: RunConfig, stage: Stage, kept: int) -> int:
    """Bytes of the optimizer's state for a lattice with `kept` connections per cell, without step counters and the like."""
    frozen = stage.profile == "freeze"
    tensors = [each for each in lattice_tensors(config, stage, kept) if not (frozen and each[0] == "connections")]
    rank = tensor_rank(config, stage) if config.optimizer.name == "galore" else 1.0
    of_rule = 8 * rule_numbers(config, stage) * (config.lattice.cells == "gradient")
    return of_rule + sum(_bytes_of(config.optimizer, part, shape, rank) for part, shape in tensors)


def _bytes_of(section: Optimizer, part: str, shape: Shape, rank: float) -> int:
    numbers = math.prod(shape)
    match section.name:
        case "adam8bit":
            return 2 * (numbers + 4 * -(-numbers // BLOCK))
        case "adafactor":
            factors = numbers // shape[-1] + numbers // shape[factored_axis(part, len(shape))]
            return 4 * factors + 2 * numbers * (section.momentum == "bf16")
        case "lion":
            return 2 * numbers
        case "galore":
            return galore_bytes(shape, rank)
        case "adamw":
            return 8 * numbers
        case unknown:
            assert_never(unknown)


def factored_axis(part: str, axes: int) -> int:
    """The axis that adafactor factors together with the last one (z): the offsets of connections, the channels of cells."""
    return 0 if part == "connections" else axes - 2


def galore_ranks(shape: Shape, rank: float) -> Shape:
    """The rank of each mode.  `rank` is the rank itself if it is above 1, and else the share of numbers to keep.

    The first mode (parameter or offset) is never projected.  A share is spread evenly over the other modes.
    """
    if rank > 1:
        return shape[0], *(min(size, int(rank)) for size in shape[1:])
    each = rank ** (1 / (len(shape) - 1))
    return shape[0], *(max(1, math.floor(size * each + 1e-9)) for size in shape[1:])


def galore_bytes(shape: Shape, rank: float) -> int:
    ranks = galore_ranks(shape, rank)
    factors = sum(size * rank for size, rank in zip(shape, ranks, strict=True) if rank < size)
    return 4 * (2 * math.prod(ranks) + factors)


def tensor_rank(config: RunConfig, stage: Stage) -> float:
    """The rank or share that galore keeps, for galore_ranks: the one that is set, or the largest share within the budget.

    The share is at least a thousandth.  A budget is taken for unpruned connections, so that the share does not depend on what
    is pruned when.
    """
    section = config.optimizer
    if section.tensor_budget_gb is None:
        return section.tensor_rank if section.tensor_rank is not None else TENSOR_RANK
    shapes = [shape for _, shape in lattice_tensors(config, stage)]

    def bytes_at(thousandths: int) -> int:
        return sum(galore_bytes(shape, thousandths / _SHARES) for shape in shapes)

    return max(1, bisect.bisect_right(range(1, _SHARES + 1), round(section.tensor_budget_gb * 1e9), key=bytes_at)) / _SHARES
