"""A run folder that is renamed, moved or deleted while its run trains: the engine follows, whole, or says that it is gone."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from app.exit_codes import ExitCode
from app.run_process import engine
from lattice.training import checkpoint
from lattice.training.callbacks import Callback
from monitors.event_log import read_events
from monitors.events import Trained, Warned
from monitors.held_folder import HeldFolder
from monitors.runs import RunFolder, RunFolderError, list_runs, state_of
from presets.layers import load

SETTINGS = ("stages.0.steps=6", "stages.1.steps=6", "optimizer.warmup_steps=2", "decode.every=4", "checkpoint.every=3")


class At(Callback):
    """Does something with the run folder after step 4."""

    def __init__(self, runs: Path, act) -> None:
        self._runs, self._act = runs, act

    def after_step(self, state) -> None:
        if state.progress.step == 4:
            self._act(Path(list_runs(self._runs)[0]["path"]))


@pytest.fixture
def train(tmp_path, sentences):
    """`train(act)` trains a run to its end, and does `act(folder)` after its fourth step."""
    config = load("tiny", None, [*SETTINGS, "run.threads=1", f"data.train={json.dumps(str(sentences))}"]).config
    return lambda act: engine.start(config, "tiny", tmp_path / "runs", [At(tmp_path / "runs", act)])


@pytest.mark.parametrize("taken", [False, True], ids=["old name free", "old name taken by a copy"])
def test_a_run_whose_folder_is_renamed_goes_on_in_it_whole(train, tmp_path, taken):
    new, before = tmp_path / "runs" / "mine", []

    def rename(folder: Path) -> None:
        before.append(folder)
        folder.rename(new)
        if taken:
            shutil.copytree(new, folder, ignore=lambda *_: ["control.sock"])

    outcome = train(rename)
    assert (outcome.code, outcome.folder.path) == (ExitCode.OK, new)
    info = RunFolder(new).read_info()
    assert (info.run, info.state, info.step, info.socket) == ("mine", "finished", 12, None)
    events = read_events(RunFolder(new).events_jsonl).events
    assert [event.step for event in events if isinstance(event, Trained)] == list(range(1, 13))
    (warned,) = [event.message for event in events if isinstance(event, Warned) and "moved" in event.message]
    assert warned == f"the run folder was moved from {before[0]} to {new}; the run goes on there"
    assert checkpoint.steps(new / "checkpoints")[0][0] == 12
    assert sorted(os.listdir(new / "volumes"))[-1].startswith("step-00000012")
    assert not (new / "control.sock").exists()
    if taken:
        assert [step for step, _ in checkpoint.steps(before[0] / "checkpoints")] == [3]
    else:
        assert not before[0].exists()


def test_a_run_whose_folder_is_deleted_ends_and_says_so_and_leaves_no_half_one(train, tmp_path):
    outcome = train(shutil.rmtree)
    assert outcome.code == ExitCode.FAILED
    assert "is gone: it was deleted, or moved to another file system" in outcome.reason
    assert os.listdir(tmp_path / "runs") == []


# The folder that is held


@pytest.fixture
def held(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    held = HeldFolder(folder)
    yield held
    held.close()


def test_a_held_folder_is_followed_once_to_each_new_place(held, tmp_path):
    assert not held.follow()
    (tmp_path / "other").mkdir()
    for new in (tmp_path / "renamed", tmp_path / "other" / "run"):
        held.folder.path.rename(new)
        assert held.follow() and held.folder.path == new
        assert not held.follow()


def test_a_folder_that_was_deleted_is_gone_even_if_another_takes_its_place(held):
    held.folder.path.rmdir()
    with pytest.raises(RunFolderError, match="is gone"):
        held.follow()
    held.folder.path.mkdir()  # another folder of the name
    with pytest.raises(RunFolderError, match="is gone"):
        held.follow()


def test_a_file_system_that_does_not_answer_is_no_move(held, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(os, "stat", lambda path: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
        assert not held.follow()
    assert not held.follow()


def test_commands_reach_a_run_that_was_renamed_while_it_is_paused(cli, process, tmp_path, sentences):
    options = ("--preset", "tiny", "--steps", 400, "--set", "run.threads=1", "--data", sentences)
    runs, new = tmp_path / "runs", tmp_path / "runs" / "mine"
    with process(tmp_path, "train", *options, "--runs-dir", runs) as run:
        run.until(lambda: any(row["state"] == "running" for row in (list_runs(runs) if runs.exists() else [])))
        assert cli("control", "last", "pause", "--runs-dir", runs).code == 0
        Path(list_runs(runs)[0]["path"]).rename(new)
        assert state_of(RunFolder(new)) == "paused"
        status = cli("status", "mine", "--runs-dir", runs)
        assert status.code == 0 and "run mine (tiny): paused" in status.out
        assert cli("control", "mine", "stop", "--runs-dir", runs).code == 0
        told = run.wait()
    assert told.code == 0 and "lattice-tui decode mine " in told.out
    assert [path.name for path in runs.iterdir()] == ["mine"]
    assert checkpoint.steps(new / "checkpoints")[0][0] == RunFolder(new).read_info().step
