"""The global norm of all gradients, and clipping to a largest norm (Pascanu et al. 2013, arXiv 1211.5063).

On the CPU, torch sums the squares of a large tensor in sixteen fp32 numbers.  These stop growing once a square is lost in their
rounding: for 600 million equal numbers the result is 65 % of the norm.  So large gradients are summed row by row here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

ROW = 4096
"""Numbers per row; the squares of each row are summed separately."""


@torch.no_grad()
def clip(parameters: list[torch.Tensor], largest: float) -> float:
    """Scales the parameters' gradients in place to the norm `largest` if theirs is above it, and returns the norm as it was.

    The norm is 0 if no parameter has a gradient.  If it is not finite, gradients stay as they are.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(part for gradient in gradients for part in _norms(gradient))
    if largest < float(norm) < math.inf:
        torch.nn.utils.clip_grads_with_norm_(parameters, largest, norm)
    return float(norm)


def _norms(gradient: torch.Tensor) -> Iterator[torch.Tensor]:
    """Tensors whose joint norm is the gradient's: the norms of its rows, and the numbers after the last whole row."""
    flat = gradient.reshape(-1)
    whole = flat.numel() // ROW * ROW
    if whole:
        yield torch.linalg.vector_norm(flat[:whole].view(-1, ROW), dim=1)
    yield flat[whole:]
