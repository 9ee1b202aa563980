"""Morphology: noise, borders, biases, trends and interpolation read "nothing"; a planted wave is found at its wavelength."""

from __future__ import annotations

import math

import pytest
import torch

from lattice.model.growth import resample
from lattice.model.lattice3d import initial_weights
from lattice.random_streams import generator
from lattice.structure.spatial_order import LEVEL, MIN_STRENGTH, fields, in_bounds, order, read, read_all, shuffle
from lattice.structure.spectra import Shells
from presets.schema import Connections
from presets.topology import Topology

BASELINE = Topology((16, 16, 16), ((), (), (3, 5)))


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed, "noise"))


def wave(shape: tuple[int, int, int], wavelength: float, direction: tuple[int, int, int]) -> torch.Tensor:
    """[X, Y, Z] cosine of amplitude 1 along `direction`."""
    length = math.sqrt(sum(part * part for part in direction))
    grid = torch.meshgrid(*(torch.arange(float(size)) for size in shape), indexing="ij")
    along = sum(part / length * axis for part, axis in zip(direction, grid, strict=True))
    return torch.cos(2 * math.pi * along / wavelength + 0.5)


def fresh(seed: int) -> torch.Tensor:
    return initial_weights(BASELINE, Connections(), generator(seed, "lattice", 0))


# Fields


def test_fields_equal_a_sum_over_the_neighbours_that_exist_cell_by_cell():
    topology = Topology((3, 4, 5), ((), (2,), (3,)))
    weights = noise(len(topology.offsets), 3, 4, 5)
    found = fields(weights, topology)
    cells = [(x, y, z) for x in range(3) for y in range(4) for z in range(5)]

    def inside(cell, offset):
        return all(0 <= at + step < size for at, step, size in zip(cell, offset, topology.shape, strict=True))

    rows = list(zip(topology.offsets, weights, strict=True))
    means = []
    for offset, row in rows:
        there = [row[cell] for cell in cells if inside(cell, offset)]
        means.append((sum(there) / len(there), sum(map(abs, there)) / len(there)))
    for cell in cells:
        used = [(o, row[cell], mean) for (o, row), mean in zip(rows, means, strict=True) if inside(cell, o)]
        assert found["mean"][cell] == pytest.approx(float(sum(w - m for _, w, (m, _) in used)) / len(used), abs=1e-6)
        assert found["strength"][cell] == pytest.approx(float(sum(abs(w) - m for _, w, (_, m) in used)) / len(used), abs=1e-6)
        for axis, name in enumerate(("along x", "along y", "along z")):
            shares = [o[axis] ** 2 / sum(step**2 for step in o) - 1 / 3 for o, _, _ in used]
            pulled = sum(share * (abs(w) - m) for share, (_, w, (_, m)) in zip(shares, used, strict=True))
            assert found[name][cell] == pytest.approx(float(pulled) / len(used), abs=1e-6)


def test_weights_that_point_out_of_the_lattice_do_not_count():
    weights = fresh(0)
    changed = weights.clone()
    for offset, row in zip(BASELINE.offsets, changed, strict=True):
        row[~in_bounds(offset, BASELINE)] = 1e3
    now, then = fields(changed, BASELINE), fields(weights, BASELINE)
    assert all(torch.equal(now[name], then[name]) for name in then)


def test_the_bias_along_z_and_the_borders_leave_no_trace_in_a_noiseless_lattice():
    weights = torch.zeros(len(BASELINE.offsets), *BASELINE.shape)
    for k, (dx, dy, dz) in enumerate(BASELINE.offsets):
        if dx == dy == 0 and dz < 0:
            weights[k] += 0.7
    assert all(field.abs().max() < 1e-6 for field in fields(weights, BASELINE).values())


def test_periodic_sides_have_neighbours_and_the_faces_have_none():
    topology = Topology((3, 3, 3), boundary="periodic")
    assert in_bounds((1, -1, 0), topology).all()
    assert in_bounds((1, 0, -1), topology).sum() == 18


