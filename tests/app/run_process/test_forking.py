"""Tests of forks: without changes they equal their parent, they keep its past, and some settings can't be changed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path

import psutil
import pytest
import torch

from app.exit_codes import ExitCode, Stop
from app.finding import run_config
from app.run_process import engine, forking
from app.run_process.forking import Changes
from app.saved_models.opening import open_run
from lattice.training import checkpoint
from lattice.training.callbacks import Callback
from lattice.training.inbox import Order
from monitors.event_log import read_events
from monitors.events import Decoded, Edited, RunStarted, StageEnded, Trained, VolumeSaved
from monitors.runs import RunFolder, list_runs
from presets.control_commands import SetArguments
from presets.layers import load

STEPS = 60
SETTINGS = ("run.threads=1", "checkpoint.every=7", "checkpoint.keep=50", "run.device=cpu")
CLOCKS = {"elapsed_s", "cpu_s", "saving_s", "edits"}


@pytest.fixture(autouse=True, scope="module")
def threads():
    """A run sets the number of torch's threads; give it back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Ordered(Callback):
    """Gives orders at set steps."""

    def __init__(self, orders: dict[int, list[tuple[str, object]]]) -> None:
        self._orders = orders

    def after_step(self, state) -> None:
        for key, value in self._orders.get(state.progress.step, []):
            state.inbox.put(Order("set", "ada", lambda *_: None, SetArguments(key=key, value=value)))


@pytest.fixture(scope="module")
def parent(tmp_path_factory, sentences) -> RunFolder:
    """A whole run of two stages, thirty steps each, checkpoints all seven steps; steered at step 10 and at step 50."""
    runs = tmp_path_factory.mktemp("parent") / "runs"
    config = load("tiny", None, [*SETTINGS, f"data.train={json.dumps(str(sentences))}"]).config
    orders = {10: [("decode.every", 4), ("stages.0.sparsity", 0.3)], 50: [("optimizer.cell_rate", 0.5)]}
    outcome = engine.start(config, "tiny", runs, [Ordered(orders)])
    assert outcome.code == ExitCode.OK
    return outcome.folder


def of(folder: RunFolder, kind: type) -> list:
    return [event for event in read_events(folder.events_jsonl).events if isinstance(event, kind)]


def trained(folder: RunFolder) -> list[tuple]:
    return [(e.step, e.stage, e.loss, e.grad_norm, e.learning_rate) for e in of(folder, Trained)]


def decoded(folder: RunFolder) -> list[tuple]:
    return [(e.step, e.bleu, e.chrf, e.valid_loss, e.samples, e.active_share, e.best) for e in of(folder, Decoded)]


def forked(parent: RunFolder, at: object, tmp_path: Path, *assignments: str, **options: object) -> RunFolder:
    """The fork, not trained."""
    return forking.make_fork(f"{parent.path}@{at}", Changes(assignments, **options), tmp_path)


def finish(folder: RunFolder) -> RunFolder:
    assert engine.resume(folder, run_config(folder), []).code == ExitCode.OK
    return folder


def refusal(parent: RunFolder, at: object, tmp_path: Path, *assignments: str, **options: object) -> str:
    """Why there is no such fork; nothing is left of it."""
    with pytest.raises(Stop) as stop:
        forked(parent, at, tmp_path, *assignments, **options)
    assert stop.value.code == ExitCode.USAGE
    assert list(tmp_path.iterdir()) == []
    return str(stop.value)


# Exactness


def test_a_fork_from_after_the_last_command_ends_with_the_tensors_of_its_parent(parent, tmp_path):
    ours = finish(forked(parent, 56, tmp_path))
    assert trained(ours) == trained(parent) and decoded(ours) == decoded(parent)
    mine, theirs = (checkpoint.load_newest(folder.checkpoints)[0] for folder in (ours, parent))
    for a, b in ((mine.model, theirs.model), (mine.optimizer, theirs.optimizer)):
        assert a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)
    here, there = ({k: v for k, v in saved.state["progress"].items() if k not in CLOCKS} for saved in (mine, theirs))
    assert here == there and here["step"] == STEPS and mine.state["live"] == theirs.state["live"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory, sentences) -> RunFolder:
    """The same run, steered by nobody."""
    runs = tmp_path_factory.mktemp("plain") / "runs"
    config = load("tiny", None, [*SETTINGS, f"data.train={json.dumps(str(sentences))}"]).config
    return engine.start(config, "tiny", runs, []).folder


