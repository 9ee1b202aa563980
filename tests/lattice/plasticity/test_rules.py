"""BCM, Oja, three-factor and homeostasis against what theory says they converge to; bounds and signs for any input."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lattice.plasticity.rules import (
    STDP,
    apply_to_magnitude,
    bcm_change,
    bcm_theta,
    bounded,
    decayed,
    depressed,
    eligibility_step,
    homeostatic_gain,
    homeostatic_threshold,
    oja_change,
    potentiated,
    running_mean,
    three_factor_change,
    with_sign,
)

BROKEN = torch.tensor([math.nan, math.inf, -math.inf])
ANY = st.floats(width=32)

steady = settings(max_examples=100, derandomize=True, deadline=None, database=None)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Magnitudes and signs


def test_signs_are_kept_while_magnitudes_move_and_zero_remembers_its_sign():
    weights = torch.tensor([0.5, -0.5, 0.1, -0.1])
    weak = apply_to_magnitude(weights, torch.full((4,), -0.2), 0.0, 1.0)
    assert torch.allclose(weak, torch.tensor([0.3, -0.3, 0.0, 0.0])) and weak.signbit().tolist() == [False, True, False, True]
    again = apply_to_magnitude(weak, torch.full((4,), 0.2), 0.0, 1.0)
    assert torch.allclose(again, torch.tensor([0.5, -0.5, 0.2, -0.2]))


def test_a_change_that_is_not_finite_leaves_the_weight_as_it_is():
    weights = torch.tensor([0.4, -0.4, 0.4])
    assert torch.equal(apply_to_magnitude(weights, BROKEN, 0.0, 1.0), weights)


@steady
@given(st.lists(st.tuples(st.floats(-1, 1, width=32), ANY), min_size=1, max_size=20))
def test_weights_stay_finite_within_bounds_and_of_their_sign_whatever_the_change(cases):
    weights, change = (torch.tensor(column, dtype=torch.float32) for column in zip(*cases, strict=True))
    moved = apply_to_magnitude(weights, change, 0.01, 0.9)
    assert moved.isfinite().all() and torch.equal(moved.signbit(), weights.signbit())
    assert moved.abs().min() >= torch.tensor(0.01) and moved.abs().max() <= torch.tensor(0.9)


@steady
@given(st.lists(st.tuples(st.floats(0, 1, width=32), ANY, ANY, ANY), min_size=1, max_size=10), st.floats(0, 2))
def test_every_rule_with_any_activity_leaves_weights_finite_and_within_bounds(cases, mu):
    start, pre, post, theta = (torch.tensor(column, dtype=torch.float32) for column in zip(*cases, strict=True))
    stdp = STDP(0.1, 0.1, 10.0, 10.0, 0.01, 0.9, mu)
    changes = (
        bcm_change(pre * post, post, theta, 0.1),
        oja_change(pre * post, post.square(), start, 0.1),
        three_factor_change(eligibility_step(torch.zeros_like(pre), pre * post, 3.0), theta, 0.1),
    )
    moved = [bounded(start, change, 0.01, 0.9) for change in changes]
    moved += [rule(start, pre * post, stdp) for rule in (potentiated, depressed)]
    for magnitude in moved:
        assert magnitude.isfinite().all()
        assert magnitude.min() >= torch.tensor(0.01) and magnitude.max() <= torch.tensor(0.9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_updated_keeps_its_dtype(dtype):
    low, high = torch.full((3,), 0.5, dtype=dtype), torch.rand(3, dtype=torch.float64)
    updated = (
        bounded(low, high, 0.0, 1.0),
        with_sign(low, -high),
        decayed(low, 3.0),
        running_mean(low, high, 3.0),
        bcm_theta(low, high, 3.0),
        eligibility_step(low, high, 3.0),
        homeostatic_threshold(low, high, 0.1, 0.1, 0.01, 1.0),
        homeostatic_gain(low, high, 0.1, 0.1, 1.0),
    )
    assert {tensor.dtype for tensor in updated} == {dtype}


# Traces and running means


def test_decay_is_exact_where_eulers_step_would_be_2_6_percent_off():
    trace = torch.ones((), dtype=torch.float64)
    for _ in range(20):
        trace = decayed(trace, 20.0)
    assert trace.item() == pytest.approx(math.exp(-1), rel=1e-12)


def test_a_running_mean_follows_a_constant_as_the_exact_exponential_and_survives_broken_values():
    mean = torch.zeros(3, dtype=torch.float64)
    for _ in range(50):
        mean = running_mean(mean, torch.full((3,), 2.0, dtype=torch.float64), 25.0)
    assert mean.tolist() == pytest.approx([2 * (1 - math.exp(-2))] * 3, rel=1e-12)
    assert torch.equal(running_mean(mean, BROKEN, 25.0), mean)


# BCM


def learn_bcm(inputs: torch.Tensor, weights: torch.Tensor, eta: float, tau_theta: float, steps: int) -> torch.Tensor:
    """Linear cells [cells, N] shown the rows of `inputs` in turn -> their responses [cells, inputs]."""
    theta = (weights @ inputs.T).square().mean(1)
    for step in range(steps):
        pre = inputs[step % len(inputs)]
        post = weights @ pre
        theta = bcm_theta(theta, post, tau_theta)
        weights = weights + bcm_change(pre * post[:, None], post[:, None], theta[:, None], eta)
    return weights @ inputs.T


def test_bcm_with_a_single_input_settles_at_a_response_of_one():
    weights = torch.tensor([[0.2, 0.1], [0.5, 0.9], [1.0, 0.6]], dtype=torch.float64)
    pattern = torch.tensor([[0.8, 0.6]], dtype=torch.float64)
    assert learn_bcm(pattern, weights, 0.05, 10.0, 1000).flatten().tolist() == pytest.approx([1.0] * 3, abs=1e-6)


def test_bcm_with_two_orthogonal_inputs_becomes_selective_with_responses_two_and_zero():
    """theta = E[y²] = y²/2 at a selective state, and y = theta there: y = 1/p = 2 for the one, 0 for the other."""
    inputs = torch.tensor([[0.8, 0.6], [-0.6, 0.8]], dtype=torch.float64)
    start = torch.tensor([[0.3, 0.5], [-0.1, 0.6], [0.7, 0.4], [0.2, 0.7]], dtype=torch.float64)
    before = start @ inputs.T
    responses = learn_bcm(inputs, start, 0.005, 100.0, 4000)
    ordered = responses.sort(1).values
    assert torch.allclose(ordered, torch.tensor([0.0, 2.0], dtype=torch.float64).expand(4, 2), atol=0.02)
    assert torch.equal(responses.argmax(1), before.argmax(1)) and len(responses.argmax(1).unique()) == 2


# Oja


def test_oja_finds_the_first_principal_component_with_unit_norm():
    mixing = torch.tensor([[2.0, 0.3, 0.1], [0.3, 1.0, 0.0], [0.1, 0.0, 0.5]], dtype=torch.float64)
    samples = torch.randn(10_000, 3, generator=generator(3), dtype=torch.float64) @ mixing
    weights = torch.tensor([0.2, 0.5, 0.4], dtype=torch.float64)
    for pre in samples:
        post = weights @ pre
        weights = weights + oja_change(pre * post, post.square(), weights, 0.001)
    first = torch.linalg.eigh(samples.T @ samples).eigenvectors[:, -1]
    assert weights.norm().item() == pytest.approx(1.0, abs=0.02)
    assert abs(weights @ first / weights.norm()) > 0.999


def test_oja_on_means_of_products_is_the_mean_of_oja_on_samples():
    pre, post = torch.rand(8, 4, generator=generator(4)), torch.rand(8, 1, generator=generator(5))
    weights = torch.rand(4, generator=generator(6))
    single = oja_change(pre * post, post.square(), weights, 0.1).mean(0)
    assert torch.allclose(oja_change((pre * post).mean(0), post.square().mean(0), weights, 0.1), single)


# Three factors


def test_without_a_learning_signal_no_weight_moves():
    weights, eligibility = torch.randn(50, generator=generator(8)).clamp(-0.9, 0.9), torch.randn(50, generator=generator(9))
    change = three_factor_change(eligibility, torch.zeros(50), 0.5)
    assert torch.equal(apply_to_magnitude(weights, change, 0.0, 0.9), weights)


def test_with_the_negative_gradient_as_signal_it_is_a_gradient_step_on_a_linear_cell():
    """L = sum (w·x - target)² / 2 over cells; dL/dw = (w·x - target) x in closed form."""
    pre = torch.randn(6, generator=generator(10), dtype=torch.float64)
    weights = torch.randn(4, 6, generator=generator(11), dtype=torch.float64)
    error = weights @ pre - torch.tensor([0.3, -0.2, 1.0, 0.0], dtype=torch.float64)
    eligibility = eligibility_step(torch.ones(4, 6, dtype=torch.float64), pre.expand(4, 6), tau_e=0.0)
    step = weights - 0.01 * error[:, None] * pre
    assert torch.allclose(weights + three_factor_change(eligibility, -error[:, None], 0.01), step, atol=1e-15)
    on_magnitudes = three_factor_change(weights.sign() * eligibility, -error[:, None], 0.01)
    assert torch.allclose(apply_to_magnitude(weights, on_magnitudes, 0.0, 10.0), step, atol=1e-15)


def test_eligibility_decays_with_its_time_constant_and_ignores_broken_products():
    eligibility = eligibility_step(torch.zeros(3, dtype=torch.float64), torch.ones(3), 5.0)
    for _ in range(10):
        eligibility = eligibility_step(eligibility, BROKEN, 5.0)
    assert eligibility.tolist() == pytest.approx([math.exp(-2)] * 3, rel=1e-12)


# Homeostasis


@pytest.mark.parametrize("start", [1e-3, 0.5, 50.0], ids=["everything fires", "half fires", "nothing fires"])
@pytest.mark.parametrize("target", [0.05, 0.3])
def test_thresholds_bring_cells_of_any_scale_to_the_target_rate(start, target):
    """Activity is exponential with the cell's own mean, so the threshold that gives the target is -mean · log(target)."""
    means = torch.tensor([0.2, 1.0, 5.0], dtype=torch.float64)
    activity = means * torch.empty(4000, 3, dtype=torch.float64).exponential_(generator=generator(12))
    threshold, rate = torch.full((3,), start, dtype=torch.float64), torch.full((3,), target, dtype=torch.float64)
    fired = []
    for now in activity:
        fires = now > threshold
        rate = running_mean(rate, fires.double(), 20.0)
        threshold = homeostatic_threshold(threshold, rate, target, 0.05, 1e-6, 1e3)
        fired.append(fires)
    settled = torch.stack(fired[2000:]).double().mean(0)
    assert settled.tolist() == pytest.approx([target] * 3, abs=0.01)
    assert (threshold / (-means * math.log(target))).log().abs().max() < 0.7