def test_weights_of_another_lattice_are_refused():
    with pytest.raises(ValueError, match="do not belong"):
        fields(torch.zeros(26, 4, 4, 4), BASELINE)


def test_shuffling_keeps_each_offsets_weights_and_leaves_those_outside_alone():
    weights = fresh(0)
    mixed = shuffle(weights, BASELINE, generator(0, "shuffle"))
    assert not torch.equal(mixed, weights)
    for offset, before, after in zip(BASELINE.offsets, weights, mixed, strict=True):
        inside = in_bounds(offset, BASELINE)
        assert torch.equal(before[inside].sort().values, after[inside].sort().values)
        assert torch.equal(before[~inside], after[~inside])


# Nothing


def test_fresh_lattices_raise_at_most_five_false_alarms_in_a_hundred_seeds():
    alarms = 0
    for seed in range(100):
        field = fields(fresh(seed), BASELINE)["strength"]
        alarms += read(field, "walls", generator(seed, "read"), surrogates=39).verdict != "nothing"
    assert alarms <= 5


@pytest.mark.slow
def test_all_fields_together_raise_at_most_five_false_alarms_in_a_hundred_fresh_lattices():
    alarms = 0
    for seed in range(100):
        readings = read_all(fields(fresh(seed), BASELINE), "walls", generator(seed, "read"), surrogates=99)
        alarms += any(reading.verdict != "nothing" for reading in readings.values())
    assert alarms <= 5


@pytest.mark.parametrize(
    ("small", "large"),
    [((8, 8, 8), (16, 16, 16)), ((4, 4, 4), (16, 16, 16)), ((5, 5, 4), (30, 30, 20)), ((12, 12, 6), (24, 24, 12))],
)
def test_an_interpolated_field_reads_nothing(small, large):
    alarms = 0
    for seed in range(8):
        field = resample(noise(1, *small, seed=seed), large)[0]
        alarms += read(field, "walls", generator(seed, "read"), surrogates=39).verdict != "nothing"
    assert alarms <= 1  # at LEVEL, one in twenty is to be expected


def test_a_smooth_field_beats_the_shuffles_by_far_and_reads_nothing_all_the_same():
    shells = Shells((16, 16, 16), "walls")
    red = shells.color(noise(1, 16, 16, 16), shells.frequency**-3)[0]
    assert shells.power(red[None])[0, 0] > 10
    assert read(red, "walls", generator(0, "read"), surrogates=39).verdict == "nothing"


def test_a_grown_lattice_reads_nothing_before_it_learns():
    weights = fresh(0)
    grown = fields(weights, BASELINE)["mean"]
    reading = read(grown, "walls", generator(0, "read"), start=grown.clone(), surrogates=39)
    assert (reading.verdict, reading.wavelength, reading.p, reading.strength, reading.order) == ("nothing", None, 1.0, 0.0, 0.0)


def test_a_wave_that_was_there_at_the_start_is_not_news():
    start = noise(16, 16, 16) + wave((16, 16, 16), 4, (1, 0, 0))
    now = start + 0.5 * noise(16, 16, 16, seed=1)
    assert read(now, "walls", generator(0, "read"), surrogates=99).verdict == "structure"
    assert read(now, "walls", generator(0, "read"), start=start, surrogates=99).verdict == "nothing"


def test_a_wave_that_training_wiped_out_is_not_news_either():
    now = noise(16, 16, 16)
    reading = read(now, "walls", generator(0, "read"), start=now + wave((16, 16, 16), 4, (1, 0, 0)), surrogates=99)
    assert reading.p_shuffled <= LEVEL and reading.p_red <= LEVEL
    assert reading.p_start > 0.5 and reading.verdict == "nothing"


