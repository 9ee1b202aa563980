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

from lattice.structure.spectra import Shells, ceilings, detrend, red_fit, rises
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