def test_a_fork_from_before_the_commands_of_its_parent_is_not_steered_by_them(parent, plain, tmp_path):
    ours = finish(forked(parent, 7, tmp_path))
    assert trained(ours) == trained(plain) != trained(parent)


@pytest.mark.parametrize("at", [7, 30, 42], ids=["within stage one", "at its end", "within stage two"])
def test_a_fork_of_a_run_that_nobody_steers_equals_it_to_the_end(plain, tmp_path, at):
    ours = finish(forked(plain, at, tmp_path))
    assert trained(ours) == trained(plain) and decoded(ours) == decoded(plain)
    mine, theirs = (checkpoint.load_newest(folder.checkpoints)[0] for folder in (ours, plain))
    for a, b in ((mine.model, theirs.model), (mine.optimizer, theirs.optimizer)):
        assert a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


def test_an_interrupted_fork_resumes_to_the_same_end(plain, tmp_path):
    class Leave(Callback):
        def after_step(self, state) -> None:
            if state.progress.step == 45:
                state.request_stop("enough for now")

    ours = forked(plain, 21, tmp_path, "optimizer.cell_rate=0.1")
    again = forked(plain, 21, tmp_path, "optimizer.cell_rate=0.1")
    assert engine.resume(ours, run_config(ours), [Leave()]).reason == "enough for now"
    assert trained(finish(ours)) == trained(finish(again))
    assert [(e.key, e.new) for e in of(ours, Edited)] == [("optimizer.cell_rate", 0.1)]


# The past, and who the parent is


def test_the_fork_has_its_past_and_names_its_parent(parent, tmp_path):
    before = {path: path.read_bytes() for path in parent.path.rglob("*") if path.is_file()}
    folder = forked(parent, 14, tmp_path)
    assert [step for step, *_ in trained(folder)] == list(range(1, 15))
    assert trained(folder) == trained(parent)[:14]
    info, row = folder.read_info(), list_runs(tmp_path)[0]
    assert (info.parent, info.preset, info.step, info.stage) == (f"{parent.name}@14", "tiny", 14, 0)
    assert (row["run"], row["state"], row["step"]) == (folder.name, "finished", 14) and folder.name.endswith("-tiny-fork")
    assert of(folder, RunStarted)[-1].message == f"forked from {parent.name}@14"
    cells = {path.name: path.read_bytes() for path in folder.volumes.iterdir()}
    assert set(cells) == {f"step-{event.step:08d}.volume" for event in of(folder, VolumeSaved)} != set()
    assert all(before[parent.volumes / name] == raw for name, raw in cells.items())
    assert folder.path.stat().st_mode & 0o777 == 0o700
    assert folder.events_jsonl.stat().st_mode & 0o777 == folder.run_json.stat().st_mode & 0o777 == 0o600
    finish(folder)
    assert folder.read_info().parent == f"{parent.name}@14"
    assert {path: path.read_bytes() for path in parent.path.rglob("*") if path.is_file()} == before


def test_the_commands_given_before_the_checkpoint_hold_in_the_fork(parent, tmp_path):
    early, late = forked(parent, 7, tmp_path), forked(parent, 14, tmp_path)
    assert (run_config(early).decode.every, run_config(late).decode.every) == (10, 4)
    assert [event.key for event in of(early, Edited)] == []
    assert [event.key for event in of(late, Edited)] == ["decode.every", "stages.0.sparsity"]


def test_what_opens_a_run_has_the_settings_that_held_when_it_was_saved(parent):
    config = open_run(parent, torch.device("cpu")).config
    assert (config.decode.every, config.stages[0].sparsity, config.optimizer.cell_rate) == (4, 0.3, 0.5)
    assert run_config(parent).decode.every == 10


def test_a_change_holds_from_the_fork_on_and_stands_in_its_log(parent, tmp_path):
    folder = forked(parent, 14, tmp_path, "decode.every=3", "optimizer.weight_decay=0.5", "stages.1.shape=[6,6,10]")
    told = [(e.step, e.command, e.key, e.old, e.new) for e in of(folder, Edited) if e.who == f"fork of {parent.name}@14"]
    assert told == [
        (14, "fork", "stages.1.shape", "[6, 6, 8]", "[6, 6, 10]"),
        (14, "fork", "optimizer.weight_decay", 0.01, 0.5),
        (14, "set", "decode.every", 4, 3),
    ]
    finish(folder)
    assert [event.step for event in of(folder, Decoded) if 14 < event.step < 30] == [15, 18, 21, 24, 27]
    assert run_config(folder).optimizer.weight_decay == 0.5
    opened = open_run(folder, torch.device("cpu"))
    assert opened.config.decode.every == 3 and opened.config.stages[1].shape == (6, 6, 10)
    assert trained(folder)[:14] == trained(parent)[:14] and trained(folder)[15] != trained(parent)[15]


