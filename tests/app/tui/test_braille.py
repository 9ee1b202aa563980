"""The chart: down-sampling against a brute-force oracle, and lines without holes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.tui.braille import ascii_plot, braille, chart, columns, plot
from app.tui.series import Span
from app.tui.widgets.curves import round_axis

points = st.lists(st.floats(-50, 50), min_size=1, max_size=80)


def spans_of(numbers: list[float], stride: int) -> list[Span]:
    """Points at steps 1, 2, ... joined by `stride`."""
    single = [Span.of(step, value) for step, value in enumerate(numbers, start=1)]
    joined = []
    for start in range(0, len(single), stride):
        span = single[start]
        for later in single[start + 1 : start + stride]:
            span = span.join(later)
        joined.append(span)
    return joined


def oracle(numbers: list[float], width: int, first: int, last: int) -> list[tuple[float, float] | None]:
    """Every point looked at for every column."""
    found: list[tuple[float, float] | None] = []
    for column in range(width):
        inside = [
            value
            for step, value in enumerate(numbers, start=1)
            if first <= step <= last and (step - first) * width // (last - first + 1) == column
        ]
        found.append((min(inside), max(inside)) if inside else None)
    return found


@settings(max_examples=150, deadline=None)
@given(points, st.integers(1, 40), st.integers(1, 80), st.integers(0, 80))
def test_columns_of_single_points_equal_the_oracle(numbers, width, first, more):
    last = first + more
    assert columns(spans_of(numbers, 1), width, first, last) == oracle(numbers, width, first, last)


@settings(max_examples=150, deadline=None)
@given(points, st.integers(1, 40), st.integers(1, 8))
def test_columns_of_joined_points_never_lose_a_peak(numbers, width, stride):
    shown = columns(spans_of(numbers, stride), width, 1, len(numbers))
    for known, exact in zip(shown, oracle(numbers, width, 1, len(numbers)), strict=True):
        if exact is not None:
            assert known is not None and known[0] <= exact[0] and known[1] >= exact[1]
    seen = [known for known in shown if known]
    assert (min(low for low, _ in seen), max(high for _, high in seen)) == (min(numbers), max(numbers))


@settings(max_examples=100, deadline=None)
@given(points, st.integers(2, 60), st.integers(1, 40))
def test_the_line_has_no_hole_between_its_first_and_last_column_and_stays_inside(numbers, width, height):
    found = columns(spans_of(numbers, 1), width, 1, len(numbers))
    filled = plot(found, height, min(numbers), max(numbers), log=False)
    known = [x for x, rows in enumerate(filled) if rows]
    assert known == list(range(known[0], known[-1] + 1))
    for x in known:
        top, bottom = filled[x]
        assert 0 <= top <= bottom < height
        if x + 1 in known:
            other_top, other_bottom = filled[x + 1]
            assert other_top <= bottom + 1 and top <= other_bottom + 1


def test_high_values_are_on_top():
    lines, limits = chart([Span.of(1, 0.0), Span.of(2, 1.0)], 2, 2, 1, 2, plain=True)
    assert lines == [" *", "* "] and limits == (0.0, 1.0)


def test_braille_dots_are_where_unicode_has_them():
    assert braille([(0, 0), (3, 3)], 1) == ["⢁"]
    assert braille([None, (0, 3), None], 1) == ["⢸ "]
    assert ascii_plot([(0, 1), None], 2) == ["| ", "| "]


def test_a_log_scale_leaves_out_what_is_not_positive_and_says_when_nothing_is_left():
    spans = [Span.of(1, -1.0), Span.of(2, 1.0), Span.of(3, 100.0)]
    lines, limits = chart(spans, 10, 3, 1, 3, log=True)
    assert limits == (1.0, 100.0) and any(line.strip() for line in lines)
    assert chart(spans[:1], 10, 3, 1, 3, log=True) == ([" " * 10] * 3, None)


def test_a_flat_curve_and_a_single_point_are_drawn():
    for spans in ([Span.of(1, 5.0)], [Span.of(1, 5.0), Span.of(9, 5.0)]):
        lines, limits = chart(spans, 10, 3, 1, 9)
        assert limits == (5.0, 5.0) and any(line.strip() for line in lines)


@pytest.mark.parametrize(
    "first, last, ends",
    [
        (1, 1, (1, 1)), (1, 9, (1, 9)), (1, 60, (0, 60)), (1, 100, (0, 100)), (1, 1000, (0, 1000)), (1, 1001, (0, 1100)),
        (1, 20_000, (0, 20_000)), (501, 1000, (500, 1000)), (1, 123_456, (0, 130_000)),
    ],
)  # fmt: skip
def test_the_axis_of_steps_ends_at_round_numbers_close_by(first, last, ends):
    assert round_axis(first, last) == ends
    for known in range(first, 300):
        begin, end = round_axis(first, known)
        assert begin <= first and known <= end and first - begin + end - known <= max(0, 2 * (known - first) // 8)
