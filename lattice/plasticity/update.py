"""The update of connections by the sums of their rule, in five steps that are the same for all rules.

    wish            the change of |w| that the rule asks for: by two sums with STDP, else sign · sum - decay · |w|
    competition     cells that lost take -inhibition times the wish
    bounds          |w| stays within w_min..w_max; a change that is not finite counts as 0
    conservation    |w| is scaled so that each cell keeps its sum; not if only some connections may change
    sign            stays as it was, also that of a zero; connections over a wall do not change at all

For fp32 on the CPU, `learn` does this in one pass in C (`update.c`).  `plain_learn` does it anywhere, in some 25 passes of
torch.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch

from lattice.kernels.native import pointer
from lattice.kernels.sparse import Pattern
from lattice.plasticity import competition, rules
from lattice.plasticity.c_library import ConnectionGeometry, library
from lattice.plasticity.products import present
from lattice.plasticity.slabs import slabs
from presets.plasticity_section import PlasticitySection as Settings
from presets.topology import Topology

MAX_KEPT = 128
"""Most connections per cell that update.c takes."""

DEFINES = (f"-DMAX_KEPT={MAX_KEPT}",)


@dataclass(frozen=True)
class Wish:
    """The change that a rule asks for: `share` times its sums [kept, X, Y, Z].

    With `stdp` there are two sums: of neighbours' spikes before the cell's own spikes, and of those after them.  For a
    connection of negative sign the two change places.  Without `stdp` there is one sum; it is multiplied by the connection's
    sign, and `decay` [X, Y, Z] times |w| is subtracted.
    """

    sums: list[torch.Tensor]
    share: float
    stdp: rules.STDP | None = None
    decay: torch.Tensor | None = None

    def change(self, rows: slice, weights: torch.Tensor) -> torch.Tensor:
        """The change of |w| for weights [kept, rows, Y, Z]."""
        sums, magnitude = [total[:, rows] * self.share for total in self.sums], weights.abs()
        sign = torch.copysign(torch.ones_like(weights), weights)
        if self.stdp is not None:
            causal, acausal = torch.where(sign > 0, sums[0], sums[1]), torch.where(sign > 0, sums[1], sums[0])
            weaker = rules.depressed(magnitude, acausal, self.stdp)
            return rules.potentiated(weaker, causal, self.stdp) - magnitude
        correlation = sign * sums[0]
        return correlation if self.decay is None else rules.oja_change(correlation, self.decay[rows], magnitude, 1.0)


@dataclass
class Changed:
    """What an update did: how many connections there are, of how many |w| rose and fell, and the sum of |dw|."""

    potentiated: int = 0
    depressed: int = 0
    connections: int = 0
    moved: float = 0.0


@torch.no_grad()
def learn(
    weights: torch.Tensor,
    wish: Wish,
    won: torch.Tensor | None,
    settings: Settings,
    topology: Topology,
    pattern: Pattern | None = None,
    only: torch.Tensor | None = None,
) -> Changed:
    """Changes `weights` [kept, X, Y, Z] in place.

    `won` (bool [X, Y, Z]) marks the cells that win the competition; None if all do.  The connections are those of `pattern`, or
    all K without one.  If `only` (bool [kept, X, Y, Z]) is given, the connections that it marks change and no other, and a
    cell's sum is not kept.  Results do not depend on the number of threads.
    """
    fits = weights.dtype == torch.float32 and weights.is_contiguous() and len(weights) <= MAX_KEPT
    kernel = library("update.c", *DEFINES) if fits and weights.device.type == "cpu" else None
    if kernel is None:
        return plain_learn(weights, wish, won, settings, topology, pattern, only)
    stdp, fields = wish.stdp, [wish.sums[0], wish.sums[1] if wish.stdp is not None else None, wish.decay]
    marks = [mark.contiguous() if mark is not None else None for mark in (won, only)]
    rule = _Rule(
        *map(pointer, fields), *(pointer(mark, torch.bool) for mark in marks), wish.share,
        *((stdp.A_plus, stdp.A_minus, stdp.mu) if stdp is not None else (0.0, 0.0, 0.0)),
        settings.inhibition, settings.w_min, settings.w_max, competition.FLOOR * settings.w_max,
        settings.conserve and only is None,
    )  # fmt: skip
    geometry, tally = ConnectionGeometry(topology, len(weights), pattern), _Tally()
    kernel.strips.restype = ctypes.c_int64
    parts = (_Tally * kernel.strips(ctypes.byref(geometry)))()
    kernel.update(*map(ctypes.byref, (geometry, rule)), pointer(weights), parts, ctypes.byref(tally))
    return Changed(tally.potentiated, tally.depressed, tally.connections, tally.moved)


class _Rule(ctypes.Structure):
    """As in update.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("sums", "acausal", "decay", "won", "only")),
        *((name, ctypes.c_float) for name in ("share", "A_plus", "A_minus", "mu", "inhibition", "w_min", "w_max", "floor")),
        ("conserve", ctypes.c_int32),
    ]


class _Tally(ctypes.Structure):
    """As in update.c."""

    _fields_ = [*((name, ctypes.c_int64) for name in ("potentiated", "depressed", "connections")), ("moved", ctypes.c_double)]


@torch.no_grad()
def plain_learn(
    weights: torch.Tensor,
    wish: Wish,
    won: torch.Tensor | None,
    settings: Settings,
    topology: Topology,
    pattern: Pattern | None = None,
    only: torch.Tensor | None = None,
) -> Changed:
    """`learn` in plain torch, on any device."""
    learned = Changed()
    for rows in slabs(topology.shape[0], weights[:, 0].numel()):
        old = weights[:, rows]
        exists = present(topology, rows, weights.device)
        if pattern is not None:
            exists = pattern.rows(rows).take(exists)
        if only is not None:
            exists = exists & only[:, rows]
        magnitude, change = old.abs(), wish.change(rows, old)
        if won is not None:
            change = competition.competitive_change(change, won[rows], settings.inhibition)
        moved = rules.bounded(magnitude, change * exists, settings.w_min, settings.w_max)
        if settings.conserve and only is None:
            total = (magnitude * exists).sum(0)
            moved = competition.conserved(moved, total, settings.w_min, settings.w_max, present=exists)
        moved = torch.where(exists, moved, magnitude)
        old.copy_(rules.with_sign(moved, old))
        difference = moved - magnitude
        learned.potentiated += int((difference > 0).sum())
        learned.depressed += int((difference < 0).sum())
        learned.connections += int(exists.sum())
        learned.moved += float(difference.abs().sum(dtype=torch.float64))
    return learned
