"""The learned plan: it finds what planned and measured differ by, says nothing on too little, and never strays."""

from __future__ import annotations

import random

import pytest

from monitors.learned_plan import FEWEST, LEEWAY, LearnedPlan
from monitors.measured import StageRecord
from presets.components import COMPONENTS
from presets.layers import load
from presets.plan import on_device, plan


def features(*settings: str) -> dict[str, float]:
    pinned = ("run.threads=1", "run.kernel=native", "training.checkpoint_ticks=0", *settings)
    return dict(plan(on_device(load("small", None, pinned).config, "cpu"))[0].features)


def truth(found: dict[str, float]) -> float:
    """A machine that takes 0.8 of what is planned for states, 1.3 of the temporaries, and 50 MB more than planned besides."""
    whole = sum(found[name] for name in COMPONENTS)
    return whole - 0.2 * found["states"] + 0.3 * found["temporaries"] + 50e6


def seconds(found: dict[str, float]) -> float:
    return 2e-8 * found["cells"] * found["ticks"] * found["batch"] * (1.25 if found["segment"] > 1 else 1)


def record(found: dict[str, float]) -> StageRecord:
    return StageRecord("here", found, round(truth(found)), seconds(found), 10, 1e9)


VARIED = [
    (f"training.batch={batch}", f"stages.0.ticks={ticks}", f"stages.0.sparsity={sparsity}", f"optimizer.name={optimizer}")
    for batch, ticks, sparsity, optimizer in (
        (1, 8, 0, "adamw"), (2, 8, 0.4, "adamw"), (4, 12, 0, "adam8bit"), (8, 8, 0, "adamw"), (16, 8, 0.6, "lion"),
        (2, 16, 0, "adamw"), (32, 8, 0, "adam8bit"), (8, 12, 0.5, "adamw"), (4, 8, 0, "galore"), (16, 10, 0, "adamw"),
    )
]  # fmt: skip


def test_ten_measurements_teach_more_than_the_plan_knows():
    known = LearnedPlan([record(features(*settings)) for settings in VARIED])
    errors, before = [], []
    for batch, ticks, sparsity in ((3, 8, 0), (6, 10, 0.3), (12, 8, 0.5), (24, 8, 0)):
        found = features(f"training.batch={batch}", f"stages.0.ticks={ticks}", f"stages.0.sparsity={sparsity}")
        lesson = known.predict(found)
        errors.append(abs(lesson.peak_bytes / truth(found) - 1))
        before.append(abs(sum(found[name] for name in COMPONENTS) / truth(found) - 1))
        assert lesson.step_s == pytest.approx(seconds(found), rel=0.1) and lesson.runs == 10
    assert max(errors) <= 0.05 < max(before)
    assert sum(errors) < 0.5 * sum(before)


def test_it_says_nothing_on_fewer_than_the_fewest():
    records = [record(features(*settings)) for settings in VARIED]
    assert LearnedPlan([]).predict(features()) is None
    assert LearnedPlan(records[: FEWEST - 1]).predict(features()) is None
    assert LearnedPlan(records[:FEWEST]).predict(features()).runs == FEWEST


def test_the_same_measurement_again_and_again_is_learned_without_a_spread_to_divide_by():
    same = record(features())
    assert LearnedPlan([same] * 4).predict(features()).peak_bytes == pytest.approx(same.peak_bytes, rel=1e-3)


def test_far_outside_its_data_it_says_what_the_plan_says():
    known = LearnedPlan([record(features(*settings)) for settings in VARIED])
    large = dict(plan(on_device(load("large", None, ["run.precision=fp32"]).config, "cpu"))[0].features)
    assert known.predict(large).peak_bytes == pytest.approx(sum(large[name] for name in COMPONENTS), rel=0.01)


def test_it_never_strays_from_the_ratios_it_has_seen():
    records = [record(features(*settings)) for settings in VARIED]
    ratios = [each.peak_bytes / sum(each.features[name] for name in COMPONENTS) for each in records]
    odd = features("training.batch=8", "stages.0.ticks=40", "lattice.channels=4", "optimizer.name=adafactor")
    ratio = LearnedPlan(records).predict(odd).peak_bytes / sum(odd[name] for name in COMPONENTS)
    assert min(1, *ratios) * (1 - LEEWAY) <= ratio <= max(1, *ratios) * (1 + 1.1 * LEEWAY)


def test_measurements_of_other_versions_that_lack_a_feature_are_left_out():
    records = [record(features(*settings)) for settings in VARIED]
    other = [StageRecord("here", {"states": 1.0, "cells": 8, "ticks": 1, "batch": 1}, 1, 1.0, 1, 1.0)] * 20
    assert LearnedPlan([*other, *records]).predict(features()) == LearnedPlan(records).predict(features())
    assert LearnedPlan(other).predict(features()) is None


def test_it_depends_on_the_records_alone():
    records = [record(features(*settings)) for settings in VARIED]
    random.seed(1)
    first = LearnedPlan(records).predict(features())
    random.seed(2)
    assert LearnedPlan(records).predict(features()) == first
