"""Tests of live engines in processes of their own: steered, watched by many, paused, detached, killed and resumed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import signal
import socket
import tempfile
from pathlib import Path

import psutil
import pytest

from app.exit_codes import ExitCode, Stop
from app.run_process import engine
from app.run_process.launch import launch
from app.wire import protocol
from app.wire.client import Connection, Watch, send
from lattice.training import checkpoint
from lattice.training.callbacks import Callback
from lattice.training.inbox import Order
from monitors.event_log import read_events
from monitors.events import Decoded, Edited, RunEnded, Saved, StageEnded, Trained
from monitors.runs import RunFolder, list_runs, state_of
from presets.control_commands import Arguments, SetArguments, StageArguments
from presets.layers import load

STEPS = 120
SETTINGS = ("run.threads=1", "checkpoint.every=15", "stages.0.steps=60", "stages.1.steps=60")


def options(data: Path, *settings: str) -> list[str]:
    return ["--preset=tiny", f"--data={data}", *(f"--set={setting}" for setting in (*SETTINGS, *settings))]


def folder_of(runs: Path) -> RunFolder | None:
    rows = list_runs(runs)
    return RunFolder(Path(rows[0]["path"])) if rows else None


def of(folder: RunFolder, kind: type) -> list:
    return [event for event in read_events(folder.events_jsonl).events if isinstance(event, kind)]


def trained(folder: RunFolder) -> list[tuple]:
    return [(e.step, e.stage, e.loss, e.grad_norm, e.learning_rate) for e in of(folder, Trained)]


def edits(folder: RunFolder) -> list[tuple]:
    return [(e.step, e.command, e.key, e.old, e.new) for e in of(folder, Edited)]


class Live:
    """One training process, listening."""

    def __init__(self, process, runs: Path, arguments: list[str]) -> None:
        self.run, self.runs = process(runs.parent, "train", *arguments, "--runs-dir", runs), runs

    def __enter__(self) -> Live:
        self.folder = self.run.until(self._listening)
        return self

    def __exit__(self, *details: object) -> None:
        self.run.__exit__(*details)

    def _listening(self) -> RunFolder | None:
        folder = folder_of(self.runs)
        return folder if folder is not None and folder.read_info().socket else None

    def reached(self, step: int):
        return self.run.until(lambda: any(event.step >= step for event in of(self.folder, Trained)))

    def do(self, command: str, **arguments: object) -> protocol.Reply:
        return send(self.folder, command, arguments, "test", 60.0)


@pytest.fixture
def live(tmp_path, sentences, process):
    """`live("a.b=c", ...)` starts a run of the tiny preset."""
    with contextlib.ExitStack() as stack:
        yield lambda *settings: stack.enter_context(Live(process, tmp_path / "runs", options(sentences, *settings)))


def arguments(command: str, key: str, value: object) -> tuple[str, Arguments]:
    """Turns ("stage goto", "", 2) into the name of a command and its arguments."""
    name, _, action = command.partition(" ")
    if name == "set":
        return name, SetArguments(key=key, value=value)
    return name, StageArguments.model_construct(action=action, stage=value) if name == "stage" else Arguments()


class Ordered(Callback):
    """Gives an order in the middle of a step."""

    def __init__(self, plan: dict[int, list[tuple]]) -> None:
        self._plan = plan

    def after_step(self, state) -> None:
        for command, key, value in self._plan.pop(state.progress.step, []):
            name, given = arguments(command, key, value)
            state.inbox.put(Order(name, "test", lambda *_: None, given))


@pytest.fixture(scope="module")
def reference(tmp_path_factory, sentences):
    """`reference({step: [(command, key, value)]})` trains a run in this process with these orders.  Returns its folder."""

    def run(plan: dict[int, list[tuple]]) -> RunFolder:
        runs = tmp_path_factory.mktemp("reference")
        config = load("tiny", None, [*SETTINGS, f"data.train={json.dumps(str(sentences))}"]).config
        outcome = engine.start(config, "tiny", runs, [Ordered(plan)])
        assert outcome.code == ExitCode.OK
        return outcome.folder

    return run


@pytest.fixture(scope="module")
def plain(reference) -> RunFolder:
    """A run that nobody looks at."""
    return reference({})


# Commands


def test_every_command_takes_effect_at_the_step_it_is_answered_with_and_is_logged(live):
    run = live("stages.0.steps=100000", "stages.1.steps=100000", "checkpoint.every=100000")
    answers = [
        run.do("set", key="decode.every", value=7),
        run.do("pause"),
    ]
    paused_at = answers[-1].step
    assert state_of(run.folder) == "paused" and run.folder.read_info().step == paused_at
    with Connection(run.folder) as connection:
        assert connection.hello.state == "paused"
    answers += [
        run.do("set", key="stages.0.sparsity", value=0.5),
        run.do("checkpoint"),
        run.do("decode"),
        run.do("wound", wound="connections:0.2"),
        run.do("heal", by="stdp", waves=2),
        run.do("stage", action="hold"),
        run.do("stage", action="release"),
        run.do("resume"),
    ]
    assert {answer.step for answer in answers[1:]} == {paused_at}
    assert state_of(run.folder) == "running"
    run.reached(paused_at + 5)
    answers += [run.do("stage", action="goto", stage=1), run.do("set", key="stages.1.steps", value=99999), run.do("stop")]
    assert all(answer.ok for answer in answers), answers
    told = run.run.wait()
    assert told.code == 0, told.err
    words = [
        "set",
        "pause",
        "set",
        "checkpoint",
        "decode",
        "wound connections:0.2",
        "heal stdp 2",
        "stage hold",
        "stage release",
        "resume",
        "stage goto",
        "set",
        "stop",
    ]
    expected = [(answer.step, word) for answer, word in zip(answers, words, strict=True)]
    assert [(step, command) for step, command, *_ in edits(run.folder)] == expected
    assert {event.who for event in of(run.folder, Edited)} == {"test"}
    assert paused_at in [event.step for event in of(run.folder, Saved)]
    assert paused_at in [event.step for event in of(run.folder, Decoded)]
    assert [event.reason for event in of(run.folder, StageEnded)] == ["operator", "stopped"]
    info = run.folder.read_info()
    assert (info.state, info.socket, info.reason) == ("stopped", None, "stopped by test")
    assert not run.folder.control_sock.exists()
    assert checkpoint.steps(run.folder.checkpoints)[0][0] == answers[-1].step


def test_control_steers_from_the_command_line(live, cli):
    run = live("stages.0.steps=100000")

    def control(*words: str):
        return cli("control", "last", *words, "--runs-dir", run.runs)

    told = control("set", "decode.every=20", "--json")
    assert told.code == 0 and told.json | {"step": 0} == {"run": run.folder.name, "ok": True, "step": 0, "error": ""}
    told = control("pause")
    assert (told.code, told.out) == (0, f"pause: in effect after step {run.folder.read_info().step}\n")
    told = control("stage", "goto", "0")
    assert told.code == 2 and "refused: stage 0 does not come after stage 0" in told.err
    told = control("set", "text.grid=9", "--json")
    assert told.code == 2 and not told.json["ok"] and told.json["error"].startswith("text.grid: is fixed when the run starts")
    assert control("set", "stages.0.until_loss=none").code == 0
    told = control("heal")
    assert told.code == 2 and "refused: the lattice has no wound" in told.err
    assert control("wound", "cells:0.2").code == control("heal", "stdp", "3").code == 0
    assert control("wound").code == control("heal").code == 0
    assert control("stop").code == 0
    assert run.run.wait().code == 0
    told = control("pause")
    assert told.code == 5 and "nothing listens" in told.err and "its state is finished" in told.err


@pytest.mark.parametrize(
    "words",
    [
        ["set"],
        ["set", "a.b"],
        ["set", "a.b=[1]"],
        ["stage"],
        ["stage", "goto"],
        ["stage", "goto", "x"],
        ["fly"],
        ["pause", "now"],
        ["wound", "legs:0.3"],
        ["wound", "connections:1"],
        ["wound", "connections", "0.3"],
        ["heal", "0"],
        ["heal", "well"],
        ["heal", "stdp", "neighbours"],
        ["heal", "40"],
        ["heal", "neighbours", "40"],
    ],
)
def test_words_that_are_no_command_are_wrong_usage(cli, tmp_path, words):
    told = cli("control", "last", *words, "--runs-dir", tmp_path)
    assert told.code == 2 and told.out == "" and told.err.count("\n") == 1


def test_control_of_a_run_that_is_not_there(cli, tmp_path):
    assert cli("control", "last", "pause", "--runs-dir", tmp_path).code == 5


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_paused_run_at_once_and_saves_it(live, number, code):
    run = live("stages.0.steps=100000")
    step = run.do("pause").step
    run.run.popen.send_signal(number)
    assert run.run.wait().code == code
    assert checkpoint.steps(run.folder.checkpoints)[0][0] == step == of(run.folder, RunEnded)[0].step


# Exactness


def test_a_run_that_was_steered_killed_and_resumed_is_the_uninterrupted_one_with_the_same_edits(live, reference, process):
    run = live()
    first = run.do("set", key="optimizer.learning_rate", value=0.001).step
    second = run.do("set", key="stages.1.sparsity", value=0.3).step
    run.run.until(lambda: any(event.step > second for event in of(run.folder, Saved)))
    run.run.popen.kill()
    assert run.run.wait().code == -signal.SIGKILL
    assert state_of(run.folder) == "crashed" and Path(run.folder.read_info().socket).exists()
    with process(run.runs.parent, "train", "--resume", "last", "--runs-dir", run.runs) as again:
        told = again.wait()
    assert told.code == 0, told.err
    plan: dict[int, list[tuple]] = {first: [("set", "optimizer.learning_rate", 0.001)]}
    plan.setdefault(second, []).append(("set", "stages.1.sparsity", 0.3))
    other = reference(plan)
    assert edits(run.folder) == edits(other) and len(edits(other)) == 2
    assert trained(run.folder) == trained(other)
    ours, theirs = (checkpoint.load_newest(folder.checkpoints)[0] for folder in (run.folder, other))
    assert all(ours.model[name].equal(theirs.model[name]) for name in theirs.model)


def test_ten_viewers_that_attach_stall_and_vanish_and_a_storm_of_garbage_change_no_loss(live, plain):
    run = live()
    draw = random.Random(3)
    with contextlib.ExitStack() as stack:
        stalled = []
        for _ in range(4):  # subscribed, and never read
            peer = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            peer.connect(run.folder.read_info().socket)
            peer.sendall(protocol.encode(protocol.Subscribe()))
            stalled.append(peer)
        for _ in range(3):  # gone in the middle of it
            with Watch(run.folder) as watch:
                next(iter(watch))
        attached = [stack.enter_context(Watch(run.folder)) for _ in range(3)]
        for watch in attached:
            seen = iter(watch)
            while not isinstance(next(seen).event, Trained):
                pass
        for _ in range(200):
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
                peer.connect(run.folder.read_info().socket)
                peer.sendall(draw.randbytes(draw.choice([3, 300, 100_000])) + b"\n")
        # They see the run to its end.
        steps = [item.event.step for item in attached[0] if isinstance(item.event, Trained)]
        assert attached[0].dropped == 0 and steps == list(range(steps[0], STEPS + 1))
    assert run.run.wait().code == 0
    assert trained(run.folder) == trained(plain) and len(trained(plain)) == STEPS


def test_a_second_controller_is_refused_while_the_first_one_stays(live):
    run = live("stages.0.steps=100000")
    with Connection(run.folder) as first:
        assert first.command("pause", {}, "ann").ok
        refused = run.do("resume")
        assert not refused.ok and "is being controlled by 'ann'" in refused.error
        assert state_of(run.folder) == "paused"
        assert first.command("stop", {}, "ann").ok
    assert run.run.wait().code == 0


# Detached


def test_a_detached_run_has_a_session_of_its_own_survives_a_hangup_and_logs_to_its_folder(cli, tmp_path, sentences):
    told = cli("train", "--detach", *options(sentences, "stages.0.steps=100000"), "--runs-dir", tmp_path)
    assert told.code == 0, told.err
    folder = RunFolder(tmp_path / told.out.strip())
    info = folder.read_info()
    engine_process = psutil.Process(info.pid)
    try:
        assert os.getsid(info.pid) == info.pid != os.getsid(0)
        assert os.readlink(f"/proc/{info.pid}/fd/0") == "/dev/null"
        assert {os.readlink(f"/proc/{info.pid}/fd/{n}") for n in (1, 2)} == {str(folder.engine_log)}
        engine_process.send_signal(signal.SIGHUP)
        before = send(folder, "decode", {}, "test").step
        with Watch(folder, recent=0) as watch:
            next(item for item in watch if isinstance(item.event, Trained) and item.event.step > before)
        assert send(folder, "stop", {}, "test").step > before
        engine_process.wait(60)
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            engine_process.kill()
    assert state_of(folder) == "finished"
    assert f"run {folder.name} started" in folder.engine_log.read_text()

    again = launch(["--resume", folder.name], tmp_path)
    assert again.path == folder.path
    engine_process = psutil.Process(folder.read_info().pid)
    assert send(again, "stop", {}, "test").ok
    with contextlib.suppress(psutil.NoSuchProcess):
        engine_process.wait(60)
    assert folder.engine_log.read_text().count("resumed") == 1  # after what was there


def test_a_detached_run_needs_no_folder_for_temporary_files(tmp_path, monkeypatch):
    def nowhere():
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    monkeypatch.setattr(tempfile, "_gettempdir", nowhere)
    with pytest.raises(Stop, match=r"nothing\.txt"):
        launch(["--preset=tiny", f"--data={tmp_path / 'nothing.txt'}"], tmp_path / "runs")


def test_a_detached_run_that_can_not_begin_says_why_with_its_exit_code(cli, tmp_path, sentences):
    told = cli("train", "--detach", "--preset", "tiny", "--data", tmp_path / "nothing.txt", "--runs-dir", tmp_path / "runs")
    assert told.code == 2 and told.out == "" and "nothing.txt" in told.err and "Traceback" not in told.err
    assert cli("train", "--detach", "--resume", "last", "--runs-dir", tmp_path / "runs").code == 5
    assert cli("train", "--detach", "--preset", "huge").code == 2
    with pytest.raises(Stop) as refusal:
        launch(["--preset=tiny", "--device=cuda:99"], tmp_path / "runs")
    assert refusal.value.code in (ExitCode.NO_DEVICE, ExitCode.USAGE)
