"""AdamW with the second moment as an outer product (Shazeer and Stern 2018, arXiv 1804.04235), and the first in bf16 or none.

For cells [6, X, Y, C, Z] the two factors of a column along z have one number per channel and one per cell.  For connections
[K, X, Y, Z] they have one number per offset and one per cell.  So every cell has a scale of its own, which it would not have
with factors over two axes of space.  Adafactor's own clipping and relative learning rate are left out; warm-up and the global
clip do that here.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from lattice.optimizers.chunks import rows_of
from presets.optimizer_state import factored_axis

EPSILON = 1e-8
TINY = 1e-38


class Adafactor:
    def __init__(self, part: str, betas: tuple[float, float], momentum: bool) -> None:
        self._part, self._betas, self._momentum = part, betas, momentum

    def start(self, p: torch.Tensor) -> dict[str, torch.Tensor]:
        laid = self._laid(p)
        state = {
            "step": torch.zeros((), device=p.device),
            "row": torch.zeros(laid.shape[:-1], device=p.device),
            "column": torch.zeros((*laid.shape[:-2], laid.shape[-1]), device=p.device),
        }
        return state | ({"exp_avg": torch.zeros_like(p, dtype=torch.bfloat16)} if self._momentum else {})

    def step(self, p: torch.Tensor, grad: torch.Tensor, state: dict[str, torch.Tensor], rate: float) -> None:
        beta1, beta2 = self._betas
        state["step"] += 1
        step = float(state["step"])
        correction = (1 - beta2**step) ** 0.5
        weights, grads = self._laid(p), self._laid(grad)
        size = rows_of(p.device, weights[0].numel())
        averages = self._laid(state["exp_avg"]).split(size) if self._momentum else None
        parts = (weights.split(size), grads.split(size), state["row"].split(size), state["column"].split(size))
        for i, (weight, g, row, column) in enumerate(zip(*parts, strict=True)):
            squares = g.square()
            row.lerp_(squares.mean(-1), 1 - beta2)
            column.lerp_(squares.mean(-2), 1 - beta2)
            # sqrt(row x column / mean), by roots of the factors: their product could underflow.
            root = (row.sqrt() * row.mean(-1, keepdim=True).clamp(min=TINY).rsqrt())[..., None] * column.sqrt()[..., None, :]
            root = root.div_(correction).add_(EPSILON)
            if averages is None:
                weight.addcdiv_(g, root, value=-rate)
            else:
                average = torch.lerp(averages[i].float(), g, 1 - beta1)
                averages[i].copy_(average)
                weight.addcdiv_(average, root, value=-rate / (1 - beta1**step))

    def moved(self, state: dict, shape: torch.Size, move: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, torch.Tensor]:
        return {}  # factors of other connections say nothing of these: start anew

    def _laid(self, tensor: torch.Tensor) -> torch.Tensor:
        """A view [rows, ..., factored axis, Z]."""
        if self._part == "connections":
            return tensor.movedim(factored_axis(self._part, tensor.dim()), -2)
        return tensor.flatten(0, -3)
