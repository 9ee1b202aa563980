"""Paired statistics on made-up numbers whose answer is known."""

from __future__ import annotations

import math
import random

import pytest

from app.experiments import statistics
from app.experiments.statistics import UNKNOWN, Need, crossing, difference, interval, rank, saved, value_at


def needs(*values: float) -> list[Need]:
    return [Need(value) for value in values]


def test_the_bootstrap_interval_covers_the_true_mean_about_as_often_as_it_says(monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 400)
    draw, covered = random.Random(1), 0
    for _ in range(200):
        low, high = interval([draw.gauss(3.0, 2.0) for _ in range(20)])
        covered += low <= 3.0 <= high
    # 95 % of 200 with a standard deviation of 3; the percentile bootstrap of 20 values is known to fall a little short.
    assert 176 <= covered <= 199


def test_a_single_value_has_no_interval():
    assert interval([4.0]) == (None, None)


def test_savings_are_paired_so_that_differences_between_seeds_cancel():
    effect = saved(needs(80, 800, 8), needs(100, 1000, 10))
    assert effect.mean == pytest.approx(0.2) and effect.bound == "exact"
    assert effect.low == pytest.approx(0.2) and effect.high == pytest.approx(0.2)


def test_a_slower_candidate_saves_a_negative_share():
    effect = saved(needs(150, 120), needs(100, 100))
    assert effect.mean == pytest.approx(-0.35)
    assert (effect.low, effect.high) == (pytest.approx(-0.5), pytest.approx(-0.2))


def test_a_reference_that_never_got_there_makes_the_saving_a_least_one():
    effect = saved(needs(80, 80), [Need(100), Need(200, censored=True)])
    assert (effect.mean, effect.bound) == (pytest.approx(0.4), "at least")


def test_a_candidate_that_never_got_there_makes_the_saving_a_most_one():
    effect = saved([Need(80), Need(200, censored=True)], needs(100, 100))
    assert (effect.mean, effect.bound) == (pytest.approx(-0.4), "at most")


def test_nothing_is_said_where_both_sides_never_got_there():
    missed = Need(100, censored=True)
    assert saved([missed], [missed]) == UNKNOWN
    assert saved([missed, Need(50)], [Need(100), missed]) == UNKNOWN
    assert saved([], []) == UNKNOWN


def test_a_missing_score_makes_a_difference_unknown_instead_of_leaving_its_seed_out():
    assert difference([3.0, 5.0], [1.0, 1.0]).mean == pytest.approx(3.0)
    assert difference([3.0, None], [1.0, 1.0]) == UNKNOWN


def test_arms_that_missed_the_target_rank_behind_those_that_did_not():
    arms = {"slow": needs(90, 95), "fast": needs(50, 60), "missed": [Need(10), Need(100, censored=True)]}
    assert sorted(arms, key=lambda name: rank(arms[name])) == ["fast", "slow", "missed"]


def test_the_crossing_is_linear_between_the_looks_around_it():
    assert crossing([10, 20, 30], [3.0, 2.0, 0.0], 1.5) == pytest.approx(22.5)
    assert crossing([10, 20, 30], [3.0, 1.0, 2.0], 1.0) == pytest.approx(20.0)


def test_the_first_crossing_counts_and_a_first_look_below_the_target_counts_as_it_is():
    assert crossing([10, 20, 30, 40], [3.0, 1.0, 2.0, 0.0], 1.5) == pytest.approx(17.5)
    assert crossing([10, 20], [0.5, 0.4], 1.0) == 10


def test_a_loss_that_was_not_finite_is_no_crossing_and_no_line_is_drawn_over_it():
    assert crossing([10, 20, 30], [3.0, None, None], 1.0) is None
    assert crossing([10, 20, 30], [3.0, None, 0.5], 1.0) == 30
    assert crossing([], [], 1.0) is None


def test_the_loss_at_a_step_is_linear_between_looks_and_level_beyond():
    steps, losses = [10, 20, 30], [4.0, 2.0, 1.0]
    assert [value_at(steps, losses, at) for at in (5, 10, 15, 25, 30, 99)] == [4.0, 4.0, 3.0, 1.5, 1.0, 1.0]
    assert value_at([10, 20], [None, 1.0], 15) == math.inf
