"""The functional tier: cells hear the mean state of their cluster."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lattice.kernels import pages


@dataclass(frozen=True)
class Functional:
    """The functional tier: gain [X, Y, C, Z] times the mean state of its cluster is added to each cell's message.

    labels [X, Y, Z] (int64) name the cluster of each cell, 0 <= label < count.
    """

    gain: torch.Tensor
    labels: torch.Tensor
    count: int

    def sums(self, values: torch.Tensor, gained: bool = False) -> torch.Tensor:
        """The sums of values [B, X, Y, C, Z] over the cells of each cluster [B, C, count]; if `gained`, of values times gain.

        On the CPU the order is fixed.  It takes one channel after the other, so that nothing of the values' size is copied.
        """
        cells, dtype = self.labels.flatten(), self.gain.dtype
        found = []
        for c in range(values.shape[3]):
            channel = values[:, :, :, c].to(dtype)
            flat = (channel * self.gain[:, :, c] if gained else channel).flatten(1)
            found.append(flat.new_zeros(len(flat), self.count).index_add(1, cells, flat))
        return torch.stack(found, 1)

    def sizes(self) -> torch.Tensor:
        """Cells per cluster [count], at least 1, so that the mean of an empty cluster is zero."""
        return torch.bincount(self.labels.flatten(), minlength=self.count).clamp(min=1).to(self.gain.dtype)

    def spread(self, means: torch.Tensor) -> torch.Tensor:
        """For each cell the value of its cluster: [B, C, count] -> [B, X, Y, C, Z]."""
        x, y, z = self.labels.shape
        cells = means[:, :, self.labels.flatten()]
        return cells.reshape(*means.shape[:2], x, y, z).permute(0, 2, 3, 1, 4)

    def means(self, state: torch.Tensor) -> torch.Tensor:
        """The mean state of each cluster [B, C, count]."""
        return self.sums(state) / self.sizes()

    def message(self, state: torch.Tensor) -> torch.Tensor:
        """gain times the mean state of each cell's cluster [B, X, Y, C, Z], contiguous, in the dtype of the gain."""
        means, message = self.means(state), pages.empty(state.shape, self.gain.dtype, state.device)
        for c in range(state.shape[3]):
            torch.mul(self.gain[:, :, c], means[:, c, self.labels], out=message[:, :, :, c])
        return message

    def add_gradients(
        self,
        grad_message: torch.Tensor,
        state: torch.Tensor,
        grad_gain: torch.Tensor,
        grad_state: torch.Tensor,
        grad_drive: torch.Tensor,
    ) -> None:
        """The backward of `message`: adds in place to the gradients of gain, state and drive.

        These are [X, Y, C, Z], [B, X, Y, C, Z] and [B, X, Y, C].
        """
        means, pull = self.means(state), self.sums(grad_message, gained=True) / self.sizes()
        for c in range(state.shape[3]):
            grad_gain[:, :, c] += (grad_message[:, :, :, c].to(self.gain.dtype) * means[:, c, self.labels]).sum(0)
            pulled = pull[:, c, self.labels]
            grad_state[:, :, :, c] += pulled.to(grad_state.dtype)
            grad_drive[..., c] += pulled[..., 0]
