"""What runs say: steps and seconds to a score, the trained lattice where others ended, and paired effects."""

from __future__ import annotations

import dataclasses
import json

import pytest

from app.experiments.arms.curves import curve
from app.experiments.arms.findings import Arms, at_its_end, reached
from app.experiments.arms.scored_run import ArmOutcome, points
from app.experiments.arms.told import show
from monitors.quality import Quality


def outcome(arm: str, seed: int, cpu_s: float, looks: tuple[float, ...], exact: float = 0.5) -> ArmOutcome:
    """A run of 10 steps per look, each of which took its share of the CPU seconds."""
    count = len(looks)
    steps, seconds = tuple(10 * i for i in range(1, count + 1)), tuple(cpu_s * i / count for i in range(1, count + 1))
    scores = {"a.txt": {"none": Quality(12.0, 34.0, exact, 7, "sacrebleu"), "shuffled": Quality(1.0, 2.0, 0.0, 7, "sacrebleu")}}
    return ArmOutcome(arm, seed, 10 * count, cpu_s, 99, steps, seconds, looks, scores)


def arms(target: float | None = None, **results: list[ArmOutcome]) -> Arms:
    return Arms(results, {"a.txt": {}}, "exact", len(next(iter(results.values()))), 5, target)


def test_a_run_in_a_results_file_comes_back_as_it_was():
    run = outcome("trained", 3, 8.0, (1.0, 2.0))
    assert ArmOutcome.of_row(json.loads(json.dumps({"key": "k", **dataclasses.asdict(run)}))) == run


def test_a_score_counts_from_where_the_line_between_two_looks_reaches_it():
    run = outcome("trained", 0, 40.0, (0.0, 20.0, 60.0, 50.0))
    assert (run.steps_to(40).value, run.cpu_to(40).value, run.steps_to(40).censored) == (25, 25, False)
    assert (run.steps_to(0).value, run.steps_to(60).value) == (10, 30)
    assert (run.steps_to(61).value, run.cpu_to(61).value, run.steps_to(61).censored) == (40, 40, True)


def test_runs_that_missed_the_target_count_with_all_of_theirs():
    runs = [outcome("trained", 0, 20.0, (0.0, 50.0)), outcome("trained", 1, 40.0, (0.0, 10.0))]
    found = reached(runs, 25)
    assert (found.steps, found.cpu_s, found.missed, found.runs) == ((15 + 20) / 2, (15 + 40) / 2, 1, 2)


def test_the_trained_lattice_is_told_at_the_seconds_at_which_the_other_arm_of_the_same_seed_ended():
    trained = [outcome("trained", seed, 40.0, (0.0, 20.0, 40.0, 60.0)) for seed in (0, 1)]
    identity = [outcome("identity", 0, 15.0, (5.0, 7.0)), outcome("identity", 1, 25.0, (5.0, 9.0))]
    then = at_its_end({"trained": trained, "identity": identity}, "identity")
    assert (then.cpu_s, then.trained, then.other) == (20.0, 20.0, 8.0)
    assert (then.effect.mean, then.effect.low, then.effect.high) == (12.0, 3.0, 21.0)


@pytest.mark.parametrize(
    ("other", "looks"), [(5.0, (1.0,)), (50.0, (1.0,)), (20.0, ())], ids=["before the first look", "after its end", "no looks"]
)
def test_it_is_not_told_where_it_is_not_known(other, looks):
    trained = outcome("trained", 0, 40.0, (0.0, 20.0, 40.0, 60.0))
    assert at_its_end({"trained": [trained], "identity": [outcome("identity", 0, other, looks)]}, "identity") is None


def test_effects_are_paired_and_in_the_unit_of_the_measure():
    assert [points(Quality(12.0, 34.0, 0.5, 7, ""), measure) for measure in ("exact", "bleu")] == [50.0, 12.0]
    found = arms(
        trained=[outcome("trained", 0, 4.0, (), 0.9), outcome("trained", 1, 4.0, (), 0.7)],
        identity=[outcome("identity", 0, 2.0, (), 0.5), outcome("identity", 1, 2.0, (), 0.6)],
    )
    effect = found.effects("a.txt")["identity"]
    assert effect.mean == pytest.approx(25.0) and (effect.low, effect.high) == (pytest.approx(10.0), pytest.approx(40.0))
    assert found.main == "identity" and arms(gru=[outcome("gru", 0, 1.0, ())]).main is None


def test_what_was_found_is_told_in_words(capsys):
    found = arms(
        40.0,
        trained=[outcome("trained", 0, 40.0, (0.0, 20.0, 40.0, 60.0), 0.6)],
        identity=[outcome("identity", 0, 20.0, (5.0, 7.0), 0.1)],
    )
    show(found, as_json=False)
    told = " ".join(capsys.readouterr().out.split())
    assert "% of exact answers, scored on 7 sentences of a.txt: +50.0 (one seed: no interval) against identity" in told
    assert "to 40 % of exact answers on the first 5 held-out sentences: trained: 30 steps, 30.0 CPU s" in told
    assert "identity: not reached in 20 steps" in told
    assert "after 20.0 CPU s, when identity ended with 7.0: 20.0, +13.0 (one seed: no interval)" in told


def test_a_curve_is_drawn_at_the_steps_that_all_seeds_have():
    runs = [outcome("trained", 0, 20.0, (1.0, 3.0)), outcome("trained", 1, 60.0, (3.0, 5.0, 9.0))]
    assert curve(runs) == ([10.0, 20.0], [15.0, 30.0], [2.0, 4.0], [1.0, 3.0], [3.0, 5.0])
