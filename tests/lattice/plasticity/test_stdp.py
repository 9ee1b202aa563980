"""STDP against a closed form, a double loop over all pairs, and Brian2."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lattice.plasticity.rules import STDP, Traces, depressed, potentiated, stdp_pairs, stdp_step

HERE = Path(__file__).parent
ADDITIVE = STDP(A_plus=0.01, A_minus=0.0085, tau_plus=16.8, tau_minus=33.7, w_min=0.0, w_max=1.0)
NO_COINCIDENCE = replace(ADDITIVE, coincidence=False)


def run(pre: torch.Tensor, post: torch.Tensor, start: torch.Tensor, stdp: STDP) -> torch.Tensor:
    """bool spikes [ticks, ...] and magnitudes -> magnitudes after every tick [ticks, ...]."""
    traces = Traces(torch.zeros(pre.shape[1:], dtype=start.dtype), torch.zeros(post.shape[1:], dtype=start.dtype))
    magnitude, history = start, []
    for pre_spikes, post_spikes in zip(pre, post, strict=True):
        traces, magnitude = stdp_step(traces, pre_spikes, post_spikes, magnitude, stdp)
        history.append(magnitude)
    return torch.stack(history)


def train(times: list[int], ticks: int) -> torch.Tensor:
    spikes = torch.zeros(ticks, dtype=torch.bool)
    spikes[times] = True
    return spikes


def pairs(gaps: range, start: float, stdp: STDP) -> list[float]:
    """Change of a magnitude by one pre and one post spike, for each gap t_post - t_pre, a synapse of its own each."""
    ticks = max(map(abs, gaps)) + 1
    pre = torch.stack([train([max(0, -gap)], ticks) for gap in gaps], dim=1)
    post = torch.stack([train([max(0, gap)], ticks) for gap in gaps], dim=1)
    magnitudes = torch.full((len(gaps),), start, dtype=torch.float64)
    return (run(pre, post, magnitudes, stdp)[-1] - start).tolist()


def pair(gap: int, start: float, stdp: STDP) -> float:
    return pairs(range(gap, gap + 1), start, stdp)[0]


# The window


def window(gap: int, start: float, stdp: STDP) -> float:
    """The textbook's curve, with the weight-dependent factors of soft bounds."""
    span = stdp.w_max - stdp.w_min
    if gap > 0 or (gap == 0 and stdp.coincidence):
        return stdp.A_plus * ((stdp.w_max - start) / span) ** stdp.mu * math.exp(-gap / stdp.tau_plus)
    if gap < 0:
        return -stdp.A_minus * ((start - stdp.w_min) / span) ** stdp.mu * math.exp(gap / stdp.tau_minus)
    return 0.0


@pytest.mark.parametrize("coincidence", [True, False])
@pytest.mark.parametrize("mu", [0.0, 0.4, 1.0])
def test_one_pair_of_spikes_gives_the_window_curve_for_all_gaps_of_up_to_100_ticks(mu, coincidence):
    stdp = replace(ADDITIVE, w_min=0.2, w_max=0.9, mu=mu, coincidence=coincidence)
    gaps = range(-100, 101)
    assert pairs(gaps, 0.6, stdp) == pytest.approx([window(gap, 0.6, stdp) for gap in gaps], abs=1e-12)


def test_spikes_of_the_same_tick_potentiate_in_full_by_default_and_do_nothing_without_coincidence():
    assert pair(0, 0.5, ADDITIVE) == pytest.approx(ADDITIVE.A_plus, abs=1e-12)
    assert pair(0, 0.5, NO_COINCIDENCE) == 0


