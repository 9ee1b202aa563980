"""Tests of progress as JSON: what was saved can be read again, and values that no run can have are refused."""

from __future__ import annotations

import math

import pytest

from lattice.training.progress import Progress
from monitors.quality import Quality
from presets.measure import Measure


def test_progress_survives_json_with_its_infinities():
    fresh = Progress()
    assert Progress.from_json(fresh.as_json()) == fresh
    assert math.inf not in fresh.as_json().values()


def test_the_measure_of_the_run_decides_which_look_is_the_best():
    looks = [Quality(10.0, 0.0, 0.5, 64, ""), Quality(30.0, 0.0, 0.25, 64, ""), Quality(20.0, 0.0, 0.75, 64, "")]
    by: dict[Measure, Progress] = {"bleu": Progress(), "exact": Progress()}
    best = {measure: [progress.note_look(look, 1.0, measure) for look in looks] for measure, progress in by.items()}
    assert best == {"bleu": [True, True, False], "exact": [True, False, True]}
    assert by["bleu"] == Progress.from_json(by["bleu"].as_json())
    assert (by["bleu"].best_ties, by["exact"].best_ties) == ((0.0, 0.25, -1.0), (0.0, 0.75, -1.0))
    assert (by["exact"].bleu, by["exact"].exact, by["exact"].best_bleu, by["exact"].best_exact) == (20.0, 0.75, 30.0, 0.75)


def test_progress_of_version_0_1_0_has_no_best_share_of_exact_answers():
    fields = Progress().as_json() | {"bleu": 40.0, "best_bleu": 50.0}
    older = Progress.from_json({name: value for name, value in fields.items() if name not in ("exact", "best_exact")})
    assert (older.exact, older.best_bleu) == (None, 50.0)
    assert not older.note_look(Quality(49.0, 0.0, 0.1, 64, ""), 1.0, "bleu")


@pytest.mark.parametrize("measure", ["bleu", "exact"])
def test_between_looks_of_one_score_chrf_then_exact_answers_then_the_held_out_loss_decide(measure):
    looks = [(5.0, 0.0, math.nan), (5.0, 0.0, 9.0), (5.0, 0.0, 9.0), (5.0, 0.0, 8.0), (4.0, 0.0, 7.0), (6.0, 0.0, 9.5)]
    progress = Progress()
    best = [progress.note_look(Quality(0.0, chrf, exact, 64, ""), loss, measure) for chrf, exact, loss in looks]
    assert best == [True, True, False, True, False, True]


def test_with_other_text_the_first_look_is_the_best_again():
    progress = Progress()
    progress.settle_tokenization("13a")
    progress.note_look(Quality(90.0, 95.0, 0.9, 64, ""), 0.1, "bleu")
    progress.score_anew()
    assert progress.note_look(Quality(1.0, 2.0, 0.0, 64, ""), 5.0, "bleu") and progress.looks_without_gain == 0
    assert progress.best_valid_loss == 5.0


def test_what_was_scored_without_a_word_of_tokenization_goes_on_with_13a():
    older, fresh = Progress.from_json({"bleu": 0.0, "best_bleu": 0.0}), Progress()
    assert (older.settle_tokenization("zh"), fresh.settle_tokenization("zh")) == ("13a", "zh")
    assert fresh.settle_tokenization("13a") == "zh"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [({"step": "x"}, "step: "), ({"stage": -1}, "stage: "), ({"elapsed_s": math.nan}, "elapsed_s: "), ([], "is no object")],
)
def test_progress_that_no_run_can_have_is_refused_by_field(fields, reason):
    with pytest.raises(ValueError, match=f"^progress: {reason}"):
        Progress.from_json(fields)
