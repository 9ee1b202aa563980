"""Lion (Chen et al. 2023, arXiv 2302.06675): the sign of an interpolated momentum, kept in bf16.

Every number moves by the full learning rate in every step in which it has a gradient, so the rate must be lower than AdamW's.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from lattice.optimizers.chunks import flat_chunks

BETA_UPDATE, BETA_MOMENTUM = 0.9, 0.99
"""The paper's decays: of the momentum that makes the step, and of the momentum that is kept."""


class Lion:
    """Lion with `rate_factor` times AdamW's learning rate."""

    def __init__(self, rate_factor: float) -> None:
        self._factor = rate_factor

    def start(self, p: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"exp_avg": torch.zeros_like(p, dtype=torch.bfloat16)}

    def step(self, p: torch.Tensor, grad: torch.Tensor, state: dict[str, torch.Tensor], rate: float) -> None:
        for weight, g, momentum in flat_chunks(p, grad, state["exp_avg"]):
            wide = momentum.float()
            weight.sub_(torch.lerp(g, wide, BETA_UPDATE).sign_(), alpha=rate * self._factor)
            momentum.copy_(torch.lerp(g, wide, BETA_MOMENTUM))

    def moved(self, state: dict, shape: torch.Size, move: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"exp_avg": move(state["exp_avg"])}
