"""The gradient norm against one summed in double precision, and when gradients are scaled by it."""

from __future__ import annotations

import math

import pytest
import torch

from lattice.optimizers.clipping import ROW, clip

SHAPES = [(3,), (ROW,), (2, 5, ROW // 2 + 7), (1,)]


def parameters(scale: float = 1.0) -> list[torch.Tensor]:
    """One of each shape with a gradient, and one without."""
    stream = torch.Generator().manual_seed(0)
    made = [torch.zeros(shape) for shape in SHAPES]
    for p in made:
        p.grad = scale * torch.randn(p.shape, generator=stream)
    return [*made, torch.zeros(4)]


def exact_norm(parameters: list[torch.Tensor]) -> float:
    return math.sqrt(sum(float(p.grad.double().square().sum()) for p in parameters if p.grad is not None))


def test_the_norm_is_that_of_all_gradients_as_one_vector():
    given = parameters()
    assert clip(given, 1e9) == pytest.approx(exact_norm(given), rel=1e-6)
    assert clip([torch.zeros(3)], 1.0) == 0.0


def test_the_norm_of_a_large_gradient_does_not_lose_what_is_small_beside_the_sum():
    p = torch.zeros(20_000_001)
    p.grad = torch.full_like(p, 1e-3)
    assert clip([p], 1e9) == pytest.approx(1e-3 * math.sqrt(p.numel()), rel=1e-5)


def test_gradients_above_the_largest_norm_are_scaled_to_it():
    given = parameters()
    before, norm = [p.grad.clone() for p in given[:-1]], exact_norm(given)
    assert clip(given, norm / 4) == pytest.approx(norm, rel=1e-6)
    for p, gradient in zip(given, before, strict=False):
        torch.testing.assert_close(p.grad, gradient / 4, rtol=1e-5, atol=0)


@pytest.mark.parametrize("wrong", [None, math.nan, math.inf])
def test_gradients_within_it_or_not_finite_are_left_alone(wrong):
    given = parameters(1e-6 if wrong is None else 1.0)
    if wrong is not None:
        given[2].grad[1, 4, 9] = wrong
    before = [p.grad.clone() for p in given[:-1]]
    assert math.isfinite(clip(given, 0.5)) == (wrong is None)
    assert all(torch.equal(p.grad.nan_to_num(), gradient.nan_to_num()) for p, gradient in zip(given, before, strict=False))


def test_a_gradient_that_is_not_contiguous_counts_and_is_scaled():
    p = torch.zeros(ROW, 3)
    p.grad = torch.randn(3, ROW, generator=torch.Generator().manual_seed(2)).t()
    norm = exact_norm([p])
    assert clip([p], norm / 2) == pytest.approx(norm, rel=1e-6)
    assert exact_norm([p]) == pytest.approx(norm / 2, rel=1e-5)