@pytest.mark.parametrize("parts", [2, 5, 10])
def test_the_window_does_not_depend_on_how_finely_time_is_cut(parts):
    gap, stdp = 20, ADDITIVE
    traces = Traces(torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
    magnitude, silent, spike = torch.full((1,), 0.5, dtype=torch.float64), torch.zeros(1), torch.ones(1)
    traces, magnitude = stdp_step(traces, spike, silent, magnitude, stdp)
    for step in range(1, gap * parts + 1):
        last = step == gap * parts
        traces, magnitude = stdp_step(traces, silent, spike if last else silent, magnitude, stdp, dt=1 / parts)
    assert magnitude.item() - 0.5 == pytest.approx(stdp.A_plus * math.exp(-gap / stdp.tau_plus), abs=1e-12)


def test_hard_bounds_stop_a_magnitude_exactly_at_them():
    strong = replace(ADDITIVE, A_plus=0.3, A_minus=0.3, w_min=0.1, w_max=0.9)
    assert 0.8 + pair(1, 0.8, strong) == pytest.approx(0.9, abs=1e-12)
    assert 0.2 + pair(-1, 0.2, strong) == pytest.approx(0.1, abs=1e-12)


def test_soft_bounds_are_approached_geometrically_and_never_reached():
    soft = replace(ADDITIVE, A_plus=0.2, w_max=1.0, mu=1.0)
    magnitude, room = torch.tensor(0.5, dtype=torch.float64), 0.5
    for _ in range(40):
        magnitude = potentiated(magnitude, torch.tensor(1.0), soft)
        room *= 1 - 0.2
        assert 1 - magnitude.item() == pytest.approx(room, rel=1e-9)


def test_a_magnitude_that_starts_outside_the_bounds_is_brought_inside():
    soft = replace(ADDITIVE, w_min=0.2, w_max=0.8, mu=0.5)
    outside = torch.tensor([0.0, 0.1, 0.9, 5.0])
    for rule in (potentiated, depressed):
        moved = rule(outside, torch.zeros(4), soft)
        assert moved.tolist() == pytest.approx([0.2, 0.2, 0.8, 0.8])


def test_products_summed_over_samples_act_as_one_product():
    magnitude, products = torch.tensor([0.4, 0.6]), torch.tensor([[0.5, 0.1], [1.0, 2.0], [0.0, 0.3]])
    one_by_one = magnitude
    for product in products:
        one_by_one = potentiated(one_by_one, product, ADDITIVE)
    assert torch.allclose(potentiated(magnitude, products.sum(0), ADDITIVE), one_by_one)


def test_traces_of_cells_serve_all_their_connections_by_broadcasting():
    generator = torch.Generator().manual_seed(2)
    pre, post = (torch.rand(30, *shape, generator=generator) < 0.3 for shape in ((4, 1), (1, 3)))
    start = torch.full((4, 3), 0.5, dtype=torch.float64)
    together = run(pre, post, start, ADDITIVE)
    for i in range(4):
        for j in range(3):
            assert torch.equal(together[:, i, j], run(pre[:, i, 0], post[:, 0, j], start[i, j], ADDITIVE))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtypes_are_kept_and_arguments_left_alone(dtype):
    zeros, spikes = torch.zeros(3, dtype=dtype), torch.tensor([True, False, True])
    magnitude = torch.full((3,), 0.5, dtype=dtype, requires_grad=True)
    traces, moved = stdp_step(Traces(zeros, zeros), spikes, spikes, magnitude, replace(ADDITIVE, mu=0.5))
    assert {tensor.dtype for tensor in (*traces, moved)} == {dtype}
    assert not moved.requires_grad and not zeros.any() and (magnitude == 0.5).all()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("A_plus", -0.1),
        ("A_minus", math.nan),
        ("tau_plus", 0.0),
        ("tau_minus", math.inf),
        ("w_min", -1.0),
        ("mu", -1.0),
        ("w_max", 0.0),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_by_name(field, value):
    with pytest.raises(ValueError, match=f"STDP {field} "):
        replace(ADDITIVE, **{field: value})


# Spike trains


def all_pairs(pre: list[int], post: list[int], stdp: STDP) -> float:
    """Sum over all pairs, without traces."""
    change = 0.0
    for t_pre in pre:
        for t_post in post:
            change += window(t_post - t_pre, 0.0, stdp)
    return change


# The hard-coded trains of NEST's tests (test_stdp_nn_synapses.py), with its lambda = 0.01, alpha = 0.85, Wmax = 1, w0 = 0.5,
# mu = 0.  That test is nearest-neighbour, so the expected value of all pairs is recomputed here, by the double loop.
NEST_PRE, NEST_POST = [1, 5, 6, 7, 9, 11, 12, 13], [2, 3, 4, 8, 9, 10, 12]


@pytest.mark.parametrize("stdp", [ADDITIVE, NO_COINCIDENCE], ids=["coincidence", "none"])
def test_traces_equal_a_double_loop_over_all_pairs_of_the_trains_of_nest(stdp):
    start = torch.tensor(0.5, dtype=torch.float64)
    moved = run(train(NEST_PRE, 15), train(NEST_POST, 15), start, stdp)[-1].item()
    assert moved == pytest.approx(0.5 + all_pairs(NEST_PRE, NEST_POST, stdp), abs=1e-12)


@pytest.mark.parametrize("stdp", [ADDITIVE, NO_COINCIDENCE], ids=["coincidence", "none"])
def test_traces_equal_a_double_loop_over_all_pairs_of_random_trains(stdp):
    generator = torch.Generator().manual_seed(7)
    pre, post = (torch.rand(200, generator=generator) < 0.1 for _ in range(2))
    stdp = replace(stdp, w_max=100.0)  # far enough that no bound binds
    start = torch.tensor(50.0, dtype=torch.float64)
    expected = 50 + all_pairs(pre.nonzero().flatten().tolist(), post.nonzero().flatten().tolist(), stdp)
    assert run(pre, post, start, stdp)[-1].item() == pytest.approx(expected, abs=1e-9)


def test_a_spike_that_is_not_finite_is_no_spike():
    traces = Traces(torch.ones(2), torch.ones(2))
    broken = torch.tensor([math.nan, math.inf])
    after, pairs = stdp_pairs(traces, broken, broken, ADDITIVE)
    silent, nothing = stdp_pairs(traces, torch.zeros(2), torch.zeros(2), ADDITIVE)
    for got, wanted in zip((*after, *pairs), (*silent, *nothing), strict=True):
        assert torch.equal(got, wanted)


# Brian2


FIXTURE = json.loads((HERE / "brian2_stdp.json").read_text())
INTERPRETER = os.environ.get("BRIAN2_PYTHON", sys.executable)
"""Where Brian2 is installed: it wants an older numpy than this project is tested with, so mostly in another venv."""


@pytest.mark.parametrize("recorded", FIXTURE["runs"], ids=lambda recorded: f"mu={recorded['mu']}")
def test_weights_equal_those_of_brian2_on_the_same_random_trains(recorded):
    stdp = STDP(**FIXTURE["stdp"], mu=recorded["mu"])
    pre, post = torch.tensor(FIXTURE["pre_spikes"]), torch.tensor(FIXTURE["post_spikes"])
    assert (pre[:, :, None] * post[:, None, :]).sum() > 50, "coincidences are part of what is compared"
    start = torch.tensor(FIXTURE["start"], dtype=torch.float64)
    moved = run(pre[:, :, None], post[:, None, :], start, stdp)
    every = FIXTURE["record_every"]
    theirs = torch.tensor(recorded["weights"], dtype=torch.float64)
    assert (moved[every - 1 :: every] - theirs).abs().max() < 1e-6
    if stdp.mu == 0:
        assert (theirs == stdp.w_min).any() and (theirs == stdp.w_max).any(), "bounds are part of what is compared"


def test_brian2_itself_gives_what_the_fixture_says():
    """Live, where Brian2 is installed (extra `brian2`), here or under the interpreter that BRIAN2_PYTHON names."""
    if subprocess.run([INTERPRETER, "-c", "import brian2"], capture_output=True).returncode:
        pytest.skip(f"Brian2 is not installed under {Path(INTERPRETER).name}; set BRIAN2_PYTHON to a python that has it")
    done = subprocess.run([INTERPRETER, HERE / "make_brian2_fixture.py"], capture_output=True, text=True, check=True)
    live = json.loads(done.stdout)
    for key in ("stdp", "pre_spikes", "post_spikes", "start", "record_every"):
        assert live[key] == FIXTURE[key]
    for ours, theirs in zip(live["runs"], FIXTURE["runs"], strict=True):
        assert torch.allclose(torch.tensor(ours["weights"]), torch.tensor(theirs["weights"]), atol=1e-6, rtol=0)
