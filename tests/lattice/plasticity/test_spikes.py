"""Which cells fire and what traces they leave: the C versions against the plain ones, and these against their definitions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lattice.plasticity import spikes as module
from lattice.plasticity.spikes import plain_spikes, plain_traces, spikes, traces

SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.integers(1, 35))


@pytest.fixture(autouse=True)
def _has_the_compiled_kernel():
    """Where it could not be built everything would pass all the same: the plain version steps in."""
    assert module.library("spikes.c") is not None


def states(batch: int, x: int, y: int, z: int, channels: int, seed: int) -> tuple[torch.Tensor, ...]:
    """Two states [B, X, Y, C, Z] and thresholds [X, Y, Z] that about half of the changes pass."""
    draw = torch.Generator().manual_seed(seed)
    now, before = (torch.randn(batch, x, y, channels, z, generator=draw) for _ in range(2))
    return now, before, 1.4 + 0.2 * torch.rand(x, y, z, generator=draw)


@settings(max_examples=50, derandomize=True, deadline=None, database=None)
@given(shape=SHAPES, channels=st.integers(1, 13), first=st.booleans(), seed=st.integers(0, 99))
def test_one_pass_in_c_finds_the_spikes_of_the_plain_version(shape, channels, first, seed):
    now, before, threshold = states(*shape, channels, seed)
    before = None if first else before
    assert torch.equal(spikes(now, before, threshold), plain_spikes(now, before, threshold))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cell_fires_where_its_state_changes_by_more_than_its_threshold(dtype):
    now, before, threshold = states(2, 3, 2, 20, 4, 1)
    now, before = now.to(dtype), before.to(dtype)
    fired = spikes(now, before, threshold)
    assert torch.equal(fired, (now.double() - before.double()).square().mean(3).sqrt() > threshold)
    assert 0.2 < fired.float().mean() < 0.8


def test_states_that_are_not_contiguous_are_read_right_and_what_is_not_a_number_is_no_spike():
    now, before, threshold = states(2, 3, 2, 20, 4, 1)
    wanted = spikes(now, before, threshold)
    assert torch.equal(spikes(now.transpose(1, 4).contiguous().transpose(1, 4), before, threshold), wanted)
    now[1, 2, 1, 3, 7] = math.nan
    fired = spikes(now, before, threshold)
    assert not fired[1, 2, 1, 7] and int((fired != wanted).sum()) == int(wanted[1, 2, 1, 7])


@settings(max_examples=50, derandomize=True, deadline=None, database=None)
@given(shape=SHAPES, ticks=st.integers(1, 40), tau=st.sampled_from([0.1, 2.0, 30.0]), seed=st.integers(0, 99))
def test_one_pass_in_c_leaves_the_traces_of_the_plain_version(shape, ticks, tau, seed):
    batch, x, y, z = shape
    draw = torch.Generator().manual_seed(seed)
    spiking = [torch.rand(shape, generator=draw) < 0.3 for _ in range(ticks)]
    start, found = torch.rand(shape, generator=draw), []
    for implementation in (traces, plain_traces):
        end, fired, trace = start.clone(), *(torch.full((batch, x, y, ticks, z), math.nan) for _ in range(2))
        implementation(spiking, tau, end, fired, trace)
        found.append((fired, trace, end))
    for fast, plain in zip(*found, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("implementation", [traces, plain_traces])
def test_a_trace_is_what_all_spikes_before_left_also_in_parts(implementation):
    ticks, tau, shape = 7, 2.0, (2, 2, 3, 18)
    draw = torch.Generator().manual_seed(0)
    spiking, end = [torch.rand(shape, generator=draw) < 0.4 for _ in range(ticks)], torch.zeros(shape)
    for start in (0, 4):
        part = spiking[start : start + 4]
        fired, trace = (torch.empty(2, 2, 3, len(part), 18) for _ in range(2))
        implementation(part, tau, end, fired, trace)
        for tick, spike in enumerate(part):
            assert torch.equal(fired[:, :, :, tick], spike.float())
            left = sum(
                (spiking[before].float() * math.exp(-(start + tick - before) / tau) for before in range(start + tick)),
                torch.zeros(shape),
            )
            torch.testing.assert_close(trace[:, :, :, tick], left, rtol=1e-5, atol=1e-6)


def test_without_a_compiler_the_plain_versions_serve(monkeypatch):
    monkeypatch.setattr(module, "library", lambda main, *defines: None)
    now, before, threshold = states(2, 3, 2, 20, 4, 1)
    assert torch.equal(spikes(now, before, threshold), plain_spikes(now, before, threshold))
    fired, trace, end = torch.empty(2, 3, 2, 1, 20), torch.empty(2, 3, 2, 1, 20), torch.ones(2, 3, 2, 20)
    traces([torch.ones(2, 3, 2, 20, dtype=torch.bool)], 2.0, end, fired, trace)
    assert fired.eq(1).all() and trace.allclose(torch.tensor(math.exp(-0.5))) and end.allclose(1 + trace[:, :, :, 0])
