"""Competition: few cells of a neighbourhood learn, the others are inhibited, and every cell keeps its total Σ|w|.

Winner-take-most in the manner of Krotov & Hopfield 2019: a winner takes the change its learning rule wishes, a loser a share
of it with the opposite sign.  Pure functions; the conventions are those of `lattice.plasticity.rules`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

FLOOR = 1e-6
"""Share of w_max that a weight counts for at least when a total is shared out, so that weights at zero can take part; at
most a weight counts for w_max / FLOOR, so that sums stay finite."""

CACHED = 4096
"""Cells normalised at a time on a CPU: their weights stay in the cache over the rounds, about three times as fast."""


@torch.no_grad()
def winners(activity: torch.Tensor, k: int) -> torch.Tensor:
    """activity [..., N] >= 0 -> bool [..., N]: the k most active of the last dimension, and exactly k where so many fire.

    A cell of activity zero, or not finite, never wins.  Raises ValueError if k < 1; k >= N lets all that fire win.
    """
    if k < 1:
        raise ValueError(f"competition needs at least 1 winner in a neighbourhood, not {k}")
    fires = torch.isfinite(activity) & (activity > 0)
    best = torch.where(fires, activity, 0).topk(min(k, activity.shape[-1]), dim=-1).indices
    return torch.zeros_like(fires).scatter_(-1, best, True) & fires


@torch.no_grad()
def winners_in_blocks(activity: torch.Tensor, size: int, k: int) -> torch.Tensor:
    """activity [X, Y, Z] -> bool [X, Y, Z]: the k winners of every size^3 block; blocks at the far walls may be smaller."""
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
    """`change` for the connections of cells that won, -inhibition * change for the others; `won` is per cell."""
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

    magnitude >= 0 of any shape; total the same without `dim`; `present` (bool, as magnitude) marks the connections that
    exist, the others become and count 0.  A total beyond the reach of the bounds is moved to the nearest within.

    Finds v = clip(s * u, w_min, w_max) with one factor s per cell.  A factor rather than a shift (Miller & MacKay 1994 compare
    the two), because the message norm cancels a factor: where no bound binds, normalising changes nothing that the cell
    computes.  This v minimises Σ (v - u)² / u, a separable quadratic, and the variable fixing of Bitran & Hax (1981) solves
    it exactly: scale the free weights, clip, fix the side that the bounds changed most, repeat.  At most N rounds, in
    practice a few, each a handful of elementwise passes; bisection would need one pass per bit.
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

    `total` is what the magnitudes sum to now unless given (a caller that keeps the first total has no drift).  A change
    that is not finite is ignored.
    """
    if total is None:
        kept = magnitude if present is None else magnitude * present
        total = kept.sum(dim)
    change = competitive_change(change, won, inhibition)
    moved = magnitude + torch.where(torch.isfinite(change), change, 0).to(magnitude.dtype)
    return conserved(moved.clamp(min=0), total, w_min, w_max, dim, present)
