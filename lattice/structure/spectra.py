"""Power spectra of fields on the lattice, and their rises: more power at a wavelength than at longer ones.

    field [X, Y, Z] -> minus trend -> window -> rfftn -> mean power in shells of equal frequency [J], longest wave first

`red_fit` gives the falling spectrum that fits best.  `rises` says how far each shell is above what a falling spectrum could
hold there at most, given the power of all longer waves.
"""

from __future__ import annotations

import math

import torch


class Shells:
    """The modes of rfftn of a field [X, Y, Z], sorted into shells of equal frequency; a shell is 1 / (longest side) wide.

    The constant mode is left out.  Frequencies are in cycles per cell, up to sqrt(3) / 2 along the diagonal.
    Raises ValueError for a shape with too few shells.
    """

    def __init__(self, shape: tuple[int, int, int], boundary: str) -> None:
        self.shape = shape
        axes = [torch.fft.fftfreq(size, dtype=torch.float64) for size in shape[:2]]
        axes.append(torch.fft.rfftfreq(shape[2], dtype=torch.float64))
        squares = [(axis**2).view([-1 if i == at else 1 for i in range(3)]) for at, axis in enumerate(axes)]
        frequency = (squares[0] + squares[1] + squares[2]).sqrt()
        shell = (frequency * max(shape)).round().int()
        # Modes of the half that rfftn leaves out have the same power: all planes along z but the first and, if even, the last.
        twice = torch.full((1, 1, frequency.shape[2]), 2.0)
        twice[..., 0] = 1.0
        if shape[2] % 2 == 0:
            twice[..., -1] = 1.0
        modes = torch.bincount(shell.flatten(), twice.expand_as(shell).double().flatten())
        kept = (modes > 0).nonzero().flatten()[1:]
        if len(kept) < 3:
            raise ValueError(f"a field of {shape} cells is too small for a spectrum; some axis needs at least 4 cells")
        number = torch.full((len(modes),), len(kept), dtype=torch.int32)
        number[kept] = torch.arange(len(kept), dtype=torch.int32)
        self.index = number[shell.long()]
        """The shell of each mode [X, Y, Z // 2 + 1].  The constant mode has a shell of its own after the last one."""
        self.modes = modes[kept]
        """Number of modes in each shell [J], fp64."""
        self._frequency, self._twice = frequency.float(), twice
        self.frequency = self._sum(twice * self._frequency)[0] / self.modes
        self._windows = [
            torch.sin(math.pi * (torch.arange(size) + 0.5) / size).view([-1 if i == at else 1 for i in range(3)])
            for at, size in enumerate(shape)
            if size > 1 and (at == 2 or boundary == "walls")
        ]

    def power(self, batch: torch.Tensor) -> torch.Tensor:
        """Mean power per mode in each shell [S, J] (fp64) of fields [S, X, Y, Z]; 1 is the mean over all modes.

        Mean and linear trend are taken out first.  Axes that end in walls are multiplied by a sine window.  It leaks less into
        neighbouring shells than Hann's window, which matters more here than how fast leakage falls further away.
        """
        return self._scaled(self._modes(batch))

    def peak_frequency(self, field: torch.Tensor, shell: int) -> float:
        """Power-weighted mean frequency of a shell's modes, which is finer than the width of a shell."""
        power = self._modes(field[None])[0] * (self.index == shell)
        return float((power * self._frequency).sum(dtype=torch.float64) / power.sum(dtype=torch.float64))

    def color(self, white: torch.Tensor, spectrum: torch.Tensor) -> torch.Tensor:
        """Fields with random phases and the power `spectrum` [J], from white noise [S, X, Y, Z]."""
        gain = torch.cat([spectrum.clamp(min=0).sqrt(), spectrum.new_zeros(1)]).float()
        return torch.fft.irfftn(torch.fft.rfftn(white, dim=(1, 2, 3)) * gain[self.index.long()], s=self.shape, dim=(1, 2, 3))

    def _modes(self, batch: torch.Tensor) -> torch.Tensor:
        batch = detrend(batch)
        for window in self._windows:
            batch *= window
        transform = torch.view_as_real(torch.fft.rfftn(batch, dim=(1, 2, 3)))
        return transform.square_().sum(-1).mul_(self._twice)

    def _scaled(self, power: torch.Tensor) -> torch.Tensor:
        sums = self._sum(power)
        return sums / self.modes * (self.modes.sum() / sums.sum(1, keepdim=True).clamp(min=1e-300))

    def _sum(self, per_mode: torch.Tensor) -> torch.Tensor:
        """Sums over each shell [S, J] (fp64) of [..., X, Y, Z // 2 + 1], one plane of x at a time."""
        per_mode = per_mode.view(-1, *self.index.shape)
        sums = torch.zeros(len(per_mode), len(self.modes) + 1, dtype=torch.float64)
        for x, plane in enumerate(self.index):
            sums.index_add_(1, plane.flatten(), per_mode[:, x].flatten(1).double())
        return sums[:, :-1]


def detrend(batch: torch.Tensor) -> torch.Tensor:
    """Fields [S, X, Y, Z] minus their mean and least-squares linear trend."""
    batch = batch - batch.mean(dim=(1, 2, 3), keepdim=True)
    for axis, size in enumerate(batch.shape[1:], 1):
        along = (torch.arange(size, dtype=batch.dtype) - (size - 1) / 2).view([-1 if i == axis else 1 for i in range(4)])
        others = [i for i in (1, 2, 3) if i != axis]
        if size > 1:
            slope = (batch.mean(dim=others, keepdim=True) * along).sum(axis, keepdim=True) / along.square().sum()
            batch -= slope * along
    return batch


def red_fit(power: torch.Tensor, modes: torch.Tensor) -> torch.Tensor:
    """The non-increasing spectrum [J] closest to `power` [J] in least squares weighted by `modes` [J].

    Isotonic regression by pooling adjacent violators (Ayer et al. 1955).
    """
    blocks: list[tuple[float, float, int]] = []
    for value, weight in zip(power.tolist(), modes.tolist(), strict=True):
        block = (value, weight, 1)
        while blocks and blocks[-1][0] <= block[0]:
            mean, mass, size = blocks.pop()
            total = mass + block[1]
            block = ((mean * mass + block[0] * block[1]) / total, total, size + block[2])
        blocks.append(block)
    return torch.cat([torch.full((size,), mean, dtype=torch.float64) for mean, _, size in blocks])


def ceilings(power: torch.Tensor, modes: torch.Tensor) -> torch.Tensor:
    """The most power that a falling spectrum allows in each shell: [S, J] -> [S, J].

    For shell j this is the last value of the non-increasing fit to all shells before it, which is the smallest mean over shells
    i..j-1 for any i < j.  It is infinite in the first shell, since there is no longer wave.
    """
    weighted, mass = (power * modes).cumsum(1), modes.cumsum(0)
    ceiling = torch.full_like(power, math.inf)
    for j in range(1, power.shape[1]):
        sums, masses = weighted[:, j - 1 : j].repeat(1, j), mass[j - 1].repeat(j)
        sums[:, 1:] -= weighted[:, : j - 1]
        masses[1:] -= mass[: j - 1]
        ceiling[:, j] = (sums / masses).amin(1)
    return ceiling


def rises(power: torch.Tensor, modes: torch.Tensor) -> torch.Tensor:
    """The log of each shell's power over its ceiling [S, J]: above 0 if no falling spectrum allows it; -inf in the first."""
    return (power.clamp(min=1e-300) / ceilings(power, modes).clamp(min=1e-300)).log()
