"""Tensor-GaLore (George et al. 2024, arXiv 2501.02379, after GaLore, Zhao et al. 2024, arXiv 2403.03507).

This is AdamW whose moments are those of a low-rank projection of the gradient:

    every `gap` steps   new factors U_n [size, rank] of each mode except the first, by a higher-order SVD of the gradient: the
                        leading eigenvectors of the Gram matrix of each mode's unfolding.  Moments are carried over into them.
    every step          R = G x_n U_n^T;  moments of R;  W -= rate * (m / (sqrt(v) + eps)) x_n U_n

The first mode (parameter or offset) is never projected.  So its slices can be worked on one after the other, and no temporary
tensor is larger than one slice.  A mode of full rank has no factor; if all numbers are kept (rank 1.0), this is AdamW.

When factors are renewed, the first moment is projected from the old span to the new one.  The second moment is projected with
the squares of the same rotation, as if the old coordinates were uncorrelated (as in LDAdam, arXiv 2410.16103), so that it
stays positive.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from lattice.optimizers.chunks import rows_of
from presets.optimizer_state import galore_ranks

EPSILON = 1e-8


class GaLore:
    def __init__(self, betas: tuple[float, float], rank: float, gap: int) -> None:
        self._betas, self._rank, self._gap = betas, rank, gap

    def start(self, p: torch.Tensor) -> dict[str, torch.Tensor]:
        """Moments, `factor_n` of each projected mode n, and `retained`: R's share of the last gradient's squared norm."""
        ranks = galore_ranks(tuple(p.shape), self._rank)
        state = {name: torch.zeros((), device=p.device) for name in ("step", "retained")}
        state |= {name: torch.zeros(ranks, device=p.device) for name in ("exp_avg", "exp_avg_sq")}
        for mode, (size, rank) in enumerate(zip(p.shape, ranks, strict=True)):
            if rank < size:
                state[_factor(mode)] = torch.zeros(size, rank, device=p.device)
        return state

    def step(self, p: torch.Tensor, grad: torch.Tensor, state: dict[str, torch.Tensor], rate: float) -> None:
        beta1, beta2 = self._betas
        if int(state["step"]) % self._gap == 0:
            self._refresh(grad, state)
        state["step"] += 1
        step = float(state["step"])
        rate, correction = rate / (1 - beta1**step), (1 - beta2**step) ** 0.5
        factors = factors_of(state, p.dim())
        kept = torch.zeros((), dtype=torch.float64, device=p.device)
        for weight, g, average, square in zip(p, grad, state["exp_avg"], state["exp_avg_sq"], strict=True):
            projected = project(g, factors)
            kept += projected.square().sum(dtype=torch.float64)
            average.lerp_(projected, 1 - beta1)
            square.mul_(beta2).addcmul_(projected, projected, value=1 - beta2)
            root = torch.sqrt(square, out=projected).div_(correction).add_(EPSILON)
            add_back(weight, torch.div(average, root, out=root), factors, -rate)
        whole = torch.linalg.vector_norm(grad, dtype=torch.float64).square()
        state["retained"].copy_(torch.where(whole > 0, kept / whole, 1.0))

    def moved(self, state: dict, shape: torch.Size, move: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, torch.Tensor]:
        return {}  # a projection mixes all connections of an offset: start anew

    def _refresh(self, grad: torch.Tensor, state: dict[str, torch.Tensor]) -> None:
        old = factors_of(state, grad.dim())
        new = {mode: leading(gram(grad, mode), factor.shape[1]) for mode, factor in old.items()}
        if int(state["step"]):
            turns = {mode: (old[mode].T @ new[mode]) for mode in new}
            squares = {mode: turn.square() for mode, turn in turns.items()}
            for average, square in zip(state["exp_avg"], state["exp_avg_sq"], strict=True):
                average.copy_(project(average, turns))
                square.copy_(project(square, squares))
        for mode, factor in new.items():
            old[mode].copy_(factor)


def _factor(mode: int) -> str:
    return f"factor_{mode}"


def factors_of(state: dict[str, torch.Tensor], modes: int) -> dict[int, torch.Tensor]:
    """The factors {mode: [size, rank]} in the state of a tensor with so many modes; modes of full rank have none."""
    return {mode: state[_factor(mode)] for mode in range(1, modes) if _factor(mode) in state}


def gram(tensor: torch.Tensor, mode: int) -> torch.Tensor:
    """The Gram matrix [n, n] of the unfolding of a mode (>= 1) of size n, in double precision."""
    size = tensor.shape[mode]
    total = torch.zeros(size, size, dtype=torch.float64, device=tensor.device)
    for piece in tensor:
        unfolded = _around(piece, mode)
        if unfolded.shape[2] == 1:
            flat = unfolded[:, :, 0]
            total += flat.T @ flat
        else:
            for part in unfolded.split(rows_of(tensor.device, size * size)):
                total += (part @ part.mT).sum(0)
    return total


def leading(symmetric: torch.Tensor, rank: int) -> torch.Tensor:
    """The eigenvectors of the `rank` largest eigenvalues, as columns [n, rank] in fp32."""
    return torch.linalg.eigh(symmetric).eigenvectors[:, -rank:].flip(1).float()


def project(piece: torch.Tensor, factors: dict[int, torch.Tensor]) -> torch.Tensor:
    """piece x_n U_n^T for every factor.  A piece is a slice along the first mode; modes are numbered as in the whole tensor."""
    for mode, factor in factors.items():
        shape = list(piece.shape)
        shape[mode - 1] = factor.shape[1]
        unfolded = _around(piece, mode)
        found = unfolded[:, :, 0] @ factor if unfolded.shape[2] == 1 else factor.T @ unfolded
        piece = found.reshape(shape)
    return piece if factors else piece.clone()


def add_back(weight: torch.Tensor, core: torch.Tensor, factors: dict[int, torch.Tensor], scale: float) -> None:
    """weight += scale * core x_n U_n.  The last product is added while it is computed, without a tensor of its own."""
    for mode in sorted(factors, reverse=True):
        if mode == 1:
            weight.view(len(weight), -1).addmm_(factors[1], core.reshape(core.shape[0], -1), alpha=scale)
            return
        core = project(core, {mode: factors[mode].T})
    weight.add_(core, alpha=scale)


def _around(piece: torch.Tensor, mode: int) -> torch.Tensor:
    """A slice along the first mode, viewed as [before, n, after] around another mode of the whole tensor."""
    before = piece.shape[: mode - 1].numel()
    return piece.reshape(before, piece.shape[mode - 1], -1)
