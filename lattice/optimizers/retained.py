"""How much of a gradient GaLore's projection keeps, compared with a random projection of the same ranks.

GaLore (Zhao et al. 2024, arXiv 2403.03507; for tensors: George et al. 2024, arXiv 2501.02379) assumes that gradients nearly
lie in a low-rank span that changes slowly.  The share of a gradient's squared norm inside the span says whether they do.  A
random span of r out of n dimensions keeps r / n of any gradient on average, and a projection that keeps no more than that is
no better.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lattice.optimizers.galore import GaLore, factors_of, project
from lattice.optimizers.partwise import PartWise


@dataclass(frozen=True)
class Retained:
    """The shares (0..1) of the squared norm of one tensor's gradient that two projections keep in a step."""

    part: str
    """The part of the model that the tensor belongs to: cells or connections."""
    kept: float
    """The share that the factors in use keep, which are up to `gap` steps old."""
    random: float
    """The share that random factors of the same ranks keep."""


def retained(gradient: torch.Tensor, factors: dict[int, torch.Tensor]) -> float:
    """The share of a gradient's squared norm that its projection onto factors {mode: [size, rank]} keeps; 1 if it is zero.

    Factors have orthonormal columns.  Modes without a factor are kept whole; the first mode never has one.
    """
    whole = torch.linalg.vector_norm(gradient, dtype=torch.float64).square()
    if not whole:
        return 1.0
    kept = sum(project(piece, factors).square().sum(dtype=torch.float64) for piece in gradient)
    return float(kept / whole)


def random_factors(factors: dict[int, torch.Tensor], generator: torch.Generator) -> dict[int, torch.Tensor]:
    """Factors of the same shapes whose spans are uniformly random: the Q of Gaussian matrices."""
    return {
        mode: torch.linalg.qr(torch.randn(factor.shape, generator=generator)).Q.to(factor.device)
        for mode, factor in factors.items()
    }


def of_step(optimizer: torch.optim.Optimizer, generator: torch.Generator) -> list[Retained]:
    """The shares in the step just taken, for every tensor that GaLore trains; empty with any other optimizer."""
    if not isinstance(optimizer, PartWise):
        return []
    found = []
    for group in optimizer.param_groups:
        if not isinstance(optimizer.rules.get(group["part"]), GaLore):
            continue
        for p in group["params"]:
            if p.grad is not None and (state := optimizer.state[p]):
                drawn = random_factors(factors_of(state, p.dim()), generator)
                found.append(Retained(group["part"], float(state["retained"]), retained(p.grad, drawn)))
    return found
