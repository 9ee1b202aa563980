"""Spectra of fields: shells hold what the full transform holds, and only what does not fall rises."""

from __future__ import annotations

import math

import pytest
import torch

from lattice.random_streams import generator
from lattice.structure.spectra import Shells, ceilings, detrend, red_fit, rises


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed, "noise"))


@pytest.mark.parametrize("shape", [(8, 8, 8), (6, 9, 7), (1, 5, 12)])
def test_shells_hold_every_mode_of_the_full_transform_and_its_power(shape):
    shells = Shells(shape, "periodic")
    assert shells.modes.sum() == math.prod(shape) - 1
    field = noise(*shape)
    windowed = detrend(field[None])[0] * torch.sin(math.pi * (torch.arange(shape[2]) + 0.5) / shape[2])
    power = torch.fft.fftn(windowed).abs().square().double()
    grid = torch.meshgrid(*(torch.fft.fftfreq(size, dtype=torch.float64) for size in shape), indexing="ij")
    shell = (sum(axis**2 for axis in grid).sqrt() * max(shape)).round()
    expected = torch.stack([power[shell == j].mean() for j in shell.unique()[1:]])
    expected *= shells.modes.sum() / (expected * shells.modes).sum()
    assert torch.allclose(shells.power(field[None])[0], expected, rtol=1e-4)


def test_detrending_takes_out_any_linear_field():
    x, y, z = torch.meshgrid(*(torch.arange(float(size)) for size in (5, 6, 7)), indexing="ij")
    assert detrend((3 + x - 2 * y + 0.5 * z)[None]).abs().max() < 1e-5


def test_the_red_fit_is_the_isotonic_regression_of_scikit_learn():
    from sklearn.isotonic import IsotonicRegression

    power, modes = noise(30).exp().double(), noise(30, seed=1).exp().double()
    expected = IsotonicRegression(increasing=False).fit(range(30), power.numpy(), modes.numpy()).predict(range(30))
    assert torch.allclose(red_fit(power, modes), torch.from_numpy(expected))


def test_the_ceiling_is_where_the_falling_fit_to_all_longer_waves_ends():
    power, modes = noise(3, 12).exp().double(), noise(12, seed=1).exp().double()
    found = ceilings(power, modes)
    assert found[:, 0].isinf().all()
    for row, spectrum in zip(found, power, strict=True):
        assert torch.allclose(row[1:], torch.stack([red_fit(spectrum[:j], modes[:j])[-1] for j in range(1, 12)]))


def test_no_falling_spectrum_rises():
    falling = noise(5, 12).exp().double().sort(1, descending=True).values
    assert rises(falling, torch.ones(12, dtype=torch.float64)).max() <= 1e-9


def test_coloured_noise_has_the_spectrum_it_was_given():
    shells = Shells((16, 16, 16), "periodic")
    spectrum = 1 / shells.frequency
    fields_ = shells.color(torch.randn(64, 16, 16, 16, generator=generator(0, "white")), spectrum)
    power = torch.fft.rfftn(fields_, dim=(1, 2, 3)).abs().square().mean(0)
    for j in (shells.modes > 50).nonzero().flatten().tolist():
        mean = power[shells.index == j].mean() / 16**3
        assert mean == pytest.approx(float(spectrum[j]), rel=0.15)
