"""Tests of numbers as text: a time that no calendar has is shown as no time."""

from __future__ import annotations

import time

import pytest

from app import formats


def test_a_moment_is_local_time():
    now = time.mktime((2026, 11, 22, 5, 15, 30, 0, 0, -1))
    assert formats.moment(now) == "2026-11-22 05:15" and formats.moment(now, "%H:%M:%S") == "05:15:30"


@pytest.mark.parametrize("seconds", [1e300, -1e300, 1e17, float("nan"), float("inf")])
def test_a_time_that_no_calendar_has_is_a_dash(seconds):
    assert formats.moment(seconds) == "-"
