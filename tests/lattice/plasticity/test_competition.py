"""Competition: winners by brute force; Σ|w| conserved together with the bounds; who gains and who loses."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lattice.plasticity.competition import compete, competitive_change, conserved, winners, winners_in_blocks

steady = settings(max_examples=100, derandomize=True, deadline=None, database=None)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Winners


def test_the_k_most_active_win_and_silent_or_broken_cells_never():
    activity = torch.tensor([[0.1, 0.9, 0.5, 0.5], [0.0, 0.2, 0.0, 0.0], [math.nan, 0.1, math.inf, 0.2], [0.0, 0.0, 0.0, 0.0]])
    won = winners(activity, 2)
    assert won.sum(1).tolist() == [2, 1, 2, 0]
    assert won[0, 1] and not won[0, 0] and won[2].tolist() == [False, True, False, True]


def test_exactly_k_win_where_all_are_equal_and_all_where_k_is_more_than_there_are():
    assert winners(torch.ones(5, 8), 3).sum(1).tolist() == [3] * 5
    assert winners(torch.ones(5, 8), 99).all()


@pytest.mark.parametrize("shape", [(4, 4, 4), (5, 3, 7), (1, 1, 9), (2, 2, 2)])
def test_each_block_of_the_lattice_has_the_winners_that_a_loop_finds(shape):
    activity = torch.rand(shape, generator=generator(1))
    won = winners_in_blocks(activity, 3, 2)
    assert won.shape == shape
    blocks = 0
    for x in range(0, shape[0], 3):
        for y in range(0, shape[1], 3):
            for z in range(0, shape[2], 3):
                block = (slice(x, x + 3), slice(y, y + 3), slice(z, z + 3))
                inside = activity[block].flatten()
                wanted = set(inside.topk(min(2, len(inside))).values.tolist())
                assert set(activity[block][won[block]].tolist()) == wanted
                blocks += 1
    assert blocks == math.prod(-(-side // 3) for side in shape)


@pytest.mark.parametrize(("size", "k"), [(0, 1), (3, 0)])
def test_no_neighbourhood_and_no_winner_are_refused(size, k):
    with pytest.raises(ValueError, match="at least 1"):
        winners_in_blocks(torch.ones(3, 3, 3), size, k)


# Conservation


def by_bisection(u: list[float], total: float, w_min: float, w_max: float) -> list[float]:
    """The factor found by bisection on its logarithm, in plain floats: slow and independent."""
    low, high = -60.0, 60.0
    for _ in range(200):
        middle = (low + high) / 2
        reached = sum(min(max(math.exp(middle) * x, w_min), w_max) for x in u)
        low, high = (middle, high) if reached < total else (low, middle)
    return [min(max(math.exp(low) * x, w_min), w_max) for x in u]


@steady
@given(st.lists(st.floats(0.001, 5), min_size=1, max_size=30), st.floats(0, 1), st.floats(0, 0.2))
def test_scaling_equals_a_bisection_on_the_factor(u, share, w_min):
    w_max = 1.0
    total = len(u) * (w_min + share * (w_max - w_min))
    got = conserved(torch.tensor(u, dtype=torch.float64), torch.tensor(total, dtype=torch.float64), w_min, w_max)
    assert got.tolist() == pytest.approx(by_bisection(u, total, w_min, w_max), abs=1e-8)


MAGNITUDES = st.floats(0, 2, width=32)
CHANGES = st.floats(width=32)


@steady
@given(st.lists(st.tuples(MAGNITUDES, CHANGES, st.booleans()), min_size=1, max_size=40), st.booleans(), st.floats(0, 3))
def test_sum_and_bounds_hold_together_whatever_the_change(cases, won, inhibition):
    start, change, present = (torch.tensor(column) for column in zip(*cases, strict=True))
    start = start.float().clamp(0.01, 1.0) * present
    moved = compete(start, change.float(), torch.tensor(won), inhibition, 0.01, 1.0, present=present)
    assert moved.isfinite().all() and not moved[~present].any()
    assert (moved[present] >= torch.tensor(0.01)).all() and (moved[present] <= 1).all()
    assert moved.double().sum().item() == pytest.approx(start.double().sum().item(), rel=1e-6)


@pytest.mark.parametrize("dim", [0, -1])
def test_the_sum_of_many_cells_is_conserved_to_one_part_in_a_million(dim):
    shape = (30, 20, 30, 40) if dim == 0 else (20, 30, 40, 30)
    start = torch.randn(shape, generator=generator(2)).mul(0.2).abs().clamp(0.001, 0.5)
    change = 0.1 * torch.randn(shape, generator=generator(3))
    won = torch.rand(20, 30, 40, generator=generator(4)) < 0.2
    moved = compete(start, change, won if dim == 0 else won[..., None], 0.5, 0.001, 0.5, dim)
    before, after = start.double().sum(dim), moved.double().sum(dim)
    assert ((after - before).abs() / before).max() < 1e-6
    assert moved.min() == torch.tensor(0.001) and moved.max() == 0.5 and not torch.equal(moved, start)


def test_with_its_first_total_a_cell_does_not_drift_over_many_steps():
    start = torch.rand(30, 50, generator=generator(5)).clamp(0.01, 1)
    total, moved = start.sum(0), start
    for step in range(300):
        change = 0.1 * torch.randn(30, 50, generator=generator(100 + step))
        moved = compete(moved, change, torch.ones(50, dtype=torch.bool), 0.0, 0.01, 1.0, total=total)
    assert ((moved.double().sum(0) - total.double()).abs() / total).max() < 1e-6


def test_where_no_bound_binds_relative_magnitudes_are_untouched():
    start = torch.rand(30, 50, generator=generator(6), dtype=torch.float64) + 0.5
    scaled = conserved(start * 3, start.sum(0), 0.0, 10.0)
    assert torch.allclose(scaled, start, rtol=1e-12)


def test_a_total_out_of_reach_gives_the_nearest_within_the_bounds():
    start = torch.rand(10, 2, generator=generator(7)).clamp(0.1, 1)
    assert torch.equal(conserved(start, torch.tensor([0.0, 99.0]), 0.1, 1.0), torch.tensor([0.1, 1.0]).expand(10, 2))


def test_weights_at_zero_take_part_when_the_others_cannot_hold_the_total():
    moved = conserved(torch.tensor([1.0, 1.0, 0.0, 0.0]), torch.tensor(2.5), 0.0, 1.0)
    assert moved.tolist() == pytest.approx([1.0, 1.0, 0.25, 0.25])
    assert conserved(torch.zeros(4), torch.tensor(2.0), 0.0, 1.0).tolist() == pytest.approx([0.5] * 4)


def test_a_cell_without_connections_stays_without():
    present = torch.tensor([[True, False]] * 3)
    moved = conserved(torch.full((3, 2), 0.4), torch.tensor([0.9, 0.9]), 0.1, 1.0, present=present)
    assert torch.allclose(moved, torch.tensor([0.3, 0.0]).expand(3, 2))


# Who gains


def test_winners_respond_more_to_what_they_saw_and_losers_less():
    """Hebbian change on one input: with Σ|w| conserved, what the wanted connections gain the others give."""
    pre = torch.tensor([1.0, 0.8, 0.1, 0.0, 0.0])
    start = torch.full((5, 2), 0.4)
    won = torch.tensor([True, False])
    moved = compete(start, 0.1 * pre[:, None].expand(5, 2), won, 0.5, 0.01, 1.0)
    (winner, loser), before = (pre @ moved).tolist(), (pre @ start)[0].item()
    assert winner > before > loser
    assert (moved[:2, 0] > 0.4).all() and (moved[3:, 0] < 0.4).all()
    assert (moved[:2, 1] < 0.4).all() and (moved[3:, 1] > 0.4).all()


def test_inhibition_is_a_share_of_the_wished_change_and_none_leaves_losers_alone():
    change, won = torch.tensor([[0.2, 0.2], [-0.1, -0.1]]), torch.tensor([True, False])
    assert torch.allclose(competitive_change(change, won, 0.5), torch.tensor([[0.2, -0.1], [-0.1, 0.05]]))
    start = torch.tensor([[0.3, 0.3], [0.5, 0.5]])
    assert torch.allclose(compete(start, change, won, 0.0, 0.0, 1.0)[:, 1], start[:, 1])


def test_cells_compete_until_each_answers_one_of_two_patterns():
    """Two cells, two patterns: the better responder learns, the other is pushed away; they end up sharing the patterns."""
    patterns = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    weights = 0.5 + 0.02 * torch.randn(4, 2, generator=generator(8))
    for which in torch.randint(2, (300,), generator=generator(9)).tolist():
        response = patterns[which] @ weights
        change = 0.05 * patterns[which][:, None] * response
        weights = compete(weights, change, winners(response, 1), 0.3, 0.01, 1.0)
    response = patterns @ weights
    assert response.argmax(1).unique().numel() == 2
    assert response.max(1).values.min() > 5 * response.min(1).values.max()
