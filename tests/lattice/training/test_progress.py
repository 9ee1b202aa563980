"""Tests of progress as JSON: what was saved can be read again, and values that no run can have are refused."""

from __future__ import annotations

import math

import pytest

from lattice.training.progress import Progress


def test_progress_survives_json_with_its_infinities():
    fresh = Progress()
    assert Progress.from_json(fresh.as_json()) == fresh
    assert math.inf not in fresh.as_json().values()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [({"step": "x"}, "step: "), ({"stage": -1}, "stage: "), ({"elapsed_s": math.nan}, "elapsed_s: "), ([], "is no object")],
)
def test_progress_that_no_run_can_have_is_refused_by_field(fields, reason):
    with pytest.raises(ValueError, match=f"^progress: {reason}"):
        Progress.from_json(fields)
