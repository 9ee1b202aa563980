"""Competition: few cells of a neighbourhood learn, the others are inhibited, and every cell keeps its total Σ|w|.

This is winner-take-most in the manner of Krotov & Hopfield 2019.  A winner takes the change that its learning rule asks for, a
loser takes a share of it with the opposite sign.  Pure functions; their conventions are those of `lattice.plasticity.rules`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

FLOOR = 1e-6
"""Share of w_max.  When a total is shared out, a weight counts for at least FLOOR * w_max, so that weights at zero can take
part, and for at most w_max / FLOOR, so that sums stay finite."""

CACHED = 4096
"""Cells normalised at a time on a CPU.  Their weights stay in the cache over all rounds, which is about three times as fast."""


@torch.no_grad()
def winners(activity: torch.Tensor, k: int) -> torch.Tensor:
    """The k most active cells along the last dimension: activity [..., N] >= 0 -> bool [..., N].

    There are exactly k winners if at least k cells fire, and fewer if not.  A cell whose activity is zero or not finite never
    wins.  Raises ValueError if k < 1.
    """
    if k < 1:
        raise ValueError(f"competition needs at least 1 winner in a neighbourhood, not {k}")
    fires = torch.isfinite(activity) & (activity > 0)
    best = torch.where(fires, activity, 0).topk(min(k, activity.shape[-1]), dim=-1).indices
    return torch.zeros_like(fires).scatter_(-1, best, True) & fires


@torch.no_grad()
def winners_in_blocks(activity: torch.Tensor, size: int, k: int) -> torch.Tensor:
    """The k winners of every block of size^3 cells: activity [X, Y, Z] -> bool [X, Y, Z].  Blocks at far walls may be less."""
    if size < 1:
        raise ValueError(f"a neighbourhood needs a side of at least 1 cell, not {size}")
    x, y, z = activity.shape
    padded = F.pad(activity, (0, -z % size, 0, -y % size, 0, -x % size))
    nx, ny, nz = (side // size for side in padded.shape)
    blocks = padded.view(nx, size, ny, size, nz, size).permute(0, 2, 4, 1, 3, 5)
    won = winners(blocks.reshape(nx, ny, nz, size**3), k).view(blocks.shape)
    return won.permute(0, 3, 1, 4, 2, 5).reshape(padded.shape)[:x, :y, :z]


@torch.no_grad()
def competitive_change(change: torch.Tensor, won: torch.Tensor, inhibition: float) -> torch.Tensor:
    """The change for the connections of cells that `won`, and -inhibition times the change for those of other cells."""
    return torch.where(won, change, -inhibition * change)


@torch.no_grad()
def conserved(
    magnitude: torch.Tensor,
    total: torch.Tensor,
    w_min: float,
    w_max: float,
    dim: int = 0,
    present: torch.Tensor | None = None,
) -> torch.Tensor:
    """Scales the magnitudes so that they sum to `total` along `dim` while each stays in w_min..w_max.

    magnitude >= 0 has any shape, and total the same shape without `dim`.  `present` (bool, shaped like magnitude) marks the
    connections that exist; the others count as 0 and become 0.  A total that the bounds can't reach is replaced by the nearest
    one that they can.

    The result is v = clip(s * u, w_min, w_max) of the magnitudes u, with one factor s per cell.  It is a factor and not a
    shift (Miller & MacKay 1994 compare the two) because the message norm cancels a factor: if no weight is at a bound, scaling
    changes nothing that the cell computes.  This v minimises Σ (v - u)² / u, a separable quadratic.  The variable fixing of
    Bitran & Hax (1981) finds it exactly: scale the free weights, clip them, fix those on the side that the bounds changed
    most, and repeat.  It takes at most N rounds, in practice a few, of a handful of elementwise passes each; bisection would
    need a pass per bit.
    """
    u = magnitude.movedim(dim, 0)
    free = torch.ones_like(u, dtype=torch.bool) if present is None else present.movedim(dim, 0).expand(u.shape)
    block = CACHED if u.device.type == "cpu" else max(1, total.numel())
    flat = (u.reshape(len(u), -1), free.reshape(len(u), -1), total.reshape(1, -1).to(u.dtype))
    blocks = zip(*(part.split(block, dim=1) for part in flat), strict=True)
    scaled = [_scaled(part, exist, wanted, w_min, w_max) for part, exist, wanted in blocks]
    return torch.cat(scaled, dim=1).view(u.shape).movedim(0, dim)


def _scaled(u: torch.Tensor, free: torch.Tensor, total: torch.Tensor, w_min: float, w_max: float) -> torch.Tensor:
    """`conserved` for u [N, cells], free [N, cells], total [1, cells]."""
    count = free.sum(0, keepdim=True).to(u.dtype)
    left = total.clamp(count * w_min, count * w_max)
    u = torch.nan_to_num(u).clamp(FLOOR * w_max, w_max / FLOOR)
    v = torch.zeros_like(u)
    while True:
        # A cell without free weights has nothing left to scale; any factor will do.
        wish = u * (left / torch.where(free, u, 0).sum(0, keepdim=True).clamp(min=FLOOR * w_max))
        clipped = wish.clamp(w_min, w_max)
        missing = torch.where(free, clipped - wish, 0)
        net = missing.sum(0, keepdim=True)
        fixed = ((missing > 0) & (net >= 0)) | ((missing < 0) & (net <= 0))
        if not fixed.any():
            return torch.where(free, clipped, v)
        v = torch.where(fixed, clipped, v)
        left = left - torch.where(fixed, clipped, 0).sum(0, keepdim=True)
        free = free & ~fixed


@torch.no_grad()
def compete(
    magnitude: torch.Tensor,
    change: torch.Tensor,
    won: torch.Tensor,
    inhibition: float,
    w_min: float,
    w_max: float,
    dim: int = 0,
    present: torch.Tensor | None = None,
    total: torch.Tensor | None = None,
) -> torch.Tensor:
    """One step: winners learn, losers unlearn, and each cell's Σ|w| along `dim` becomes `total` again.

    Without `total`, it is what the magnitudes sum to now; a caller that always gives the first total avoids drift.  A change
    that is not finite is ignored.
    """
    if total is None:
        kept = magnitude if present is None else magnitude * present
        total = kept.sum(dim)
    change = competitive_change(change, won, inhibition)
    moved = magnitude + torch.where(torch.isfinite(change), change, 0).to(magnitude.dtype)
    return conserved(moved.clamp(min=0), total, w_min, w_max, dim, present)
