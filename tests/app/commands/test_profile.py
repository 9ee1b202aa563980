"""Tests of `profile`: its process of its own, the record from which `plan` learns, and refusals in one sentence."""

from __future__ import annotations

import json

import pytest

from monitors import measured
from monitors.measured import read
from presets.components import COMPONENTS

QUICK = ("--preset", "tiny", "--set", "run.threads=1", "--steps", 2)


@pytest.fixture
def state(tmp_path, monkeypatch):
    """A user who has measured nothing yet."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


def test_it_prints_plan_and_measurement_and_remembers_what_later_plans_are_told(cli, state):
    told = cli("profile", *QUICK, "--json")
    assert told.code == 0, told.err
    found = told.json
    assert (found["stage"], found["steps"], found["micro_batch"], found["learned"]) == ("sprout", 2, 16, None)
    assert set(found["components"]) == set(COMPONENTS) and found["total_bytes"] == sum(found["components"].values())
    assert 10**8 < found["rss_before_bytes"] <= found["peak_bytes"] < 2 * found["total_bytes"]
    assert found["step_cpu_s"] > 0 and found["step_s"] > 0
    records, passed_over = read(measured.place(), found["record"]["machine"])
    assert passed_over == "" and [each.as_json() for each in records] == [found["record"]]
    assert found["remembered"] == str(measured.place()) and measured.place().is_relative_to(state)

    # Two more like it: from three on there is something to learn from.
    line = measured.place().read_text()
    measured.place().write_text(line * 3)
    planned = cli("plan", "--preset", "tiny", "--set", "run.threads=1", "--json")
    lesson = planned.json["stages"][0]["learned"]
    assert lesson["runs"] == 3 and lesson["peak_bytes"] == pytest.approx(found["peak_bytes"], rel=0.02)
    table = cli("plan", "--preset", "tiny", "--set", "run.threads=1")
    assert "learned from 3 stages measured here" in " ".join(table.out.split())


def test_a_damaged_measurement_is_told_in_one_line_and_plans_go_on(cli, state):
    path = measured.place()
    path.parent.mkdir(parents=True)
    path.write_text("{torn\n")
    told = cli("plan", "--preset", "tiny", "--json")
    assert told.code == 0 and told.json["stages"][0]["learned"] is None
    assert told.err == f"{path}: 1 line(s) passed over that are no measurement\n"


def test_the_second_stage_can_be_measured_alone_and_the_table_says_it_all(cli, state):
    told = cli("profile", *QUICK, "--stage", 1)
    assert told.code == 0, told.err
    for words in ("6x6x8", "cell parameters", "planned", "measured peak", "ms of CPU (medians of 2)", "micro-batch 16 of 16"):
        assert words in told.out
    assert json.loads(measured.place().read_text())["features"]["cells"] == 288


def test_in_time_it_says_how_many_ticks_the_steps_took_of_those_planned(cli, state):
    told = cli("profile", "--preset", "walker", "--data", "task:house,words=3-9,count=600,held=9", "--steps", 2)
    assert told.code == 0, told.err
    # One token per slot, and a lag of 2.
    said = "the longest sentence of these steps has 9 tokens and takes 11 ticks; planned are 34, for text.max_tokens = 32"
    assert said in told.out
    assert "the longest sentence" not in cli("profile", *QUICK).out


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--stage", 2), 2, "--stage: 2 is not there; the last one is 1"),
        (("--memory-budget", 0.001), 3, "does not fit"),
        (("--data", "gone.txt"), 2, "gone.txt: no such file"),
    ],
)
def test_what_can_not_be_measured_is_refused_and_nothing_is_remembered(cli, state, options, code, words):
    told = cli("profile", *QUICK, *options)
    assert told.code == code and words in told.err and told.out == ""
    assert told.err.startswith("lattice-tui: ") and not measured.place().exists()
