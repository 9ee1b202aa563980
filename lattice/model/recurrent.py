"""A recurrent network in the lattice's place (`lattice.arm = "gru"`): what a plain GRU makes of the same slots in time.

It is a control.  One slot drives each step, as it drives each tick of a lattice that reads in time, and `lag` silent steps
follow.  Encoder and decoder are those of the lattice, and so is what a sentence may send through.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class Recurrent(nn.Module):
    """torch's GRU (Cho et al. 2014, arXiv 1406.1078) over slots, and a linear read of its hidden state."""

    def __init__(self, slot_width: int, width: int, lag: int, random: torch.Generator) -> None:
        """Draws the start as torch does, but from `random`."""
        super().__init__()
        self.lag = lag
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(random.initial_seed())
            self.gru = nn.GRU(slot_width, width, batch_first=True)
            self.read = nn.Linear(width, slot_width)

    def forward(self, slots: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        """Turns slots [B, S, D] into slots [B, S, D]; `there` (bool [B, S]) says which of them hold a token.

        Slot j of the output is read after step j + lag.  Slots that hold no token drive nothing, and are zero in the output.
        So a sentence gives the same in a batch as alone.
        """
        longest = max(1, int(there.sum(1).max()))
        driven = F.pad(slots[:, :longest].float(), (0, 0, 0, self.lag))
        states, _ = self.gru(driven)
        read = F.pad(self.read(states[:, self.lag :]), (0, 0, 0, slots.shape[1] - longest))
        return read * there[..., None]
