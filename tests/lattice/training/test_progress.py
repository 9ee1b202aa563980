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
    assert by["exact"] == by["bleu"] == Progress.from_json(by["bleu"].as_json())
    assert (by["exact"].bleu, by["exact"].exact, by["exact"].best_bleu, by["exact"].best_exact) == (20.0, 0.75, 30.0, 0.75)


def test_progress_of_version_0_1_0_has_no_best_share_of_exact_answers():
    fields = Progress().as_json() | {"bleu": 40.0, "best_bleu": 50.0}
    older = Progress.from_json({name: value for name, value in fields.items() if name not in ("exact", "best_exact")})
    assert (older.exact, older.best_bleu) == (None, 50.0)
    assert not older.note_look(Quality(49.0, 0.0, 0.1, 64, ""), 1.0, "bleu")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [({"step": "x"}, "step: "), ({"stage": -1}, "stage: "), ({"elapsed_s": math.nan}, "elapsed_s: "), ([], "is no object")],
)
def test_progress_that_no_run_can_have_is_refused_by_field(fields, reason):
    with pytest.raises(ValueError, match=f"^progress: {reason}"):
        Progress.from_json(fields)