def test_another_sparsity_of_the_current_stage_prunes_at_the_fork(parent, tmp_path):
    def pruned(folder: RunFolder) -> float:
        return 1 - len(checkpoint.load_newest(folder.checkpoints)[0].model["lattice.index"]) / 28

    denser, sparser = forked(parent, 14, tmp_path), forked(parent, 14, tmp_path, "stages.0.sparsity=0.8")
    assert pruned(denser) == pytest.approx(0.3, abs=0.1) and pruned(sparser) == pytest.approx(0.8, abs=0.1)


def test_a_frozen_profile_from_the_fork_on_leaves_the_connections_as_they_are(plain, tmp_path):
    folder = forked(plain, 42, tmp_path, "stages.1.profile=freeze")
    before = checkpoint.load_newest(folder.checkpoints)[0].model["lattice.weights"]
    finish(folder)
    assert checkpoint.load_newest(folder.checkpoints)[0].model["lattice.weights"].equal(before)


# How long


def test_a_finished_run_trains_on_in_a_fork_with_more_steps(plain, tmp_path):
    folder = finish(forked(plain, 60, tmp_path, steps=75))
    assert [step for step, *_ in trained(folder)] == list(range(1, 76))
    assert [event.reason for event in of(folder, StageEnded)] == ["steps", "steps", "steps"]
    assert folder.read_info().state == "finished"


def test_steps_are_those_of_the_whole_run_and_the_stages_to_come_share_what_is_left(plain, tmp_path):
    folder = forked(plain, 14, tmp_path, steps=106)  # 16 and 30 steps were left, now 92 are
    assert [stage.steps for stage in run_config(folder).stages] == [14 + 32, 60]
    assert [stage.steps for stage in run_config(forked(plain, 30, tmp_path, steps=50)).stages] == [30, 20]


def test_a_fork_with_nothing_left_to_train_is_refused(plain, tmp_path):
    assert "nothing is left to train; give it more with --steps" in refusal(plain, 60, tmp_path)
    assert "at least 61" in refusal(plain, 60, tmp_path, steps=60)
    assert "14 steps are done before the fork, so at least 16" in refusal(plain, 14, tmp_path, steps=15)


# What can't be


@pytest.mark.parametrize(
    ("at", "setting", "reason"),
    [
        (42, "stages.0.steps=99", "stages.0.steps: that stage is over at step 42"),
        (30, "stages.0.sparsity=0.5", "stages.0.sparsity: that stage is over at step 30"),
        (
            42,
            "stages.1.shape=[6,6,10]",
            "stages.1.shape: the checkpoint was trained with [6, 6, 8] and can't go on with [6, 6, 10]",
        ),
        (
            14,
            "stages.0.strides.z=[3]",
            "stages.0.strides.z: the checkpoint was trained with [2] and can't go on with [3]; train a new run",
        ),
        (14, "text.slot_width=16", "text.slot_width: the checkpoint was trained with 32 and can't go on with 16"),
        (14, "lattice.channels=6", "lattice.channels: the checkpoint was trained with 12"),
        (14, "lattice.arm=identity", "lattice.arm: the checkpoint was trained with lattice"),
        (14, "rule.kind=mlp", "rule.kind: the checkpoint was trained with none and can't go on with mlp"),
        (42, "connections.noise=0.5", "connections.noise: decides how a lattice starts, and the checkpoint's has started"),
        (14, "lattice.port_start=pass", "lattice.port_start: decides how a lattice starts, and the checkpoint's has started"),
        (14, "stages.0.waves=3", "stages.0.waves: decides how a lattice starts, and the checkpoint's has started"),
        (14, "decode.evry=3", "unknown key; did you mean 'every'?"),
        (14, "run.seed=9", "held-out sentences were trained on by"),
        (14, "data.held_out=0.4", "held-out sentences were trained on by"),
    ],
)
def test_a_change_that_can_not_hold_is_refused_by_its_name(plain, tmp_path, at, setting, reason):
    assert reason in refusal(plain, at, tmp_path, setting)


def test_the_start_of_a_stage_to_come_may_change(plain, tmp_path):
    folder = forked(plain, 14, tmp_path, "connections.noise=0.5", "stages.1.waves=2")
    assert (run_config(folder).connections.noise, run_config(folder).stages[1].waves) == (0.5, 2)


