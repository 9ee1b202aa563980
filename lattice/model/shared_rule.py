"""The shared rule as a torch module: the numbers by which the channels of a cell meet, the same in all cells."""

from __future__ import annotations

import torch
from torch import nn

from lattice.kernels.kernel import RuleNumbers

FIRST_BIAS = 0.1
"""Standard deviation of the first bias at the start, so that the hidden numbers bend at different places."""


class SharedRule(nn.Module):
    """R: 2C -> 2C (docs/lattice.md), linear if `hidden` is 0, else with `hidden` numbers and a ReLU in between.

    `first` [H or 2C, 2C] and its bias always exist, `second` [2C, H] and its bias only with a hidden layer.  No parameter
    depends on the lattice's shape, so a rule carries over unchanged when the lattice grows.
    """

    def __init__(
        self, channels: int, hidden: int, generator: torch.Generator, port_channels: int | None = None, learns: bool = True
    ) -> None:
        """Draws the start.  Ports drive and read the first `port_channels` channels; None = all.

        The rule starts at zero, so that ports' channels start as without it.  Behind a hidden layer, it moves the other
        channels from the start, which nothing else drives.
        """
        super().__init__()
        width = 2 * channels
        self.hidden = hidden
        if hidden:
            self.first = nn.Parameter(torch.randn(hidden, width, generator=generator) * (2 / width) ** 0.5, learns)
            self.first_bias = nn.Parameter(torch.randn(hidden, generator=generator) * FIRST_BIAS, learns)
            second = torch.zeros(width, hidden)
            if port_channels is not None and port_channels < channels:
                free = second[channels + port_channels :]  # what h of the channels that no port touches is made of
                free.copy_(torch.randn(free.shape, generator=generator) * hidden**-0.5)
            self.second = nn.Parameter(second, learns)
            self.second_bias = nn.Parameter(torch.zeros(width), learns)
        else:
            self.first = nn.Parameter(torch.zeros(width, width), learns)
            self.first_bias = nn.Parameter(torch.zeros(width), learns)

    def forward(self) -> RuleNumbers:
        """The rule for the kernels, in one piece; gradients flow back to the parameters."""
        parts = [self.first, self.first_bias, *([self.second, self.second_bias] if self.hidden else [])]
        return RuleNumbers(torch.cat([part.flatten() for part in parts]), self.hidden)