def test_gains_bring_a_cell_that_listens_to_its_cluster_to_the_target_rate_and_keep_their_sign():
    noise = torch.randn(4000, 2, generator=generator(13), dtype=torch.float64)
    gain, rate = torch.tensor([3.0, -0.05], dtype=torch.float64), torch.full((2,), 0.1, dtype=torch.float64)
    fired = []
    for cluster in noise:
        fires = (gain * cluster).abs() > 1.0
        rate = running_mean(rate, fires.double(), 20.0)
        gain = homeostatic_gain(gain, rate, 0.1, 0.05, 100.0)
        fired.append(fires)
    assert torch.stack(fired[2000:]).double().mean(0).tolist() == pytest.approx([0.1, 0.1], abs=0.01)
    assert gain.sign().tolist() == [1, -1]


@steady
@given(st.lists(st.tuples(st.floats(0, 1000, width=32), ANY), min_size=1, max_size=10))
def test_thresholds_and_gains_stay_within_their_bounds_whatever_the_rate(cases):
    value, rate = (torch.tensor(column, dtype=torch.float32) for column in zip(*cases, strict=True))
    threshold = homeostatic_threshold(value, rate, 0.1, 0.1, 0.01, 100.0)
    gain = homeostatic_gain(-value, rate, 0.1, 0.1, 2.0)
    assert ((threshold >= torch.tensor(0.01)) & (threshold <= 100)).all()
    assert ((gain <= 0) & (gain >= -2)).all()


def test_a_rate_that_is_not_finite_moves_nothing():
    value = torch.tensor([0.5, 0.6, 0.7])
    assert torch.equal(homeostatic_threshold(value, BROKEN, 0.1, 0.1, 0.01, 1.0), value)
    assert torch.equal(homeostatic_gain(value, BROKEN, 0.1, 0.1, 1.0), value)


def test_a_cell_at_its_target_rate_is_left_alone_and_the_step_is_relative():
    value, rates = torch.full((3,), 0.5, dtype=torch.float64), torch.tensor([0.0, 0.2, 1.0], dtype=torch.float64)
    moved = homeostatic_threshold(value, rates, 0.2, 0.1, 0.01, 1.0)
    assert moved.tolist() == pytest.approx([0.5 * math.exp(-0.02), 0.5, 0.5 * math.exp(0.08)])
    assert all(low < high for low, high in pairwise(moved.tolist()))
