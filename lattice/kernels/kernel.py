"""The interface of a tick kernel: what `propagate` asks of one, and what it hands over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from lattice.kernels.sparse import Pattern

NORM_EPSILON = 1e-3
"""Added to the mean square of a message, so that the message of a silent neighbourhood stays near zero."""


class KernelUnavailable(RuntimeError):
    """A kernel can't run here.  The message says why in one sentence."""


@dataclass(frozen=True)
class RuleNumbers:
    """The rule R: [s, m], 2C numbers, to what is added to [u_z, u_h], 2C numbers.  All cells share it, or each has its own.

    Linear if `hidden` is 0: W x + b.  Else W2 relu(W1 x + b1) + b2 with `hidden` numbers between the layers.
    """

    numbers: torch.Tensor
    """Contiguous [N] in fp32: W [2C, 2C] and b [2C], or W1 [H, 2C], b1 [H], W2 [2C, H] and b2 [2C], one after the other.

    [X, Y, N, Z] if each cell has a rule of its own.
    """
    hidden: int

    @property
    def per_cell(self) -> bool:
        """True if each cell has a rule of its own."""
        return self.numbers.dim() > 1

    def layers(self, width: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The matrices [outputs, inputs] and their biases, the first to apply first, as views; `width` is 2C.

        If each cell has its own, they are [X, Y, outputs, inputs, Z] and [X, Y, outputs, Z].
        """
        outputs = [self.hidden, width] if self.hidden else [width]
        inputs = [width, *outputs[:-1]]
        sizes = [size for o, i in zip(outputs, inputs, strict=True) for size in (o * i, o)]
        at = 2 if self.per_cell else 0
        parts = self.numbers.split(sizes, at)
        shapes = zip(outputs, inputs, strict=True)
        return [(w.unflatten(at, shape), b) for w, b, shape in zip(parts[::2], parts[1::2], shapes, strict=True)]

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """R of [B, X, Y, 2C, Z], of the same shape."""
        layers = self.layers(inputs.shape[3])
        if self.hidden:
            inputs = torch.relu(affine(inputs, *layers[0]))
        return affine(inputs, *layers[-1])


def affine(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """W x + b along the fourth axis, with one W and b or those of each cell (`RuleNumbers.layers`)."""
    if weight.dim() > 2:
        return torch.einsum("xyoiz,bxyiz->bxyoz", weight, inputs) + bias
    return torch.einsum("oi,bxyiz->bxyoz", weight, inputs) + bias[:, None]


@dataclass(frozen=True)
class Parameters:
    """What all ticks of a run compute with."""

    weights: torch.Tensor
    """Connections: [K, X, Y, Z], or [kept, X, Y, Z] if there is a pattern."""
    cells: torch.Tensor
    """[6, X, Y, C, Z]: a_z, b_z, c_z, a_h, b_h, c_h of each cell and channel."""
    pattern: Pattern | None = None
    """Which offsets the weights belong to; None if every cell has all K connections."""
    epsilon: float = NORM_EPSILON
    rule: RuleNumbers | None = None
    """The rule, shared or of each cell; None if there is none."""


@dataclass(frozen=True)
class Gradients:
    """The tensors that a backward adds the gradients of parameters to, in fp32."""

    cells: torch.Tensor
    """[6, X, Y, C, Z]."""
    weights: torch.Tensor | None
    """[K, X, Y, Z] or [kept, X, Y, Z], as the weights; None if the connections do not learn."""
    drive: torch.Tensor | None
    """[B, X, Y, C]; None if the drive does not learn."""
    rule: torch.Tensor | None = None
    """[N] or [X, Y, N, Z], as the rule's numbers; None if there is no rule, or if it does not learn."""


@dataclass(frozen=True)
class Transposed:
    """Sparse connections in the order of the tile that is read, not of the tile that reads.

    The connections to tile t are numbers start[t] to start[t + 1] (int64 [tiles + 1]).  offset [M] (uint8) is the offset of
    each, and weight [M, TILE] its weight for each cell of the tile that is read.
    """

    start: torch.Tensor
    offset: torch.Tensor
    weight: torch.Tensor


class Kernel(Protocol):
    """One tick, forward and backward, for one topology and one dtype of states."""

    name: str
    sparse: bool
    """Whether it takes compact weights with their pattern.  If not, `propagate` expands them first."""

    def empty_state(self, shape: tuple[int, ...], zero: bool = False) -> torch.Tensor:
        """A state [B, X, Y, C, Z] in this kernel's dtype, zero or with undefined contents."""

    def forward(
        self, state: torch.Tensor, parameters: Parameters, extra: torch.Tensor | None, drive: torch.Tensor | None
    ) -> torch.Tensor:
        """The next state [B, X, Y, C, Z] after `state` [B, X, Y, C, Z].

        `extra` [B, X, Y, C, Z] (fp32) is added to the message before it is normalised.  `drive` [B, X, Y, C] is added to the
        input face of the next state.
        """

    def transposed(self, parameters: Parameters) -> Transposed | None:
        """What the backwards of all ticks can share; None if this kernel needs nothing of the kind."""

    def backward(
        self,
        grad_out: torch.Tensor,
        state: torch.Tensor,
        parameters: Parameters,
        extra: torch.Tensor | None,
        gradients: Gradients,
        fresh: bool = False,
        transposed: Transposed | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(gradient of `state`, gradient of the message), both [B, X, Y, C, Z], from that of the next state, `grad_out`.

        May overwrite `grad_out`.  Adds to `gradients`; if `fresh`, those of cells and weights are overwritten instead.
        `transposed` is what the method of that name returned for these parameters.
        """
