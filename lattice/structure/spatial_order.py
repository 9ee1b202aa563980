"""Morphology: do a lattice's connections vary over space with a wavelength of their own?  In doubt the answer is "nothing".

    weights [K, X, Y, Z] -> per-cell fields -> minus trend -> window -> rfftn -> mean power in shells of equal frequency

Most fields that are not noise are smooth: their power falls with frequency.  So what counts here is a *rise*: more power at a
wavelength than any falling spectrum could hold, given the power at all longer wavelengths (see `rises`).  The statistic is the
highest rise over all wavelengths, each in units of its spread under the null hypothesis.  A reading is "structure" if it beats
all of its nulls at LEVEL and holds at least MIN_STRENGTH of the field's variance.  Otherwise it is "nothing".

    shuffled   The same values in random places.  Is there anything that white noise does not have?
    red        Random phases under the falling spectrum that fits best.  Is there more than smoothness?
    start      If the field at the stage's start is given, the *change* since then is read, so that what was there from the
               start (noise, a bias, an interpolated field) does not count.  The power at this wavelength must also have
               grown in the field itself, by more than the powers of two unrelated noises differ.

The nulls are sets of surrogate fields that go through the same steps as the field.  So p is (1 + surrogates at least as
extreme) / (1 + surrogates), which is exact for shuffles of exchangeable noise.  The idea that weight morphologies arise by
training is from de Jong, Meigel & Rulands (arXiv 2501.05550), who study the layers of feed-forward networks.  The fields, the
statistic and the nulls here are this project's own.

Blind spots: waves of fewer than about two and a half periods along the lattice can't be told from a trend.  And a wave may be
an imprint of strides, ticks, ports or pruning tiles: a reading says that there is a wave, and not where it comes from.

Cost: at 300x300x150 a field is 54 MB.  One reading takes 0.31 GB more at its peak (measured), however many surrogates there
are, and about 3 CPU-seconds for each surrogate of both nulls.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

from lattice.structure.spectra import Shells, ceilings, detrend, red_fit, rises
from presets.topology import Offset, Topology

LEVEL = 0.05
"""Largest p of a reading that is "structure", after the correction for reading several fields."""

MIN_STRENGTH = 0.01
"""Smallest share of a field's variance that counts as structure, since in millions of cells anything is significant."""

SURROGATES = 199
"""Number of surrogate fields of each null; p can't be below 1 / (SURROGATES + 1)."""

FIELDS = ("strength", "mean", "along x", "along y", "along z")

_AT_ONCE = 1 << 21
"""Most cells of surrogates that are transformed at once, unless one field has more; this takes about 100 MB."""


@dataclass(frozen=True)
class Reading:
    """What one field shows.  Wavelengths in cells; p-values corrected for all wavelengths, and for `fields` fields."""

    verdict: Literal["nothing", "structure"]
    wavelength: float | None
    """The wavelength of the highest rise, which means something only with the verdict "structure".  None without variance."""
    p: float
    """The largest p-value of all nulls."""
    p_shuffled: float
    p_red: float
    p_start: float | None
    """None if no start was given."""
    strength: float
    """Share (0..1) of the field's variance that the shell of that wavelength holds above the red background."""
    order: float
    """How much further (0..1) the field is from white noise than its start (see `order`), at most as far as its change is."""
    wavelengths: tuple[float, ...]
    """The wavelength of each shell, longest first."""
    power: tuple[float, ...]
    """Mean power per mode in each shell; 1 is the mean over all modes."""
    red: tuple[float, ...]
    """The falling spectrum that fits `power` best."""


# Fields


def in_bounds(offset: Offset, topology: Topology) -> torch.Tensor:
    """Which cells have a neighbour at `offset`, bool [X, Y, Z]; across x and y all have one if these are periodic."""
    mask = torch.ones(topology.shape, dtype=torch.bool)
    for axis, step in enumerate(offset):
        if step and (axis == 2 or topology.boundary == "walls"):
            size = topology.shape[axis]
            at = torch.arange(size) + step
            mask &= ((at >= 0) & (at < size)).view([-1 if other == axis else 1 for other in range(3)])
    return mask


def fields(weights: torch.Tensor, topology: Topology) -> dict[str, torch.Tensor]:
    """The scalar FIELDS of weights [K, X, Y, Z], each [X, Y, Z] in fp32 on the CPU.

    `strength` is the mean |w| of a cell's connections, and `mean` their mean w.  `along x` is the mean of |w| times how much of
    the offset's direction lies along x: its squared cosine minus 1/3, so that the three add up to zero.

    Weights that point out of the lattice are left out, and the mean of each offset over all cells is subtracted.  So neither
    borders nor offsets that start with a bias make structure.  This takes about ten fields' memory besides the weights.
    Raises ValueError if weights and topology do not belong together.
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
    """A copy of weights [K, X, Y, Z] with each offset's weights shuffled among the cells whose neighbour exists."""
    shuffled = weights.detach().clone()
    for offset, row in zip(topology.offsets, shuffled, strict=True):
        inside = in_bounds(offset, topology).to(row.device)
        values = row[inside]
        row[inside] = values[torch.randperm(len(values), generator=generator).to(row.device)]
    return shuffled


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
    """Reads one field [X, Y, Z], or with `start` [X, Y, Z] its change since then.  p is corrected for `tests` readings.

    Raises ValueError if values are not finite, if shapes differ or are too small, and if there are too few surrogates to ever
    reach LEVEL.
    """
    field = field.detach().float().cpu()
    if start is not None and start.shape != field.shape:
        raise ValueError(f"the start {tuple(start.shape)} has another shape than the field {tuple(field.shape)}")
    if tests > LEVEL * (surrogates + 1):
        need = math.ceil(tests / LEVEL) - 1
        raise ValueError(f"{surrogates} surrogates can't show anything at level {LEVEL} in {tests} fields; use at least {need}")
    x, y, z = field.shape
    shells = Shells((x, y, z), boundary)
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
    """`read` for each field of `now`, which are those of `fields`; p is corrected for their number.  Raises ValueError."""
    return {
        name: read(field, boundary, generator, None if start is None else start[name], surrogates, len(now))
        for name, field in now.items()
    }


def order(power: torch.Tensor, white: torch.Tensor, modes: torch.Tensor, tests: int = 1) -> float:
    """Share (0..1) of a spectrum's [J] power that would have to move between shells to make it noise, beyond chance.

    This is (distance - chance) / (1 - chance), and 0 for noise.  The distance is the total variation distance to the mean of
    `white` [S, J], the spectra of shuffled fields.  In LEVEL of all cases, the distance of one of `tests` noises exceeds
    chance.
    """
    noise = white.mean(0)
    distances = ((torch.cat([power[None], white]) - noise).abs() * modes).sum(1) / (2 * modes.sum())
    rank = math.ceil((1 - LEVEL / tests) * len(distances) - 1e-9)
    chance = float(distances[1:].kthvalue(rank).values)
    return max(0.0, (float(distances[0]) - chance) / (1 - chance))


def _compare(spectra: torch.Tensor, modes: torch.Tensor) -> tuple[float, int]:
    """p of the highest rise of the first of `spectra` [1 + S, J] among all of them, and the shell of its largest rise.

    The rises of a shell are in units of their spread over all spectra, the first included, since under the null hypothesis all
    are exchangeable.  A strong wave leaks, so that many shells rise above all surrogates.  The largest rise is the one of these
    with the most power above its ceiling.
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
