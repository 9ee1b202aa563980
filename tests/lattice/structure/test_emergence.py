"""The emergence score: each part against a closed form; zero for fresh, for shuffled and wherever a part is missing."""

from __future__ import annotations

import math

import pytest
import torch

from lattice.model.growth import resample
from lattice.model.lattice3d import initial_weights
from lattice.random_streams import generator
from lattice.structure.emergence import emergence, participation, stability
from lattice.structure.spatial_order import Reading, fields, read_all, shuffle
from presets.schema import Connections
from presets.topology import Topology

CUBE = Topology((16, 16, 16))


def reading(order: float) -> Reading:
    return Reading("nothing", 4.0, 0.5, 0.01, 0.5, None, 0.1, order, (), (), ())


def labels(seed: int, count: int = 8) -> torch.Tensor:
    return torch.randint(count, (4096,), generator=generator(seed, "labels"))


def test_the_score_is_the_geometric_mean_of_its_parts():
    found = emergence(0.5, [reading(0.2), reading(0.1)], torch.ones(7))
    assert (found.stability, found.morphology, found.participation) == (0.5, 0.2, pytest.approx(1.0))
    assert found.score == pytest.approx((0.5 * 0.2) ** (1 / 3))


@pytest.mark.parametrize(
    ("steady", "order", "activity"), [(0.0, 0.9, torch.ones(5)), (1.0, 0.0, torch.ones(5)), (1.0, 0.9, torch.zeros(5))]
)
def test_no_part_makes_up_for_one_that_is_missing(steady, order, activity):
    assert emergence(steady, [reading(order)], activity).score == 0


def test_everything_at_its_best_scores_one():
    assert emergence(1.0, [reading(1.0)], torch.ones(5)).score == pytest.approx(1)


def test_participation_is_the_share_of_cells_when_some_are_equally_active_and_the_rest_are_not():
    assert participation(torch.tensor([[2.0, 2.0, 0.0], [0.0, 0.0, 2.0]])) == pytest.approx(0.5)
    assert participation(torch.tensor([0.0, 3.0])) == pytest.approx(0.5)
    assert participation(torch.tensor([1.0, 3.0])) == pytest.approx(math.exp(0.25 * math.log(4) + 0.75 * math.log(4 / 3)) / 2)
    assert participation(torch.zeros(4)) == 0


def test_stability_is_one_for_renamed_clusters_and_near_zero_for_unrelated_ones():
    first = labels(0)
    assert stability(first, (first + 3) % 8, generator(0, "chance")) == pytest.approx(1)
    assert stability(first, labels(1), generator(0, "chance")) < 0.01


def test_many_small_clusters_are_not_stable_by_chance():
    first, other = labels(0, 1000), labels(1, 1000)
    from sklearn.metrics import normalized_mutual_info_score

    assert normalized_mutual_info_score(first, other) > 0.5
    assert stability(first, other, generator(0, "chance")) < 0.01


def test_a_single_cluster_is_not_stable():
    assert stability(torch.zeros(9).long(), torch.zeros(9).long(), generator(0, "chance")) == 0


def score(now: torch.Tensor, before: torch.Tensor | None) -> float:
    start = None if before is None else fields(before, CUBE)
    readings = read_all(fields(now, CUBE), "walls", generator(0, "read"), start, surrogates=99)
    return emergence(0.8, readings.values(), torch.ones(16**3)).score


def planted(order: str, weights: torch.Tensor) -> torch.Tensor:
    """Weights with a wave of four cells along y, or with smooth domains, which no wavelength of their own distinguishes."""
    if order == "wave":
        return weights * (1 + 0.5 * torch.cos(2 * math.pi * torch.arange(16.0).view(1, 16, 1) / 4))
    domains = resample(torch.randn(1, 4, 4, 4, generator=generator(0, "domains")), (16, 16, 16))
    return weights * (1 + 0.5 * domains.clamp(-1, 1))


@pytest.mark.parametrize("order", ["wave", "domains"])
def test_order_that_came_to_a_lattice_scores_and_is_gone_when_its_connections_are_shuffled_over_space(order):
    fresh = initial_weights(CUBE, Connections(), generator(0, "lattice", 0))
    now = planted(order, fresh)
    assert score(now, fresh) > 0.5
    assert score(shuffle(now, CUBE, generator(0, "shuffle")), fresh) == 0


def test_fresh_lattices_score_nothing():
    fresh = [initial_weights(CUBE, Connections(), generator(seed, "lattice", 0)) for seed in range(10)]
    assert sum(score(weights, None) > 0 for weights in fresh) <= 1  # at LEVEL, one in twenty is to be expected


@pytest.mark.parametrize("order", ["wave", "domains"])
def test_order_that_was_there_at_the_start_scores_nothing(order):
    start = planted(order, initial_weights(CUBE, Connections(), generator(0, "lattice", 0)))
    changed = start + 0.1 * torch.randn(start.shape, generator=generator(0, "changes"))
    assert score(start, start) == score(changed, start) == 0


@pytest.mark.parametrize("order", ["wave", "domains"])
def test_order_that_was_lost_scores_nothing(order):
    fresh = initial_weights(CUBE, Connections(), generator(0, "lattice", 0))
    assert score(fresh, planted(order, fresh)) == 0


def test_what_is_no_activity_or_no_stability_is_refused():
    for wrong in (torch.tensor([1.0, -1.0]), torch.tensor([math.nan]), torch.tensor([math.inf, 1.0]), torch.zeros(0)):
        with pytest.raises(ValueError, match="activities"):
            participation(wrong)
    with pytest.raises(ValueError, match="stability"):
        emergence(1.2, [], torch.ones(3))
    with pytest.raises(ValueError, match="compared"):
        stability(torch.zeros(3), torch.zeros(4), generator(0, "chance"))
