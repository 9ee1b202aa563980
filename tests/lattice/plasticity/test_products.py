"""Products of connected cells: both implementations against a loop over cells, and what the event-driven one skips."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lattice.kernels import reference
from lattice.kernels.sparse import TILE, Pattern
from lattice.plasticity import products as module
from lattice.plasticity.products import Work, message, plain_products, present, products
from presets.topology import Topology

STRIDES = ((2,), (3,), (2, 17))
CASES = [
    (Topology((3, 4, 5), STRIDES, "walls"), 3),
    (Topology((3, 4, 5), STRIDES, "periodic"), 3),
    (Topology((2, 1, 33), STRIDES, "periodic"), 2),
    (Topology((1, 1, 7)), 1),
    (Topology((2, 2, 16), ((), (), (5,))), 66),  # more values than a comparison judges at once, more than once over
]


def neighbour(topology: Topology, cell: tuple[int, ...], offset: tuple[int, ...]) -> tuple[int, ...] | None:
    """Where cell + offset lies, by the definition of the boundary."""
    x, y, z = (a + b for a, b in zip(cell, offset, strict=True))
    size_x, size_y, size_z = topology.shape
    if topology.boundary == "periodic":
        x, y = x % size_x, y % size_y
    return (x, y, z) if 0 <= x < size_x and 0 <= y < size_y and 0 <= z < size_z else None


def looped(pre: torch.Tensor, post: torch.Tensor, topology: Topology) -> torch.Tensor:
    total = torch.zeros(len(topology.offsets), *topology.shape)
    for k, offset in enumerate(topology.offsets):
        for x, y, z in itertools.product(*map(range, topology.shape)):
            there = neighbour(topology, (x, y, z), offset)
            if there is not None:
                u, v, w = there
                total[k, x, y, z] = (pre[:, u, v, :, w].double() * post[:, x, y, :, z].double()).sum()
    return total


def fields(topology: Topology, values: int, share: float, batch: int = 2, seed: int = 0) -> list[torch.Tensor]:
    """Two fields [B, X, Y, M, Z] of which `share` of the numbers are not zero."""
    draw = torch.Generator().manual_seed(seed)
    x, y, z = topology.shape
    shape = (batch, x, y, values, z)
    return [torch.randn(shape, generator=draw) * (torch.rand(shape, generator=draw) < share) for _ in range(2)]


def zeros(topology: Topology) -> torch.Tensor:
    return torch.zeros(len(topology.offsets), *topology.shape)


def tile_pairs(topology: Topology) -> int:
    """Tiles of 16 cells and offsets of which at least one cell has that neighbour."""
    return sum(
        any(neighbour(topology, (x, y, z), offset) for z in range(first, min(first + TILE, topology.shape[2])))
        for offset in topology.offsets
        for x, y, first in itertools.product(*map(range, topology.shape[:2]), range(0, topology.shape[2], TILE))
    )


def some_pattern(topology: Topology, seed: int) -> Pattern:
    """Every tile keeps as many offsets, drawn for itself."""
    stream, (x, y, z) = torch.Generator().manual_seed(seed), topology.shape
    drawn = torch.rand(len(topology.offsets), x, y, -(-z // TILE), generator=stream)
    kept = 1 + seed % len(topology.offsets)
    return Pattern.of_tiles(torch.zeros_like(drawn, dtype=torch.bool).scatter_(0, drawn.argsort(0)[:kept], True))


@pytest.fixture(autouse=True)
def _has_the_compiled_kernel():
    """Where it could not be built everything would pass all the same: the plain version steps in."""
    assert module.library("products.c") is not None


@pytest.mark.parametrize("share", [1.0, 0.05])
@pytest.mark.parametrize(("topology", "values"), CASES, ids=str)
@pytest.mark.parametrize("implementation", [products, plain_products])
def test_products_equal_a_loop_over_cells(implementation, topology, values, share):
    pre, post = fields(topology, values, share)
    total = zeros(topology)
    implementation(pre, post, topology, total)
    torch.testing.assert_close(total, looped(pre, post, topology), rtol=1e-5, atol=1e-5)


def test_products_of_slabs_equal_products_at_once(monkeypatch):
    topology, values = CASES[1]
    pre, post = fields(topology, values, 1.0)
    whole, slabs = zeros(topology), zeros(topology)
    plain_products(pre, post, topology, whole)
    monkeypatch.setattr("lattice.plasticity.slabs.SLAB_NUMBERS", 1)
    plain_products(pre, post, topology, slabs)
    torch.testing.assert_close(slabs, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("implementation", [products, plain_products])
def test_products_are_added_to_what_is_there(implementation):
    topology, values = CASES[0]
    pre, post = fields(topology, values, 1.0)
    once, twice = zeros(topology), zeros(topology)
    implementation(pre, post, topology, once)
    for _ in range(2):
        implementation(pre, post, topology, twice)
    torch.testing.assert_close(twice, 2 * once)


def test_fields_that_are_not_contiguous_are_read_right():
    topology, values = CASES[0]
    pre, post = fields(topology, values, 1.0)
    wanted, total = zeros(topology), zeros(topology)
    products(pre, post, topology, wanted)
    products(*(field.transpose(1, 4).contiguous().transpose(1, 4) for field in (pre, post)), topology, total)
    assert torch.equal(total, wanted)


@settings(max_examples=40, derandomize=True, deadline=None, database=None)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 35)),
    strides=st.tuples(st.integers(2, 5), st.integers(2, 5), st.integers(2, 20)),
    boundary=st.sampled_from(["walls", "periodic"]),
    values=st.integers(1, 5),
    share=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
    seed=st.integers(0, 99),
)
def test_the_event_driven_kernel_equals_the_plain_one(shape, strides, boundary, values, share, seed):
    topology = Topology(shape, tuple((stride,) for stride in strides), boundary)
    pre, post = fields(topology, values, share, seed=seed)
    fast, plain = zeros(topology), zeros(topology)
    work = products(pre, post, topology, fast)
    everything = plain_products(pre, post, topology, plain)
    torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)
    assert everything.done == everything.possible == work.possible
    assert 0 <= work.done <= work.possible

    pattern = some_pattern(topology, seed)
    for implementation in (products, plain_products):
        kept = torch.zeros(pattern.kept, *topology.shape)
        compact = implementation(pre, post, topology, kept, pattern=pattern)
        torch.testing.assert_close(kept, pattern.take(plain), rtol=1e-5, atol=1e-5)
        assert compact.done <= compact.possible <= everything.possible


@pytest.mark.parametrize(("topology", "values"), CASES, ids=str)
def test_all_work_is_done_where_every_cell_is_busy_and_none_where_either_side_is_silent(topology, values):
    busy, silent = torch.ones_like(fields(topology, values, 1.0)[0]), torch.zeros_like(fields(topology, values, 1.0)[0])
    possible = 2 * values * tile_pairs(topology)
    assert products(busy, busy, topology, zeros(topology)) == Work(possible, possible)
    assert products(silent, busy, topology, zeros(topology)).done == 0
    assert products(busy, silent, topology, zeros(topology)).done == 0


def test_only_the_pairs_of_tiles_that_are_both_busy_are_visited():
    topology = Topology((1, 1, 48))  # three tiles; of the 26 offsets only -z and +z lead to a cell
    pre, post = (torch.zeros(1, 1, 1, 1, 48) for _ in range(2))
    pre[..., 20], post[..., 40] = 1.0, 1.0
    # The last tile hears itself and, through its first cell's -z, the middle one; its +z neighbours are its own.
    assert products(pre, post, topology, zeros(topology)) == Work(1, 6)
    post[..., 20] = 1.0
    assert products(pre, post, topology, zeros(topology)) == Work(3, 6)


def test_pairs_that_are_quiet_together_are_left_out_and_no_others():
    topology, quiet = Topology((1, 1, 48)), 0.3
    pre, post = fields(topology, 5, 0.1, seed=3)
    tiles = [field.view(2, 5, 3, 16).abs().sum(-1) for field in (pre, post)]
    floor = quiet * tiles[0].mean() * tiles[1].mean()
    wanted, done = zeros(topology), 0
    steps = {k: offset[2] for k, offset in enumerate(topology.offsets) if offset[:2] == (0, 0)}
    for b, m, t, (k, step) in itertools.product(range(2), range(5), range(3), steps.items()):
        own = [z for z in range(16 * t, 16 * t + 16) if 0 <= z + step < 48]
        there = max(tiles[0][b, m, (z + step) // 16] for z in own)
        if there * tiles[1][b, m, t] > floor:
            done += 1
            for z in own:
                wanted[k, 0, 0, z] += pre[b, 0, 0, m, z + step] * post[b, 0, 0, m, z]
    total = zeros(topology)
    assert products(pre, post, topology, total, quiet) == Work(done, 60)
    assert 5 < done < 55
    torch.testing.assert_close(total, wanted, rtol=1e-5, atol=1e-5)


def test_results_do_not_depend_on_the_number_of_threads():
    topology = Topology((5, 4, 33), STRIDES)
    pre, post = fields(topology, 7, 0.3)
    before, totals = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            totals.append(zeros(topology))
            work = products(pre, post, topology, totals[-1])
            assert work == products(pre, post, topology, zeros(topology))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(totals[0], totals[1]) and torch.equal(totals[0], totals[2])


def test_without_a_compiler_the_plain_version_serves(monkeypatch):
    monkeypatch.setattr(module, "library", lambda main, *defines: None)
    topology, values = CASES[0]
    pre, post = fields(topology, values, 0.1)
    total = zeros(topology)
    work = products(pre, post, topology, total)
    assert work.done == work.possible
    torch.testing.assert_close(total, looped(pre, post, topology), rtol=1e-5, atol=1e-5)


# Which connections exist, and what they carry


@pytest.mark.parametrize(("topology", "values"), CASES, ids=str)
def test_present_connections_are_those_that_lead_to_a_cell(topology, values):
    size = topology.shape[0]
    for rows in (slice(0, size), slice(size // 2, size), slice(0, 1)):
        inside = present(topology, rows)
        for k, offset in enumerate(topology.offsets):
            for x, y, z in itertools.product(range(*rows.indices(size)), range(topology.shape[1]), range(topology.shape[2])):
                assert bool(inside[k, x - rows.start, y, z]) == (neighbour(topology, (x, y, z), offset) is not None)


@pytest.mark.parametrize(("topology", "values"), CASES[:4], ids=str)
def test_the_message_of_some_rows_is_that_of_the_tick(topology, values):
    state = fields(topology, 12, 1.0)[0]
    weights = torch.randn(len(topology.offsets), *topology.shape, generator=torch.Generator().manual_seed(1))
    rows = slice(topology.shape[0] // 2, topology.shape[0])
    wanted = reference.message(state, weights, topology)[:, rows]
    torch.testing.assert_close(message(state, weights[:, rows], topology, rows), wanted, rtol=1e-5, atol=1e-5)
