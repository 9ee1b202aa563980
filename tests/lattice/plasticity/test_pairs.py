"""Pairs of spikes of connected cells: straight from the spikes, by traces and products, and by a loop over all pairs."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lattice.kernels.sparse import TILE, Pattern
from lattice.plasticity import pairs as module
from lattice.plasticity.pairs import MAX_BATCH, MAX_TICKS, pairs, plain_pairs
from lattice.plasticity.products import Work, pairs_of, products
from lattice.plasticity.rules import STDP
from presets.topology import Topology

STRIDES = ((2,), (3,), (2, 17))
RULE = STDP(A_plus=1.0, A_minus=1.0, tau_plus=2.0, tau_minus=5.0, w_min=0.0, w_max=1.0)


@pytest.fixture(autouse=True)
def _has_the_compiled_kernel():
    """Where it could not be built everything would pass all the same: the plain version steps in."""
    assert module.library("pairs.c", *module.DEFINES) is not None


def spikes(topology: Topology, batch: int, ticks: int, share: float, seed: int = 0) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.rand(batch, *topology.shape, generator=draw) < share for _ in range(ticks)]


def zeros(topology: Topology, pattern: Pattern | None = None) -> list[torch.Tensor]:
    kept = len(topology.offsets) if pattern is None else pattern.kept
    return [torch.zeros(kept, *topology.shape) for _ in range(2)]


def some_pattern(topology: Topology, seed: int) -> Pattern:
    """Every tile keeps as many offsets, drawn for itself."""
    draw, (x, y, z) = torch.Generator().manual_seed(seed), topology.shape
    order = torch.rand(len(topology.offsets), x, y, -(-z // TILE), generator=draw).argsort(0)
    return Pattern.of_tiles(torch.zeros_like(order, dtype=torch.bool).scatter_(0, order[: 1 + seed % len(order)], True))


def by_traces(spiking, stdp, topology, sums, quiet=0.0, pattern=None) -> Work:
    return plain_pairs(spiking, stdp, sums, lambda pre, post, total: products(pre, post, topology, total, quiet, pattern))


@pytest.mark.parametrize("implementation", [pairs, by_traces])
@pytest.mark.parametrize("boundary", ["walls", "periodic"])
def test_sums_are_those_of_all_pairs_of_spikes(implementation, boundary):
    topology = Topology((3, 4, 21), STRIDES, boundary)
    spiking, wanted = spikes(topology, 2, 6, 0.4), zeros(topology)
    for k, offset in enumerate(topology.offsets):
        for here, there in pairs_of(topology, offset):
            for post in range(6):
                for pre in range(6):
                    both = (spiking[post][:, *here] & spiking[pre][:, *there]).sum(0)
                    if post > pre:
                        wanted[0][k, *here] += both * math.exp(-(post - pre) / RULE.tau_plus)
                    if post < pre:
                        wanted[1][k, *here] += both * math.exp(-(pre - post) / RULE.tau_minus)
    found = zeros(topology)
    implementation(spiking, RULE, topology, found)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


@settings(max_examples=60, derandomize=True, deadline=None, database=None)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 35)),
    boundary=st.sampled_from(["walls", "periodic"]),
    batch=st.sampled_from([1, 2, MAX_BATCH, MAX_BATCH + 3]),
    ticks=st.sampled_from([1, 2, 11, MAX_TICKS]),
    share=st.sampled_from([0.0, 0.01, 0.3, 1.0]),
    seed=st.integers(0, 99),
)
def test_pairs_from_the_spikes_equal_those_from_traces(shape, boundary, batch, ticks, share, seed):
    topology = Topology(shape, STRIDES, boundary)
    spiking = spikes(topology, batch, ticks, share, seed)
    for pattern in (None, some_pattern(topology, seed)):
        fast, plain = ([torch.ones_like(total) for total in zeros(topology, pattern)] for _ in range(2))  # they are added to
        work = pairs(spiking, RULE, topology, fast, pattern=pattern)
        everything = by_traces(spiking, RULE, topology, plain, pattern=pattern)
        torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)
        assert 0 <= work.done <= work.possible == everything.possible


def test_ticks_that_pair_with_nothing_are_passed_over_and_no_others():
    topology = Topology((1, 1, 48))  # three tiles; of the 26 offsets only -z and +z lead to a cell
    spiking = spikes(topology, 1, 5, 0.0)
    spiking[1][..., 20] = True
    assert pairs(spiking, RULE, topology, zeros(topology)) == Work(0, 60)
    spiking[3][..., 40] = True
    # The last tile's -z reads the middle one, whose spike its own follows; its own tick 3 has no other beside it.
    assert pairs(spiking, RULE, topology, zeros(topology)).done == 1 + 1
    for spikes_of_tick in spiking:
        spikes_of_tick.fill_(True)
    assert pairs(spiking, RULE, topology, zeros(topology)) == Work(
        6 * 2 * 4, 60
    )  # none precedes the first, none follows the last


def test_results_do_not_depend_on_the_number_of_threads():
    topology = Topology((5, 4, 33), STRIDES)
    spiking, before, found = spikes(topology, 3, 7, 0.3), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(zeros(topology))
            assert pairs(spiking, RULE, topology, found[-1]).done > 0
    finally:
        torch.set_num_threads(before)
    for sums in found[1:]:
        assert all(map(torch.equal, sums, found[0]))


@pytest.mark.parametrize("reason", ["no compiler", "many ticks", "quiet"])
def test_traces_serve_where_the_kernel_does_not(monkeypatch, reason):
    topology = Topology((3, 4, 21), STRIDES)
    spiking = spikes(topology, 2, MAX_TICKS + 1 if reason == "many ticks" else 5, 0.3)
    quiet, found, wanted = 0.5 if reason == "quiet" else 0.0, zeros(topology), zeros(topology)
    if reason == "no compiler":
        monkeypatch.setattr(module, "library", lambda main, *defines: None)
    work = pairs(spiking, RULE, topology, found, quiet)
    assert work == by_traces(spiking, RULE, topology, wanted, quiet)
    assert all(map(torch.equal, found, wanted)) and wanted[0].any()
