"""Morphology: do a lattice's connections vary over space with a wavelength of their own?  "nothing" when in doubt.

    weights [K, X, Y, Z] -> per-cell fields -> minus trend -> window -> rfftn -> mean power in shells of equal frequency

Most fields that are not noise are smooth: their power falls with frequency.  What counts here is a *rise*: more power at some
wavelength than any spectrum that falls with frequency could hold, given the power at all longer wavelengths (see `rises`).  The
statistic is the maximum of the rises over all wavelengths, each in units of its spread under the null.  A reading is "nothing"
unless it beats all of its nulls at LEVEL and holds at least MIN_STRENGTH of the field's variance:

    shuffled   the same values in random places: is there anything that white noise has not?
    red        random phases under the falling spectrum that fits best: is there more than smoothness?
    start      if the field at the stage's start is given, what is read is the *change* since then, so that what was there
               from the first (noise, a bias, an interpolated field) is not news; and the power at the wavelength must have
               grown in the field itself by more than two unrelated noises differ.

The nulls are sets of surrogates that go through the same steps as the field, so p is (1 + surrogates at least as extreme) /
(1 + surrogates), which is exact for shuffles of exchangeable noise.  The idea of weight morphologies that arise by training
is from de Jong, Meigel & Rulands (arXiv 2501.05550), who study the layers of feed-forward networks; the fields, the statistic
and the nulls here are this project's own.

Blind spots: waves of fewer than about two and a half periods along the lattice are not told from a trend.  And what is found
may be an imprint of strides, ticks, ports or pruning tiles: the instrument sees that there is a wave, not where it is from.

Cost: at 300x300x150 a field is 54 MB; one reading peaks at 0.31 GB beside it, however many surrogates (measured), and takes
about 3 CPU-seconds for each surrogate of both nulls.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

from presets.topology import Offset, Topology

LEVEL = 0.05
"""Largest p of a reading that is not "nothing", after the correction for reading several fields."""

MIN_STRENGTH = 0.01
"""Smallest share of a field's variance that is worth a verdict: in millions of cells anything is significant."""

SURROGATES = 199
"""Surrogate fields of each null; p can't be below 1 / (SURROGATES + 1)."""

FIELDS = ("strength", "mean", "along x", "along y", "along z")

_AT_ONCE = 1 << 21
"""Most cells of surrogates that are transformed at once (at least one field is): about 100 MB of temporaries."""


@dataclass(frozen=True)
class Reading:
    """What one field shows.  Wavelengths in cells; p-values corrected for all wavelengths, and for `fields` fields."""

    verdict: Literal["nothing", "structure"]
    wavelength: float | None
    """Of the highest rise; to be believed only with the verdict "structure".  None for a field without variance."""
    p: float
    """The largest of the nulls' p-values."""
    p_shuffled: float
    p_red: float
    p_start: float | None
    """None where no start was given."""
    strength: float
    """Share (0..1) of the field's variance above its red background in the shell of that wavelength."""
    order: float
    """How far (0..1) the field is from white noise (see `order`) beyond its start, at most as far as its change is."""
    wavelengths: tuple[float, ...]
    """Of the shells, longest first."""
    power: tuple[float, ...]
    """Mean power of a mode in each shell; 1 is the mean over all modes."""
    red: tuple[float, ...]
    """The falling spectrum that fits `power` best."""


# Fields


def in_bounds(offset: Offset, topology: Topology) -> torch.Tensor:
    """[X, Y, Z] bool: cells whose neighbour at `offset` exists; across x and y it always does where they are periodic."""
    mask = torch.ones(topology.shape, dtype=torch.bool)
    for axis, step in enumerate(offset):
        if step and (axis == 2 or topology.boundary == "walls"):
            size = topology.shape[axis]
            at = torch.arange(size) + step
            mask &= ((at >= 0) & (at < size)).view([-1 if other == axis else 1 for other in range(3)])
    return mask


def fields(weights: torch.Tensor, topology: Topology) -> dict[str, torch.Tensor]:
    """Weights [K, X, Y, Z] -> the scalar FIELDS, each [X, Y, Z] fp32 on the CPU.

    `strength` is the mean |w| of a cell's connections, `mean` the mean w, `along x` the mean of |w| times how much of the
    offset's direction lies along x (its squared cosine less 1/3, so that the three add up to zero).  Weights that point out
    of the lattice are left out, means are over those that do not, and every offset counts less its own mean over all cells:
    neither borders nor offsets that start with a bias make structure.  Needs about ten fields' memory beside the weights.
    Raises ValueError where weights and topology do not belong together.
    """
    if tuple(weights.shape) != (len(topology.offsets), *topology.shape):
        raise ValueError(f"weights {list(weights.shape)} do not belong to {len(topology.offsets)} offsets x {topology.shape}")
    sums = {name: torch.zeros(topology.shape) for name in FIELDS}
    count = torch.zeros(topology.shape)
    for offset, row in zip(topology.offsets, weights.detach(), strict=True):
        inside = in_bounds(offset, topology)
        count += inside
        if not (cells := int(inside.sum())):
            continue
        signed = row.float().cpu() * inside
        signed_mean, magnitude = signed.sum(dtype=torch.float64) / cells, signed.abs()
        magnitude -= (magnitude.sum(dtype=torch.float64) / cells).float() * inside
        sums["mean"] += signed - signed_mean.float() * inside
        sums["strength"] += magnitude
        length = sum(step * step for step in offset)
        for name, step in zip(FIELDS[2:], offset, strict=True):
            sums[name] += magnitude * (step * step / length - 1 / 3)
    count.clamp_(min=1)
    return {name: total.div_(count) for name, total in sums.items()}


