"""The fold from events to what is shown: pure, the same in one go or in parts, and bounded."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.tui import fold as fold_file
from app.tui import series
from app.tui.fold import fold, log_line
from app.tui.series import MOST_RECENT, MOST_SPANS, Series, Span, smoothed
from app.tui.snapshot import Snapshot
from monitors.event_log import read_events
from monitors.events import (
    BadStep,
    Clustered,
    Decoded,
    Edited,
    MemorySampled,
    Plastic,
    Rewired,
    RolledBack,
    RunEnded,
    RunStarted,
    Sample,
    Saved,
    StageEnded,
    StageStarted,
    Trained,
    VolumeSaved,
    Warned,
)


def trained(step: int, loss: float | None = 1.0) -> Trained:
    return Trained(time=float(step), step=step, loss=loss, grad_norm=None, learning_rate=0.1, step_s=0.5)


def decoded(step: int, bleu: float = 10.0, best: bool = False) -> Decoded:
    sample = Sample(source="a", reference="a b", said="a c")
    scores = {"bleu": bleu, "chrf": 2 * bleu, "exact": 0.1, "valid_loss": 3.0, "count": 64, "signature": "s"}
    costs = {"seconds": 0.1, "peak_bytes": 0, "active_share": 1.0, "gradient_share": None}
    return Decoded(time=float(step), step=step, samples=(sample,), best=best, **scores, **costs)


def stage_started(stage: int, step: int) -> StageStarted:
    sizes = {"plan_bytes": 1, "micro_batch": 1, "accumulation": 1, "cells": 64}
    about = {"name": f"s{stage}", "shape": (4, 4, 4), "ticks": 4, "kernel": "k", "carried": False}
    return StageStarted(step=step, stage=stage, **sizes, **about)


def edited(step: int, command: str, key: str, new: object) -> Edited:
    return Edited(step=step, who="ada", command=command, key=key, old=None, new=new)


def clustered(step: int, stage: int = 0) -> Clustered:
    return Clustered(step=step, stage=stage, count=2, sizes=(5, 3), silhouette=0.2, stability=None, merged=0, seconds=0.1)


def plastic(step: int, stage: int = 0) -> Plastic:
    counts = {"updates": 1, "potentiated": 3, "depressed": 2, "unchanged": 1, "active_share": 0.5, "skipped_share": 0.0}
    return Plastic(step=step, stage=stage, theta=(0, 1, 2, 3, 4), mean_change=0.1, message_change=None, seconds=0.1, **counts)


def rewired(step: int, stage: int = 0) -> Rewired:
    return Rewired(step=step, stage=stage, pruned=20, regrown=5, sparsity=0.5, fan_in=(0, 1), seconds=0.1)


def remembered(step: int) -> MemorySampled:
    counts = {"rss_bytes": 1, "allocated_bytes": 2, "reserved_bytes": 3, "peak_bytes": 4}
    return MemorySampled(step=step, device="cuda:0", device_uuid="u", **counts)


def volume_saved(step: int) -> VolumeSaved:
    return VolumeSaved(step=step, file="volumes/x", fields=("activity",), shape=(1, 1, 1), bytes=5)


EVERYTHING = [
    RunStarted(run="r", resumed=False, message="here we go"),
    stage_started(0, 0),
    *(trained(step) for step in range(1, 11)),
    decoded(10, best=True),
    remembered(10),
    volume_saved(10),
    clustered(10),
    plastic(10),
    rewired(10),
    rewired(10),
    BadStep(step=11, reason="the loss is not finite", in_a_row=1),
    RolledBack(step=11, to_step=10, reason="5 steps in a row were bad"),
    Warned(step=11, message="low disk"),
    edited(11, "set", "decode.every", 5),
    edited(11, "stage hold", "held", True),
    Saved(step=11, path="p", seconds=0.1, bytes=5, best=False),
    StageEnded(step=11, name="s0", reason="steps"),
    stage_started(1, 11),
    trained(12),
    RunEnded(step=12, stage=1, state="stopped", reason="asked to", exit_code=0),
]


@pytest.mark.parametrize("cut", range(0, len(EVERYTHING) + 1, 3))
def test_folding_in_two_parts_gives_what_folding_at_once_gives(cut):
    assert fold(fold(Snapshot(), EVERYTHING[:cut]), EVERYTHING[cut:]) == fold(Snapshot(), EVERYTHING)


def test_the_curve_of_the_score_is_that_of_the_measure():
    judged = decoded(3).model_copy(update={"measure": "exact", "exact": 0.625})
    seen = fold(Snapshot(), [judged])
    assert [point.mean for point in seen.curves["exact answers"].recent] == [62.5]
    assert not seen.curves["BLEU"] and seen.looks[0].measure == "exact"
    line = log_line(judged)
    assert line is not None and line.text == "exact 62.5%, chrF 20.0"
    by_bleu = fold(Snapshot(), [decoded(3)])
    assert [point.mean for point in by_bleu.curves["BLEU"].recent] == [10.0] and not by_bleu.curves["exact answers"]


def test_the_fold_leaves_the_snapshot_it_was_given_as_it_was():
    before = fold(Snapshot(), EVERYTHING[:5])
    fold(before, EVERYTHING[5:])
    assert before == fold(Snapshot(), EVERYTHING[:5])


def test_all_that_happened_is_in_the_snapshot():
    seen = fold(Snapshot(), EVERYTHING)
    assert (seen.events, seen.step, seen.stage) == (len(EVERYTHING), 12, 1)
    assert [point.mean for point in seen.curves["BLEU"].recent] == [10.0]
    assert [point.first for point in seen.curves["loss"].recent] == [*range(1, 11), 12]
    assert [(mark.index, mark.ended_step, mark.reason) for mark in seen.stages] == [(0, 11, "steps"), (1, None, None)]
    assert seen.edits == (("decode.every", 5),)
    assert seen.saved is not None and seen.saved.step == 11
    assert seen.ended is not None and seen.ended.state == "stopped"
    assert seen.pace_s == 0.5


def test_a_held_stage_is_told_until_it_is_released_or_the_next_one_starts():
    hold, release = edited(1, "stage hold", "held", True), edited(2, "stage release", "held", False)
    assert fold(Snapshot(), [hold]).held
    assert not fold(Snapshot(), [hold, release]).held
    assert not fold(Snapshot(), [hold, stage_started(1, 3)]).held


def test_a_run_that_was_taken_up_again_has_not_ended():
    ended = RunEnded(state="stopped", reason="x", exit_code=0)
    again = RunStarted(run="r", resumed=True, message="again")
    assert fold(Snapshot(), [ended]).ended
    assert fold(Snapshot(), [ended, again]).ended is None


def test_a_step_without_a_finite_loss_leaves_no_point():
    assert not fold(Snapshot(), [trained(1, None)]).curves["loss"]


def test_every_event_but_those_with_a_panel_has_a_line_in_the_log_and_hostile_text_is_made_harmless():
    told_elsewhere = Trained, MemorySampled, Plastic, VolumeSaved
    assert [log_line(event) is None for event in EVERYTHING] == [isinstance(event, told_elsewhere) for event in EVERYTHING]
    line = log_line(Warned(step=1, message="\x1b[2J\nbad"))
    assert line is not None and line.text == r"\x1b[2J\nbad"


def test_what_is_known_of_cells_and_connections_is_the_newest_of_the_stage_and_counts_go_on():
    first = fold(Snapshot(), [stage_started(0, 0), clustered(5), clustered(8), plastic(8), rewired(8), rewired(9)])
    assert (first.clustering.latest, first.clustering.times, first.plastic) == (clustered(8), 2, plastic(8))
    assert (first.rewiring.latest, first.rewiring.pruned, first.rewiring.regrown) == (rewired(9), 40, 10)
    second = fold(first, [stage_started(1, 10)])
    assert second.clustering.latest is second.plastic is second.rewiring.latest is None
    assert (second.clustering.times, second.rewiring.pruned) == (2, 40)
    again = fold(first, [RunStarted(step=9, run="r", resumed=True, message=""), stage_started(0, 9)])
    assert (again.clustering, again.plastic, again.rewiring) == (first.clustering, first.plastic, first.rewiring)


def test_memory_and_volume_are_the_newest_of_the_run():
    seen = fold(Snapshot(), [remembered(1), volume_saved(5), remembered(5), stage_started(1, 6)])
    assert (seen.memory, seen.volume) == (remembered(5), volume_saved(5))


def test_looks_and_log_stay_bounded(monkeypatch):
    monkeypatch.setattr(fold_file, "MOST_LOG_LINES", 7)
    seen = fold(Snapshot(), [decoded(step) for step in range(1, 301)])
    assert len(seen.looks) == fold_file.MOST_LOOKS and seen.looks[-1].step == 300
    assert [line.step for line in seen.log] == list(range(294, 301))


def test_the_recorded_run_folds_to_its_end(recorded):
    seen = fold(Snapshot(), read_events(recorded.events_jsonl).events)
    assert seen.step == 20 and [mark.name for mark in seen.stages] == ["sprout", "grow"]
    assert {5, 10, 15, 20} <= {look.step for look in seen.looks}
    assert seen.ended is not None and seen.ended.state == "finished"


values = st.lists(st.floats(-100, 100), min_size=1, max_size=300)


@settings(max_examples=60, deadline=None)
@given(values, st.integers(0, 300))
def test_a_series_joined_many_times_keeps_extrema_count_mean_and_ends(numbers, cut):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(series, "MOST_SPANS", 8)
        patch.setattr(series, "MOST_RECENT", 5)
        points = list(enumerate(numbers, start=1))
        made = Series().extended(points[:cut]).extended(points[cut:])
        assert made == Series().extended(points)
    assert len(made.whole) <= 8
    assert [(span.first, span.mean) for span in made.recent] == points[-5:]
    at = 0
    for span in made.whole:
        part = numbers[at : at + span.points]
        assert (span.first, span.last) == (at + 1, at + span.points)
        assert (span.low, span.high) == (min(part), max(part))
        assert span.mean == pytest.approx(sum(part) / len(part), abs=1e-9)
        at += span.points
    assert at == len(numbers)


def test_a_window_holds_single_points_while_they_are_known():
    made = Series().extended((step, float(step)) for step in range(1, 5001))
    assert [span.first for span in made.window(50)] == list(range(4951, 5001))
    whole = made.window(None)
    assert (whole[0].first, whole[-1].last) == (1, 5000) and len(whole) <= series.MOST_SPANS


@pytest.mark.parametrize("cut", [1, 100, 2048, 2049, 5000])
def test_a_thinned_curve_holds_little_and_is_whole_again_after_as_many_points_as_are_kept(cut):
    points = [(step, float(step % 7)) for step in range(1, cut + 2 * MOST_RECENT)]
    thinned = Series().extended(points[:cut]).thinned()
    assert len(thinned.whole) <= MOST_SPANS and thinned.last == points[cut - 1][1]
    assert thinned.stride == 1 or len(thinned.recent) == 1
    assert thinned.extended(points[cut:]) == Series().extended(points)


def test_smoothing_is_the_exponential_mean_and_zero_changes_nothing():
    spans = [Span.of(1, 0.0), Span.of(2, 10.0), Span.of(3, 10.0)]
    assert smoothed(spans, 0.0) == spans
    assert [span.mean for span in smoothed(spans, 0.5)] == [0.0, 5.0, 7.5]
