"""Tests of measuring: each stage gets a record with what was planned for it, if its own peak can be known."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from lattice.observing.measuring import Measuring
from monitors import gauges
from monitors.events import Trained, Warned
from monitors.measured import machine_key, read
from presets.components import COMPONENTS
from presets.plan import on_device, plan


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "measured.jsonl"


def test_a_run_leaves_a_record_of_every_stage_that_is_larger_than_those_before(bench, path):
    run = bench(callbacks=(Measuring(path),))
    assert run.trainer.run() == "finished"
    found, passed_over = read(path, machine_key("cpu"))
    assert passed_over == "" and [each.steps for each in found] == [6, 6]
    for stage, record in enumerate(found):
        planned = plan(on_device(run.trainer.state.config, "cpu"))[stage]
        assert dict(record.features) == dict(planned.features)
        assert sum(record.features[name] for name in COMPONENTS) == planned.total_bytes
        seconds = [event.step_s for event in run.heard.of(Trained) if event.stage == stage]
        assert record.step_s == statistics.median(seconds)
        assert 10**8 < record.peak_bytes <= gauges.peak_rss_bytes()


def test_a_stage_smaller_than_one_before_has_no_peak_of_its_own(bench, path):
    shrinking = ("stages.0.shape=[6,6,8]", "stages.1.shape=[4,4,6]", "stages.1.strides.z=[2]")
    bench(*shrinking, callbacks=(Measuring(path),)).trainer.run()
    assert [each.features["cells"] for each in read(path, machine_key("cpu"))[0]] == [288]


def test_what_is_remembered_is_what_was_done_not_what_was_planned(bench, path):
    run = bench("stages.1.steps=1", callbacks=(Measuring(path),))
    run.trainer.state.progress.micro_batch, run.trainer.state.progress.checkpoint_ticks = 4, 3
    run.trainer.run()
    features = read(path, machine_key("cpu"))[0][0].features
    assert (features["micro_batch"], features["segment"], features["batch"]) == (4, 3, 16)


def test_too_few_steps_leave_no_record(bench, path):
    bench("stages.0.steps=2", "stages.1.steps=2", "optimizer.warmup_steps=0", callbacks=(Measuring(path),)).trainer.run()
    assert not path.exists()


def test_a_place_that_can_not_be_written_is_a_warning_and_the_run_goes_on(bench, tmp_path):
    (tmp_path / "file").write_text("")
    run = bench(callbacks=(Measuring(tmp_path / "file" / "measured.jsonl"),))
    assert run.trainer.run() == "finished"
    told = {event.message for event in run.heard.of(Warned)}
    assert len(told) == 1 and "can't be remembered" in told.pop()