def test_a_significant_ripple_of_hardly_any_variance_reads_nothing():
    shells = Shells((32, 32, 32), "walls")
    smooth = shells.color(noise(1, 32, 32, 32), shells.frequency**-6)[0]
    reading = read(smooth / smooth.std() + 0.1 * wave((32, 32, 32), 4, (0, 1, 0)), "walls", generator(0, "read"), surrogates=39)
    assert reading.p <= LEVEL and reading.strength < MIN_STRENGTH
    assert reading.verdict == "nothing"


# Order


def test_order_is_the_share_of_power_that_would_have_to_move_to_be_noise():
    modes = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
    noise = torch.ones(19, 3, dtype=torch.float64)
    assert order(torch.tensor([8.0, 0.0, 0.0]).double(), noise, modes) == pytest.approx(7 / 8)
    assert order(torch.tensor([2.0, 1.0, 0.8]).double(), noise, modes) == pytest.approx(1 / 8)
    assert order(noise[0], noise, modes) == 0


def test_order_is_less_chance_and_what_noise_shows_by_chance_is_none():
    modes = torch.full((4,), 10.0, dtype=torch.float64)
    drawn = 1 + 0.1 * torch.randn(400, 4, generator=generator(0, "spectra"), dtype=torch.float64)
    found = [order(power, drawn[200:], modes) > 0 for power in drawn[:200]]
    assert 0 < sum(found) <= 2 * LEVEL * 200
    tilted = torch.tensor([1.8, 1.0, 1.0, 0.2], dtype=torch.float64)
    assert 0.05 < order(tilted, drawn[200:], modes) < 0.2


# A planted wave


@pytest.mark.parametrize("direction", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 1, 1)])
@pytest.mark.parametrize("wavelength", [2.5, 3.0, 4.0, 5.3])
@pytest.mark.parametrize("amplitude", [1.0, 5.0])
def test_a_planted_wave_is_found_at_its_wavelength(direction, wavelength, amplitude):
    field = noise(16, 16, 16) + amplitude * wave((16, 16, 16), wavelength, direction)
    reading = read(field, "walls", generator(0, "read"), surrogates=39)
    assert reading.verdict == "structure"
    assert 1 / reading.wavelength == pytest.approx(1 / wavelength, abs=0.75 / 16)  # a shell is 1/16 wide
    assert reading.strength >= MIN_STRENGTH


@pytest.mark.parametrize("boundary", ["walls", "periodic"])
def test_a_wave_of_half_the_noises_amplitude_is_found_in_a_lattice_that_is_not_a_cube(boundary):
    shape = (24, 24, 12)
    field = noise(*shape) + 0.5 * wave(shape, 6, (1, 0, 0))
    reading = read(field, boundary, generator(0, "read"), surrogates=39)
    assert reading.verdict == "structure"
    assert reading.wavelength == pytest.approx(6, rel=0.15)


def test_a_wave_in_the_weights_is_found_in_their_strength_against_the_fresh_start():
    start = fresh(0)
    now = start * (1 + 0.5 * wave(BASELINE.shape, 4, (0, 1, 0)))
    readings = read_all(fields(now, BASELINE), "walls", generator(0, "read"), fields(start, BASELINE), surrogates=99)
    assert readings["strength"].verdict == "structure"
    assert readings["strength"].wavelength == pytest.approx(4, rel=0.1)


def test_the_same_stream_gives_the_same_reading():
    field = noise(12, 12, 12)
    first, again = (read(field, "walls", generator(4, "read"), surrogates=39) for _ in range(2))
    assert first == again


# Bad input


def test_what_can_not_be_read_is_refused():
    field, stream = noise(8, 8, 8), generator(0, "read")
    with pytest.raises(ValueError, match="not finite"):
        read(field.clone().index_fill_(0, torch.tensor([3]), math.nan), "walls", stream)
    with pytest.raises(ValueError, match="another shape"):
        read(field, "walls", stream, start=field[1:])
    with pytest.raises(ValueError, match="too small"):
        read(noise(2, 2, 3), "walls", stream)
    with pytest.raises(ValueError, match="at least 99"):
        read(field, "walls", stream, surrogates=98, tests=5)
