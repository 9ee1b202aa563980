"""The norm of all gradients together, and their clipping to a largest one (Pascanu et al. 2013, arXiv 1211.5063).

torch sums the squares of a large tensor on the CPU in sixteen fp32 numbers, which stop growing once a square is lost in their
rounding: of 600 million equal numbers it finds 65 % of the norm.  So large gradients are taken row by row here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

ROW = 4096
"""Numbers of a gradient whose squares are summed by themselves."""


@torch.no_grad()
def clip(parameters: list[torch.Tensor], largest: float) -> float:
    """The norm of the parameters' gradients as they were, 0 where none has one; scales them in place where it is above
    `largest`, and leaves them alone where it is not finite."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(part for gradient in gradients for part in _norms(gradient))
    if largest < float(norm) < math.inf:
        torch.nn.utils.clip_grads_with_norm_(parameters, largest, norm)
    return float(norm)


def _norms(gradient: torch.Tensor) -> Iterator[torch.Tensor]:
    """Tensors whose norm together is the gradient's: norms of its rows, and what is left over."""
    flat = gradient.reshape(-1)
    whole = flat.numel() // ROW * ROW
    if whole:
        yield torch.linalg.vector_norm(flat[:whole].view(-1, ROW), dim=1)
    yield flat[whole:]
