"""Tests of whole runs in processes of their own: signals, crashes, and resumed runs that equal an uninterrupted one."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lattice.training import checkpoint
from monitors.event_log import read_events
from monitors.events import Decoded, Edited, RunEnded, RunStarted, Saved, StageEnded, StageStarted, Trained, parse_event
from monitors.runs import RunFolder, list_runs, state_of

ROOT = Path(__file__).resolve().parents[3]
STEPS = 120
"""Sixty steps per stage, so that a run is still training when it gets a signal that is sent at step 20."""

OPTIONS = ("--preset", "tiny", "--steps", STEPS, "--set", "run.threads=1", "--set", "checkpoint.every=15")
CLOCKS = {"elapsed_s", "cpu_s", "saving_s"}


class Place:
    """A runs folder that holds one run, and processes that work on it."""

    def __init__(self, path: Path, data: Path, process: type) -> None:
        self.path, self._data, self._process = path, data, process
        self.stack = contextlib.ExitStack()

    def train(self, *arguments: object):
        """Starts the run."""
        return self._start(*OPTIONS, "--data", self._data, *arguments)

    def resume(self, *arguments: object):
        return self._start("--resume", "last", *arguments)

    def _start(self, *arguments: object):
        return self.stack.enter_context(self._process(self.path, "train", *arguments, "--runs-dir", self.path / "runs"))

    @property
    def rows(self) -> list[dict]:
        return list_runs(self.path / "runs")

    @property
    def folder(self) -> RunFolder:
        return RunFolder(Path(self.rows[0]["path"]))

    @property
    def events(self) -> list:
        return read_events(self.folder.events_jsonl).events if self.rows else []

    def reached(self, step: int) -> Callable[[], bool]:
        """A condition: the run has trained that many steps, and saved."""

        def condition() -> bool:
            events = self.events
            return bool(events) and events[-1].step >= step and any(isinstance(event, Saved) for event in events)

        return condition

    def of(self, kind: type) -> list:
        return [event for event in self.events if isinstance(event, kind)]

    def trained(self) -> list[tuple]:
        """Every step in the order of the log, with all that does not depend on the clock."""
        return [(e.step, e.stage, e.loss, e.grad_norm, e.learning_rate) for e in self.of(Trained)]

    def decoded(self) -> list[tuple]:
        return [(e.step, e.bleu, e.chrf, e.valid_loss, e.samples, e.active_share, e.best) for e in self.of(Decoded)]

    def last_checkpoint(self) -> checkpoint.LoadedCheckpoint:
        saved, passed_over = checkpoint.load_newest(self.folder.checkpoints)
        assert passed_over == []
        return saved


def same_tensors(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


@pytest.fixture
def place(tmp_path, sentences, process):
    here = Place(tmp_path, sentences, process)
    with here.stack:
        yield here


@pytest.fixture(scope="module")
def whole(tmp_path_factory, sentences, process):
    """(place, how it ended): the run that nothing interrupts."""
    here = Place(tmp_path_factory.mktemp("whole"), sentences, process)
    with here.stack:
        yield here, here.train("--log-format", "json").wait()


def assert_ends_like(place: Place, whole: Place) -> None:
    """The log tells the same steps and decodes, each once, and the last checkpoint is the same bit for bit."""
    assert place.trained() == whole.trained()
    assert place.decoded() == whole.decoded()
    mine, theirs = place.last_checkpoint(), whole.last_checkpoint()
    assert same_tensors(mine.model, theirs.model) and same_tensors(mine.optimizer, theirs.optimizer)
    here, there = ({k: v for k, v in saved.state["progress"].items() if k not in CLOCKS} for saved in (mine, theirs))
    assert here == there and here["step"] == STEPS


# A whole run


def test_a_run_trains_to_its_end_and_leaves_a_complete_folder(whole):
    place, told = whole
    assert told.code == 0, told.err
    folder, info = place.folder, place.folder.read_info()
    assert {path.name for path in folder.path.iterdir()} == {
        "run.json",
        "config.toml",
        "events.jsonl",
        "checkpoints",
        "volumes",
        "run.lock",
    }
    assert folder.path.stat().st_mode & 0o777 == 0o700
    assert (info.state, info.exit_code, info.step, info.stage, info.preset) == ("finished", 0, STEPS, 1, "tiny")
    assert info.elapsed_s > 0 and info.cpu_s > 0 and info.peak_bytes > 10**8
    assert state_of(folder) == "finished"
    assert [step for step, *_ in place.trained()] == list(range(1, STEPS + 1))
    events = place.events
    assert isinstance(events[0], RunStarted) and not events[0].resumed
    assert isinstance(events[-1], RunEnded) and (events[-1].state, events[-1].exit_code) == ("finished", 0)
    assert [(e.stage, e.carried) for e in place.of(StageStarted)] == [(0, False), (1, True)]
    assert [e.reason for e in place.of(StageEnded)] == ["steps", "steps"]
    assert [e.time for e in events] == sorted(e.time for e in events)
    assert place.of(Saved)[-1].step == STEPS


def test_every_line_of_the_json_log_is_the_event_that_the_event_log_holds(whole):
    place, told = whole
    said = [parse_event(line) for line in told.out.splitlines()]
    assert None not in said
    logged = place.events
    assert [event.model_copy(update={"time": 0.0}) for event in said] == [e.model_copy(update={"time": 0.0}) for e in logged]
    # Both are stamped when they are written, one right after the other.
    assert all(abs(a.time - b.time) < 60 for a, b in zip(said, logged, strict=True))


def test_the_loss_falls_over_the_run(whole):
    losses = [loss for _, _, loss, *_ in whole[0].trained()]
    assert sum(losses[-10:]) / 10 < sum(losses[:10]) / 10 - 1


# Stopped, and taken up again


def test_sigterm_saves_and_exits_with_143_and_the_resumed_run_is_the_uninterrupted_one(place, whole):
    run = place.train()
    run.until(place.reached(20))
    run.popen.send_signal(signal.SIGTERM)
    told = run.wait()
    assert told.code == 143, told.err
    assert f"run {place.folder.name}: stopped by SIGTERM" in told.err and "Traceback" not in told.err
    assert f"train --resume {place.folder.name}" in told.out
    stopped_at = place.folder.read_info().step
    assert 20 <= stopped_at < STEPS
    assert place.last_checkpoint().state["progress"]["step"] == stopped_at
    assert (place.rows[0]["state"], place.events[-1].state, place.events[-1].exit_code) == ("finished", "stopped", 143)

    again = place.resume("--json").wait()
    assert again.code == 0, again.err
    assert [json.loads(again.out)[key] for key in ("state", "step")] == ["finished", STEPS]
    assert [event.resumed for event in place.of(RunStarted)] == [False, True]
    assert_ends_like(place, whole[0])


def test_sigint_saves_and_exits_with_130(place):
    run = place.train()
    run.until(place.reached(20))
    run.popen.send_signal(signal.SIGINT)
    told = run.wait()
    assert told.code == 130, told.err
    assert "stopped by SIGINT" in told.err and "Traceback" not in told.err
    info = place.folder.read_info()
    assert (info.state, info.exit_code, place.rows[0]["state"]) == ("stopped", 130, "finished")
    assert place.last_checkpoint().state["progress"]["step"] == info.step >= 20


def test_two_signals_at_once_save_like_one(place):
    run = place.train()
    run.until(place.reached(20))
    run.popen.send_signal(signal.SIGSTOP)  # so that both are there when it goes on
    run.popen.send_signal(signal.SIGTERM)
    run.popen.send_signal(signal.SIGINT)
    run.popen.send_signal(signal.SIGCONT)
    told = run.wait()
    assert told.code in (130, 143), told.err  # Python may take either first
    assert "is finished and saved, then the run ends" in told.err and "again: the run is saving and ends" in told.err
    info = place.folder.read_info()
    assert info.state == "stopped" and place.last_checkpoint().state["progress"]["step"] == info.step >= 20


def test_sigusr1_saves_and_the_run_goes_on_and_sigxcpu_saves_and_ends_it_if_it_is_to(place):
    run = place.train("--set", "checkpoint.every=1000")
    run.until(lambda: len(place.of(Trained)) >= 10)
    run.popen.send_signal(signal.SIGUSR1)
    run.until(lambda: place.of(Saved))
    assert place.of(Edited)[0].who == "SIGUSR1"
    run.popen.send_signal(signal.SIGTERM)
    assert run.wait().code == 143
    again = place.train("--set", "checkpoint.on_warning=stop")
    again.until(place.reached(20))
    again.popen.send_signal(signal.SIGXCPU)
    told = again.wait()
    assert told.code == 152 and "stopped by SIGXCPU" in told.err
    assert place.last_checkpoint().state["progress"]["step"] == place.folder.read_info().step >= 20


def test_sighup_does_not_stop_a_run(place):
    run = place.train()
    run.until(place.reached(20))
    run.popen.send_signal(signal.SIGHUP)
    seen = place.events[-1].step
    run.until(place.reached(seen + 10))
    run.popen.send_signal(signal.SIGTERM)
    assert run.wait().code == 143


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_terminal_that_is_gone_or_a_closed_pipe_does_not_stop_a_run(tmp_path, sentences, log_format):
    """Text goes to a terminal whose other side is closed, JSON lines into a pipe that nobody reads any more."""
    listening, talking = os.openpty() if log_format == "text" else os.pipe()
    command = [sys.executable, "-m", "app.cli", "train", *OPTIONS, "--data", sentences, "--log-format", log_format]
    streams = {"stdout": talking, "stderr": talking if log_format == "text" else subprocess.DEVNULL}
    run = subprocess.Popen(
        [*map(str, command), "--runs-dir", str(tmp_path)], cwd=ROOT, stdin=subprocess.DEVNULL, start_new_session=True, **streams
    )
    try:
        os.close(talking)
        heard = b""
        while b"sprout" not in heard:
            heard += os.read(listening, 4096)
        os.close(listening)
        run.wait(120)
    finally:
        run.kill()
        run.wait()
    info = RunFolder(Path(list_runs(tmp_path)[0]["path"])).read_info()
    assert (info.state, info.step) == ("finished", STEPS)


def test_a_second_engine_on_a_run_is_refused_and_does_not_disturb_the_first(place, whole):
    first = place.train()
    first.until(place.reached(16))
    first.popen.send_signal(signal.SIGSTOP)  # it still holds the run, and can't finish while the second one tries
    before = place.folder.run_json.read_bytes(), place.folder.events_jsonl.read_bytes()
    try:
        told = place.resume().wait()
        after = place.folder.run_json.read_bytes(), place.folder.events_jsonl.read_bytes()
    finally:
        first.popen.send_signal(signal.SIGCONT)
    assert told.code == 1 and told.out == "" and "Traceback" not in told.err
    assert f"run {place.folder.name} is already being trained by process {first.popen.pid}" in told.err
    assert after == before
    assert first.wait().code == 0
    assert_ends_like(place, whole[0])


def test_a_killed_run_counts_as_crashed_and_resumes_to_the_uninterrupted_end(place, whole):
    run = place.train()
    run.until(place.reached(80))  # in the second stage
    run.popen.kill()
    assert run.wait().code == -signal.SIGKILL
    assert place.rows[0]["state"] == "crashed"
    saved_at = place.last_checkpoint().state["progress"]["step"]
    assert 60 <= saved_at <= place.trained()[-1][0]
    again = place.resume().wait()
    assert again.code == 0, again.err
    assert place.rows[0]["state"] == "finished"
    assert_ends_like(place, whole[0])