def test_a_setting_that_only_spells_its_default_out_changes_nothing_and_is_taken(plain, tmp_path):
    folder = forked(plain, 42, tmp_path, "lattice.port_channels=12")
    assert run_config(folder).lattice.port_channels == 12


def test_a_refusal_names_every_change_that_can_not_hold_and_what_the_checkpoint_has(plain, tmp_path):
    changes = ("lattice.port_channels=6", "lattice.memory_ticks=4", "rule.kind=linear", "rule.scope=cell")
    told = refusal(plain, 14, tmp_path, *changes).splitlines()
    assert told == [
        "lattice.port_channels: the checkpoint was trained with 12 and can't go on with 6; train a new run",
        "lattice.memory_ticks: decides how a lattice starts, and the checkpoint's has started; train a new run",
        "rule.kind: the checkpoint was trained with none and can't go on with linear; train a new run",
        "rule.scope: the checkpoint was trained with lattice and can't go on with cell; train a new run",
    ]


def test_updates_and_wounds_may_begin_in_a_fork(plain, tmp_path):
    folder = forked(plain, 42, tmp_path, "rule.update_probability=0.5", "training.wounds=0.5")
    assert (run_config(folder).rule.update_probability, run_config(folder).training.wounds) == (0.5, 0.5)


def test_other_text_is_taken_with_held_out_sentences_of_its_own(plain, tmp_path):
    from lattice.data.grammar import generate

    more = tmp_path / "more.txt"
    more.write_text("\n".join(generate(900, seed=77)) + "\n", encoding="utf-8")
    old = set(Path(run_config(plain).data.train).read_text().splitlines())
    fresh = [line for line in more.read_text().splitlines() if line not in old]
    valid = tmp_path / "valid.txt"
    valid.write_text("\n".join(fresh[:80]) + "\n", encoding="utf-8")
    runs = tmp_path / "runs"
    folder = finish(forked(plain, 42, runs, given={"--data": more, "--valid": valid}))
    assert run_config(folder).data.valid == str(valid)
    assert folder.read_info().step == STEPS


def test_a_step_without_a_checkpoint_is_refused_with_those_there_are(plain, tmp_path):
    assert "has no checkpoint of step 8; it has checkpoints of steps 7, 14, 21, 28, 30, 35" in refusal(plain, 8, tmp_path)


def test_the_best_checkpoint_can_be_forked_by_name(plain, tmp_path):
    best = checkpoint.best_path(plain.checkpoints)
    folder = forked(plain, "best", tmp_path, steps=90)
    assert folder.read_info().step == int(best.name.removeprefix("step-"))
    assert checkpoint.best_path(folder.checkpoints).name == best.name


def test_a_damaged_checkpoint_can_not_be_forked(plain, tmp_path, cli):
    copy = tmp_path / "copied"
    shutil.copytree(plain.path, copy)
    (copy / "checkpoints" / "step-00000014" / "model.safetensors").write_bytes(b"\0")
    told = cli("fork", f"{copy}@14", "--runs-dir", tmp_path / "runs")
    assert told.code == 1 and "does not match its manifest" in told.err and not (tmp_path / "runs").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_fork_that_can_not_be_written_is_told(plain, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(Stop, match="no permission"):
        forked(plain, 14, tmp_path / "runs")
    tmp_path.chmod(0o700)


# The command


def test_the_command_trains_the_fork_to_its_end(cli, plain, tmp_path):
    told = cli("fork", f"{plain.path}@42", "--set", "decode.every=5", "--runs-dir", tmp_path, "--json")
    assert told.code == 0, told.err
    assert (told.json["state"], told.json["step"], told.json["stage"]) == ("finished", STEPS, 1)
    assert f"forked from {plain.name}@42" in cli("status", "last", "--runs-dir", tmp_path).out


def test_a_detached_fork_is_trained_by_a_process_of_its_own(cli, plain, tmp_path, process):
    with process(tmp_path, "fork", f"{plain.path}@42", "--detach", "--runs-dir", tmp_path / "runs") as run:
        told = run.wait()
        assert told.code == 0, told.err
    folder = RunFolder.find(tmp_path / "runs", told.out.strip())
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(folder.read_info().pid).wait(120)
    info = folder.read_info()
    assert (info.parent, info.state, info.step) == (f"{plain.name}@42", "finished", STEPS)


def test_a_run_that_is_not_there_exits_with_5(cli, tmp_path):
    assert cli("fork", "nope@3", "--runs-dir", tmp_path).code == 5
