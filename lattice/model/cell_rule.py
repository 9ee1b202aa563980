"""The rule as a torch module: the numbers by which the channels of a cell meet, shared by all cells or of each cell."""

from __future__ import annotations

import torch
from torch import nn

from lattice.kernels.kernel import RuleNumbers

FIRST_BIAS = 0.1
"""Standard deviation of the first bias at the start, so that the hidden numbers bend at different places."""


class CellRule(nn.Module):
    """R: 2C -> 2C (docs/lattice.md), linear if `hidden` is 0, else with `hidden` numbers and a ReLU in between.

    `first` [H or 2C, 2C] and its bias always exist, `second` [2C, H] and its bias only with a hidden layer.  A rule that all
    cells share does not depend on the lattice's shape, so it carries over unchanged when the lattice grows.  If each cell has
    its own, parameters are [X, Y, ..., Z].
    """

    def __init__(
        self,
        channels: int,
        hidden: int,
        generator: torch.Generator,
        port_channels: int | None = None,
        learns: bool = True,
        cells: tuple[int, int, int] | None = None,
    ) -> None:
        """Draws the start.  Ports drive and read the first `port_channels` channels; None = all.

        If `cells` is the shape of the lattice, each cell has a rule of its own.

        The rule starts at zero, so that ports' channels start as without it.  It moves the other channels from the start, which
        nothing else drives.
        """
        super().__init__()
        width = 2 * channels
        self.hidden, self.per_cell = hidden, cells is not None
        before, after = ((), ()) if cells is None else (cells[:2], cells[2:])

        def drawn(*shape: int) -> torch.Tensor:
            return torch.randn(*before, *shape, *after, generator=generator)

        if hidden:
            self.first = nn.Parameter(drawn(hidden, width) * (2 / width) ** 0.5, learns)
            self.first_bias = nn.Parameter(drawn(hidden) * FIRST_BIAS, learns)
        inputs = hidden or width
        last, last_bias = torch.zeros(*before, width, inputs, *after), torch.zeros(*before, width, *after)
        if port_channels is not None and (free := channels - port_channels):
            # What h of the channels that no port touches is made of.
            last.narrow(len(before), width - free, free).copy_(drawn(free, inputs) * inputs**-0.5)
        if hidden:
            self.second, self.second_bias = nn.Parameter(last, learns), nn.Parameter(last_bias, learns)
        else:
            self.first, self.first_bias = nn.Parameter(last, learns), nn.Parameter(last_bias, learns)

    def forward(self) -> RuleNumbers:
        """The rule for the kernels, in one piece; gradients flow back to the parameters."""
        layers = [(self.first, self.first_bias), *([(self.second, self.second_bias)] if self.hidden else [])]
        at = 2 if self.per_cell else 0
        parts = [part for weight, bias in layers for part in (weight.flatten(at, at + 1), bias)]
        return RuleNumbers(torch.cat(parts, at), self.hidden)