def shuffle(weights: torch.Tensor, topology: Topology, generator: torch.Generator) -> torch.Tensor:
    """A copy of weights [K, X, Y, Z] in which each offset's weights changed places among the cells that use them."""
    shuffled = weights.detach().clone()
    for offset, row in zip(topology.offsets, shuffled, strict=True):
        inside = in_bounds(offset, topology).to(row.device)
        values = row[inside]
        row[inside] = values[torch.randperm(len(values), generator=generator).to(row.device)]
    return shuffled


# Spectra


class Shells:
    """The modes of rfftn of a [X, Y, Z] field in shells of one frequency step, 1 / the longest side.

    The constant mode is left out.  Frequencies are in cycles a cell, up to sqrt(3) / 2 along the diagonal.
    Raises ValueError for a shape of too few shells.
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
        """[X, Y, Z // 2 + 1]: each mode's shell; the constant mode is in one of its own behind the last."""
        self.modes = modes[kept]
        """[J] modes in each shell, fp64."""
        self._frequency, self._twice = frequency.float(), twice
        self.frequency = self._sum(twice * self._frequency)[0] / self.modes
        self._windows = [
            torch.sin(math.pi * (torch.arange(size) + 0.5) / size).view([-1 if i == at else 1 for i in range(3)])
            for at, size in enumerate(shape)
            if size > 1 and (at == 2 or boundary == "walls")
        ]

    def power(self, batch: torch.Tensor) -> torch.Tensor:
        """Fields [S, X, Y, Z] -> mean power of a mode in each shell [S, J], fp64; 1 is the mean over all modes.

        Mean and linear trend are taken out first, and axes that end in walls go through a sine window (it leaks less into the
        neighbouring shells than Hann's, which matters more here than how fast the far leakage falls).
        """
        return self._scaled(self._modes(batch))

    def peak_frequency(self, field: torch.Tensor, shell: int) -> float:
        """Power-weighted mean frequency of a shell's modes, finer than the shells are wide."""
        power = self._modes(field[None])[0] * (self.index == shell)
        return float((power * self._frequency).sum(dtype=torch.float64) / power.sum(dtype=torch.float64))

    def color(self, white: torch.Tensor, spectrum: torch.Tensor) -> torch.Tensor:
        """White noise [S, X, Y, Z] -> fields with random phases whose modes have the power `spectrum` [J]."""
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
        """[..., X, Y, Z // 2 + 1] -> [S, J], in fp64, one plane of x at a time."""
        per_mode = per_mode.view(-1, *self.index.shape)
        sums = torch.zeros(len(per_mode), len(self.modes) + 1, dtype=torch.float64)
        for x, plane in enumerate(self.index):
            sums.index_add_(1, plane.flatten(), per_mode[:, x].flatten(1).double())
        return sums[:, :-1]


def detrend(batch: torch.Tensor) -> torch.Tensor:
    """Fields [S, X, Y, Z] less their mean and least-squares linear trend."""
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
    """The most that a falling spectrum allows in each shell: [S, J] -> [S, J]; infinite in the first, which has no longer wave.

    It is the last value of the non-increasing fit to all shells before: the least of the means over shells i..j-1, i < j.
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
    """[S, J]: log of each shell's power over its ceiling: above 0 where no falling spectrum is, -inf in the first shell."""
    return (power.clamp(min=1e-300) / ceilings(power, modes).clamp(min=1e-300)).log()


# Reading


@torch.no_grad()
def read(
    field: torch.Tensor,
    boundary: str,
    generator: torch.Generator,
    start: torch.Tensor | None = None,
    surrogates: int = SURROGATES,
    tests: int = 1,
) -> Reading:
    """Reads one field [X, Y, Z], or with `start` [X, Y, Z] its change since then; p is corrected for `tests` readings.

    Raises ValueError for values that are not finite, for shapes that differ or are too small, and for too few surrogates to
    ever reach LEVEL.
    """
    field = field.detach().float().cpu()
    if start is not None and start.shape != field.shape:
        raise ValueError(f"the start {tuple(start.shape)} has another shape than the field {tuple(field.shape)}")
    if tests > LEVEL * (surrogates + 1):
        need = math.ceil(tests / LEVEL) - 1
        raise ValueError(f"{surrogates} surrogates can't show anything at level {LEVEL} in {tests} fields; use at least {need}")
    shells = Shells(tuple(field.shape), boundary)
    began = None if start is None else start.detach().float().cpu()
    observed = detrend((field if began is None else field - began)[None])
    if not bool(observed.isfinite().all()):
        raise ValueError("a field to read holds values that are not finite")
    wavelengths = tuple((1 / shells.frequency).tolist())
    scale = float(field.abs().max()) if began is None else max(float(field.abs().max()), float(began.abs().max()))
    if float(observed.abs().max()) <= 1e-6 * scale or scale == 0:  # constant, linear, or unchanged, up to rounding
        flat = (0.0,) * len(wavelengths)
        return Reading("nothing", None, 1.0, 1.0, 1.0, None if start is None else 1.0, 0.0, 0.0, wavelengths, flat, flat)
    observed /= observed.abs().max()
    power = shells.power(observed)
    fit = red_fit(power[0], shells.modes)
    shuffled, red = [], []
    cells, left = field.numel(), surrogates
    while left:
        count = min(left, max(1, _AT_ONCE // cells))
        left -= count
        values = torch.stack([observed.flatten()[torch.randperm(cells, generator=generator)] for _ in range(count)])
        shuffled.append(shells.power(values.view(count, *field.shape)))
        del values
        red.append(shells.power(shells.color(torch.randn(count, *field.shape, generator=generator), fit)))
    white, smooth = torch.cat([power, *shuffled]), torch.cat([power, *red])
    p_shuffled, _ = _compare(white, shells.modes)
    p_red, peak = _compare(smooth, shells.modes)
    p_start, ordered = None, order(power[0], white[1:], shells.modes, tests)
    if began is not None:
        now, before = (shells.power(part[None])[0] for part in (field, began))
        gained = order(now, white[1:], shells.modes, tests) - order(before, white[1:], shells.modes, tests)
        ordered = max(0.0, min(ordered, gained))
        now, before = now * _variance(field), before * _variance(began)
        # Two noises that have nothing to do with each other differ as the shuffled fields do.
        ratios = white[1:, peak] / white[1:, peak].roll(1)
        p_start = (1 + int((ratios * before[peak] >= now[peak]).sum())) / (1 + surrogates)
    p_shuffled, p_red = min(1.0, tests * p_shuffled), min(1.0, tests * p_red)
    p_start = None if p_start is None else min(1.0, tests * p_start)
    p = max(value for value in (p_shuffled, p_red, p_start) if value is not None)
    above = float(power[0, peak] - ceilings(power, shells.modes)[0, peak])
    strength = max(0.0, above) * float(shells.modes[peak] / shells.modes.sum())
    return Reading(
        "structure" if p <= LEVEL and strength >= MIN_STRENGTH else "nothing",
        1 / shells.peak_frequency(observed[0], peak),
        p,
        p_shuffled,
        p_red,
        p_start,
        strength,
        ordered,
        wavelengths,
        tuple(power[0].tolist()),
        tuple(fit.tolist()),
    )


def read_all(
    now: dict[str, torch.Tensor],
    boundary: str,
    generator: torch.Generator,
    start: dict[str, torch.Tensor] | None = None,
    surrogates: int = SURROGATES,
) -> dict[str, Reading]:
    """`read` for each field of `now`, as `fields` gives them, corrected for how many there are.  Raises ValueError."""
    return {
        name: read(field, boundary, generator, None if start is None else start[name], surrogates, len(now))
        for name, field in now.items()
    }


def order(power: torch.Tensor, white: torch.Tensor, modes: torch.Tensor, tests: int = 1) -> float:
    """Share (0..1) of a spectrum's [J] power that would have to move between shells to make it noise, beyond chance.

    The total variation distance to the mean of `white` [S, J], spectra of shuffled fields: (distance - chance) / (1 - chance),
    with chance what noise's own distance exceeds in LEVEL of all cases, `tests` readings taken together.  So noise has 0.
    """
    noise = white.mean(0)
    distances = ((torch.cat([power[None], white]) - noise).abs() * modes).sum(1) / (2 * modes.sum())
    rank = math.ceil((1 - LEVEL / tests) * len(distances) - 1e-9)
    chance = float(distances[1:].kthvalue(rank).values)
    return max(0.0, (float(distances[0]) - chance) / (1 - chance))


def _compare(spectra: torch.Tensor, modes: torch.Tensor) -> tuple[float, int]:
    """p of the highest rise of the first of `spectra` [1 + S, J] among all of them, and the shell of its largest rise.

    Each shell's rises are measured by their spread over all spectra, the first included: under the null all are exchangeable.
    A strong wave leaks, and many shells rise above all surrogates' then; the largest is the one with the most power to it.
    """
    rise = rises(spectra, modes)
    score = torch.zeros_like(rise)
    score[:, 1:] = rise[:, 1:].clamp(min=0) / rise[:, 1:].std(0).clamp(min=1e-12)
    highest = score.amax(1)
    extreme = int((highest[1:] >= highest[0]).sum()) if highest[0] > 0 else len(highest) - 1
    beyond = score[0] >= torch.minimum(highest[1:].quantile(1 - LEVEL), highest[0])
    power = (spectra[0] - ceilings(spectra[:1], modes)[0]) * modes
    return (1 + extreme) / len(highest), int(power.where(beyond, -math.inf).argmax())


def _variance(field: torch.Tensor) -> float:
    return float(detrend(field[None]).double().square().mean())
