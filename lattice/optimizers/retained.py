"""How much of a gradient GaLore's projection keeps, against a random projection of the same ranks.

GaLore (Zhao et al. 2024, arXiv 2403.03507; of tensors: George et al. 2024, arXiv 2501.02379) rests on gradients that lie
nearly in a low-rank span which changes slowly.  The share of a gradient's squared norm inside the span says whether they do;
a random span of r of n numbers keeps r / n of any gradient on the mean, and a projection that keeps no more is worth no more.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lattice.optimizers.galore import GaLore, factors_of, project
from lattice.optimizers.partwise import PartWise


@dataclass(frozen=True)
class Retained:
    """Shares (0 to 1) of the squared norm of the gradient of a step."""

    part: str
    """The model's part that the tensor is of: cells or connections."""
    kept: float
    """By the factors in use, which are up to `gap` steps old."""
    random: float
    """By random ones of the same ranks."""


def retained(gradient: torch.Tensor, factors: dict[int, torch.Tensor]) -> float:
    """The share of a gradient's squared norm that its projection onto factors {mode: [size, rank]} keeps; 1 of a zero gradient.

    Factors have orthonormal columns; modes without one are kept whole, and the first never has one.
    """
    whole = torch.linalg.vector_norm(gradient, dtype=torch.float64).square()
    if not whole:
        return 1.0
    kept = sum(project(piece, factors).square().sum(dtype=torch.float64) for piece in gradient)
    return float(kept / whole)


def random_factors(factors: dict[int, torch.Tensor], generator: torch.Generator) -> dict[int, torch.Tensor]:
    """Factors of the same shapes that span subspaces drawn evenly from all there are: the Q of Gaussian matrices."""
    return {
        mode: torch.linalg.qr(torch.randn(factor.shape, generator=generator)).Q.to(factor.device)
        for mode, factor in factors.items()
    }


def of_step(optimizer: torch.optim.Optimizer, generator: torch.Generator) -> list[Retained]:
    """Of the step just taken, a value for every tensor that GaLore trains; none under any other optimizer."""
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
