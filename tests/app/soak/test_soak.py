"""`soak`: what it refuses before it starts, what it trains, and one short soak in earnest."""

from __future__ import annotations

import json
import os
import signal

import pytest

from app import configure
from app.exit_codes import ExitCode, Stop
from app.soak import soaking
from lattice.training.rewiring import dropped
from monitors.leak_detector import Detector
from presets.plan import plan

KEYS = {"name", "slope", "low", "growth", "verdict"}


def test_a_place_that_can_not_be_written_is_refused(cli, tmp_path):
    (tmp_path / "file").touch()
    told = cli("soak", "--hours", 1, "--preset", "tiny", "--out", tmp_path / "file" / "out")
    assert told.code == ExitCode.USAGE and "--out" in told.err


@pytest.mark.parametrize("preset", ["tiny", "baseline", "small"])
def test_a_soak_goes_up_from_a_smaller_lattice_and_switches_everything_on(preset):
    long, cycles = soaking.configs(configure.load(preset, None, []).config, "sentences.txt")
    for config in (long, cycles):
        first, last = (planned.cells for planned in plan(config))
        assert first < last
        assert all(stage.clustering.clusters and stage.waves for stage in config.stages)
        assert all(dropped(stage, stage.rewiring.every, stage.kept()) for stage in config.stages)  # while a stage lasts
        assert config.connections.learning == "hybrid" and config.data.train == "sentences.txt"
    assert cycles.total_steps == 2 * soaking.CYCLE_STEPS < soaking.FIRST_STAGE_STEPS < long.total_steps


@pytest.mark.parametrize(
    "verdict, errors, interrupted, code",
    [
        ("leak", ["x"], True, ExitCode.LEAK),
        ("flat", ["x"], True, ExitCode.FAILED),
        ("suspicious", [], True, ExitCode.INTERRUPTED),
    ],
)
def test_a_leak_says_more_than_an_error_and_that_more_than_an_interruption(verdict, errors, interrupted, code):
    meters = [{"name": "long: rss", "verdict": verdict}]
    with pytest.raises(Stop) as stop:
        soaking._leave({"verdict": verdict, "meters": meters, "errors": errors}, interrupted)
    assert stop.value.code == code


def test_the_picture_shows_every_meter_of_both_phases(tmp_path):
    phases = [soaking.Phase(name, Detector(warm_up=0)) for name in ("long", "cycles")]
    for phase in phases:
        for step in range(3):
            phase.detector.sample(step, "same", {}, {})
    report = soaking.summary(phases, [], {}, 60.0, "tiny", True)
    assert {meter["name"].partition(":")[0] for meter in report["meters"]} == {"long", "cycles"}
    assert all(set(meter) > KEYS for meter in report["meters"])
    soaking._write(tmp_path / "out", report, phases)
    assert (tmp_path / "out" / "soak.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "out" / "soak.json").read_text()) == report


@pytest.mark.slow
def test_a_short_soak_trains_under_load_without_errors(process, tmp_path):
    arguments = ("soak", "--hours", 0.03, "--preset", "tiny", "--set", "run.threads=1", "--chaos", "--out", tmp_path / "out")
    with process(tmp_path, *arguments, "--json") as program:
        program.popen.wait(900)
        told = program.wait()
    assert told.code == 0, told.err
    assert told.json["errors"] == [] and told.json["phases"]["cycles"]["runs"] > 1
    assert sum(told.json["acts"].values()) > 10
    long, cycles = (set(told.json["phases"][name]["events"]) for name in ("long", "cycles"))
    assert {"decoded", "saved", "rewired", "plastic", "volume_saved"} < long and {"clustered", "rewired", "saved"} < cycles
    assert {"long: rss", "long: screen rss", "cycles: descriptors"} < {meter["name"] for meter in told.json["meters"]}


@pytest.mark.slow
def test_an_interrupted_soak_gives_the_verdict_so_far(process, tmp_path):
    arguments = ("soak", "--hours", 10, "--preset", "tiny", "--set", "run.threads=1", "--out", tmp_path / "out", "--json")
    with process(tmp_path, *arguments) as program:
        err = program._files[1]
        program.until(lambda: "samples" in err.read_text())
        os.kill(program.popen.pid, signal.SIGINT)
        told = program.wait()
    assert told.code == ExitCode.INTERRUPTED and told.json["phases"]["long"]["steps"] > 0
    assert (tmp_path / "out" / "soak.png").exists()
