"""Tests of the command line: exit codes, one clear sentence for every expected failure, and the fields of JSON output."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer

from app.cli import app as program
from monitors.runs import RunFolder
from tests.app.commands.conftest import QUICK

ROOT = Path(__file__).resolve().parents[3]
HEAVY = {"torch", "textual", "numpy", "sklearn", "sacrebleu", "tokenizers", "lattice"}
STATUS_KEYS = [
    "run", "state", "stage", "step", "loss", "measure", "bleu", "exact", "elapsed_s", "cpu_s", "saving_s", "peak_bytes",
]  # fmt: skip
ESCAPE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]")
"""Control characters that a terminal would obey, except for the newline."""


def every_command(command=None, path=()):
    """The words of each command of the program, groups included."""
    command = typer.main.get_command(program) if command is None else command
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from every_command(inner, (*path, name))


COMMANDS = sorted(every_command())


def assert_refused(told, code: int, *parts: str) -> None:
    """Nothing on stdout; on stderr one message, without a traceback, that holds all the parts."""
    assert told.code == code, told.err
    assert told.out == ""
    assert "Traceback" not in told.err
    assert told.err.count("lattice-tui: ") == 1 and told.err.startswith("lattice-tui: ")
    for part in parts:
        assert part in told.err
    assert not ESCAPE.search(told.err)


@pytest.fixture(autouse=True, scope="module")
def threads():
    """A run sets the number of torch's threads; give it back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def own(home, tmp_path, monkeypatch):
    """(runs folder, run folder) of a copy of that run; its data is the original's."""
    runs = tmp_path / "runs"
    shutil.copytree(home[0] / "runs", runs)
    return runs, next(runs.iterdir())


# Help, and what is not imported for it


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command) or "program")
def test_help_exits_with_0(cli, command):
    told = cli(*command, "--help")
    assert (told.code, told.err) == (0, "")
    assert "Usage: " in told.out


def test_the_program_as_installed_answers_help_and_version():
    program = Path(sys.executable).with_name("lattice-tui")
    done = [subprocess.run([program, flag], capture_output=True, text=True, check=True) for flag in ("--help", "--version")]
    assert "train" in done[0].stdout
    assert done[1].stdout.split()[0] == "lattice-tui" and done[0].stderr == done[1].stderr == ""


def test_help_and_config_errors_import_nothing_heavy(tmp_path):
    calls = [[*command, "--help"] for command in COMMANDS]
    calls += [
        ["train", "--preset", "tny"],
        ["train", "--preset", "tiny", "--set", "nonsense=1"],
        ["train", "--preset", "tiny", "--steps", "1"],
        ["train", "--resume", "x", "--steps", "9"],
        ["plan", "--preset", "tiny", "--set", "stages.0.ticks=1"],
        ["plan", "--preset", "tiny", "--json"],
        ["presets"],
        ["presets", "show", "tiny"],
        ["runs", "--runs-dir", str(tmp_path)],
        ["status", "nothing", "--runs-dir", str(tmp_path)],
        ["compare", "nothing", "more", "--runs-dir", str(tmp_path)],
        ["export", "nothing", "--runs-dir", str(tmp_path)],
    ]
    code = f"""
import contextlib, io, json, sys
from app.cli import main
codes = []
for call in json.loads({json.dumps(calls)!r}):
    sys.argv = ["lattice-tui", *call]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            main()
            codes.append(0)
        except SystemExit as end:
            codes.append(int(end.code or 0))
print(json.dumps([codes, sorted({{name.partition(".")[0] for name in sys.modules}})]))
"""
    # A state folder of its own: plans learn from what earlier tests measured, by a library that is heavy.
    environment = os.environ | {"XDG_STATE_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    codes, loaded = json.loads(done.stdout)
    assert codes == [0] * len(COMMANDS) + [2, 2, 2, 2, 2, 0, 0, 0, 0, 5, 5, 5]
    assert set(loaded) & HEAVY == set()


# Config


def test_an_unknown_preset_is_named_with_the_nearest(cli):
    assert_refused(cli("train", "--preset", "tny"), 2, "unknown preset 'tny'; did you mean 'tiny'?")


def test_all_wrong_settings_are_told_at_once(cli):
    wrong = ["no equals sign", "optimizer.learning_rate=-1", "run.seeed=3", "text.heads=5", "stages.7.ticks=1"]
    told = cli("train", "--preset", "tiny", *(part for item in wrong for part in ("--set", item)))
    assert_refused(
        told,
        2,
        "'no equals sign' is not of the form section.key=value",
        "optimizer.learning_rate: ",
        "run.seeed: unknown key; did you mean 'seed'?",
        "text.heads: 5 does not divide width",
        "stages.7: there is no such entry; numbers 0 to 1 exist",
    )
    assert len(told.err.splitlines()) == len(wrong)


def test_the_ticks_named_in_the_refusal_are_the_fewest_that_would_do(cli):
    def plan(ticks):
        return cli("plan", "--preset", "tiny", "--set", f"stages.1.ticks={ticks}")

    told = plan(1)
    assert_refused(told, 2, "stages.1.ticks: 1 ticks reach")
    ticks = int(re.search(r"(\d+) ticks, or other strides", told.err)[1])
    assert plan(ticks).code == 0
    assert plan(ticks - 1).code == 2


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ("[0,4,4]", "stages.0.shape.0: input should be greater than or equal to 1"),
        ("[4,4]", "stages.0.shape.2: is required and was not given"),
        ("[4,4,6,6]", "stages.0.shape: takes 3 values at most, not 4 (got [4, 4, 6, 6])"),
        ("4", "stages.0.shape: must be a list in brackets, such as [4,4,6] (got 4)"),
        ("[1,4,6]", "stages.0.shape: a face of 1x4 cells is smaller than text.grid 2x2"),
        ("[4,4,2]", "stages.0.strides.z: 2 does not fit 2 cells; use strides below 2"),
        ('"big"', "stages.0.shape: "),
    ],
)
def test_an_impossible_shape_is_refused_with_its_reason(cli, shape, reason):
    assert_refused(cli("train", "--preset", "tiny", "--set", f"stages.0.shape={shape}"), 2, reason)


def test_too_few_steps_for_the_stages_are_refused(cli):
    assert_refused(cli("train", "--preset", "tiny", "--steps", 1), 2, "1 steps can't be shared by 2 stages")


def test_a_config_file_that_is_not_there_or_not_toml_is_refused_by_name(cli, tmp_path):
    bad = tmp_path / "bad.toml"
    bad.write_text("[run\nseed = 1")
    assert_refused(cli("train", "--config", bad), 2, str(bad), "not valid TOML")
    assert_refused(cli("train", "--config", tmp_path / "none.toml"), 2, "none.toml", "No such file")


def test_wrong_usage_of_an_option_exits_with_2(cli):
    for arguments in (("--steps", "many"), ("--frobnicate",), ("--log-format", "xml")):
        told = cli("train", "--preset", "tiny", *arguments)
        assert (told.code, told.out) == (2, "") and arguments[0] in told.err and "Traceback" not in told.err


def test_presets_show_tells_where_each_value_came_from(cli, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("[training]\nbatch = 8\n")
    told = cli("presets", "show", "tiny", "--config", file, "--set", "stages.0.ticks=7")
    assert told.code == 0
    lines = told.out.splitlines()
    assert "stages.0.ticks = 7   (--set)" in lines
    assert f"training.batch = 8   ({file})" in lines
    assert "text.width = 32   (preset tiny)" in lines
    assert "optimizer.clip = 1.0   (default)" in lines
    settings = cli("presets", "show", "tiny", "--json").json["settings"]
    assert settings["text.width"] == {"value": 32, "origin": "preset tiny"}


# Data


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("missing.txt", None, "no such file or folder"),
        ("empty.txt", b"", "no sentence in it"),
        ("blank.txt", b"\n  \n", "no sentence in it"),
        ("binary.txt", b"\x7fELF\x00\x01\x02", "line 1 holds a zero byte; this is not a text file"),
        ("latin.txt", "good line\ncaf\u00e9\n".encode("latin-1"), "line 2 is not UTF-8"),
        ("one.txt", b"only one sentence\n", "1 usable line(s); at least 2 are needed"),
        ("twice.txt", b"the same line\nThe  same line\n", "1 usable line(s)"),
        ("bad.jsonl", b'{"source": "a"}\n[1]\n', "line 2 is not a JSON object"),
    ],
)
def test_unusable_data_is_refused_by_name_before_anything_is_written(cli, tmp_path, name, content, reason):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    told = cli("train", *QUICK, "--data", path, "--runs-dir", tmp_path / "runs")
    assert_refused(told, 2, str(path), reason)
    assert not (tmp_path / "runs").exists()


def test_a_run_that_finds_no_room_for_its_folder_leaves_none_behind(cli, sentences, tmp_path, monkeypatch):
    from monitors.runs import RunFolder

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RunFolder, "write_info", full)
    told = cli("train", *QUICK, "--data", sentences, "--runs-dir", tmp_path)
    assert_refused(told, 1, "the run folder can't be written: no space left on the device")
    assert list(tmp_path.iterdir()) == []


def test_pairs_without_data_are_refused(cli, tmp_path):
    assert_refused(cli("train", *QUICK, "--task", "pairs", "--runs-dir", tmp_path), 2, "the task pairs needs --data")


def test_terminal_codes_in_data_never_reach_the_terminal(cli, tmp_path):
    data = tmp_path / "evil.txt"
    rows = [f"\x1b[31mred {i}\x1b[0m \x07bell\x9b2J \u202eturned \x7f" for i in range(100)]
    data.write_text("\n".join(rows), encoding="utf-8")
    told = cli("train", *QUICK, "--data", data, "--runs-dir", tmp_path / "runs")
    assert told.code == 0, told.err
    assert r"\x1b[31mred" in told.out and r"\x1b[31mred" in told.err  # shown, but as words
    evaluated = cli("evaluate", "last", "--data", data, "--runs-dir", tmp_path / "runs")
    decoded = cli("decode", "last", rows[0], "--runs-dir", tmp_path / "runs")
    status = cli("status", "--runs-dir", tmp_path / "runs")
    for each in (told, evaluated, decoded, status):
        assert each.code == 0
        assert not ESCAPE.search(each.out) and not ESCAPE.search(each.err)


def test_terminal_codes_in_file_names_and_settings_never_reach_the_terminal(cli, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "evil\x1b[31m.txt").write_bytes(b"\xff\n")
    assert_refused(cli("train", *QUICK, "--data", folder, "--runs-dir", tmp_path), 2, r"evil\x1b[31m.txt: line 1 is not UTF-8")
    config = tmp_path / "evil.toml"
    config.write_text('[run]\n"\\u001b[31mseed" = 1\n')
    assert_refused(cli("train", *QUICK, "--config", config), 2, r"run.\x1b[31mseed: unknown key")


def test_terminal_codes_in_the_name_of_a_run_folder_never_reach_the_terminal(cli, own):
    runs, folder = own
    evil = folder.rename(runs / "evil\x1b[31m")
    damaged = max((evil / "checkpoints").glob("step-*"))
    (damaged / "state.json").write_text("{}")
    resumed = cli("train", "--resume", evil, "--runs-dir", runs)
    for told in (cli("runs", "--runs-dir", runs), cli("status", evil.name, "--runs-dir", runs), resumed):
        assert told.code == 0 and r"evil\x1b[31m" in told.out
        assert not ESCAPE.search(told.out) and not ESCAPE.search(told.err)
    assert r"passed over a checkpoint: " in resumed.err


# Device, memory, places


def test_a_gpu_that_is_not_there_exits_with_3(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    told = cli("train", *QUICK, "--device", "cuda", "--runs-dir", tmp_path / "runs")
    assert_refused(told, 3, "cuda was asked for, but torch sees no CUDA GPU here; use --device cpu")
    assert not (tmp_path / "runs").exists()


def test_a_device_that_is_no_device_exits_with_2(cli):
    assert_refused(cli("train", *QUICK, "--device", "tpu"), 2, "--device: run.device: must be auto, cpu, cuda or cuda:N")


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("--device", "tpu", "--device: run.device: "),
        ("--memory-budget", "-3", "--memory-budget: run.memory_budget_gb: "),
        ("--task", "poems", "--task: data.task: must be reconstruct, pairs, denoise or continue"),
        ("--set", "run.seed=-1", "--set: run.seed: "),
    ],
)
def test_a_wrong_value_is_told_with_the_option_that_gave_it(cli, option, value, named):
    assert_refused(cli("train", "--preset", "tiny", option, value), 2, f"lattice-tui: {named}")


def test_a_plan_that_does_not_fit_exits_with_3_after_its_table(cli):
    small = ("plan", "--preset", "tiny", "--set", "run.memory_budget_gb=0.1")
    told, as_json = cli(*small), cli(*small, "--json")
    assert told.code == as_json.code == 3
    assert "cell parameters" in told.out and "stage sprout does not fit" in told.err and "stage grow does not fit" in told.err
    assert [stage["fits"] for stage in as_json.json["stages"]] == [False, False]


@pytest.mark.parametrize("arguments", [["presets", "show", "tiny"], ["runs"], ["--help"]], ids=" ".join)
def test_a_reader_that_leaves_ends_the_program_quietly_with_141(arguments, tmp_path):
    """The reading end of the pipe is closed before anything is written, so that the first flush finds nobody."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "app.cli", *arguments, *(["--runs-dir", tmp_path] if arguments == ["runs"] else [])]
    try:
        done = subprocess.run(command, cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_run_that_does_not_fit_its_budget_exits_with_3_and_says_what_would_help(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))  # what other tests' runs took is not learned from
    told = cli("train", *QUICK, "--memory-budget", "0.1", "--runs-dir", tmp_path / "runs")
    assert_refused(told, 3, "stage sprout does not fit", "run.memory_budget_gb=1 allows it")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "command",
    [("status", "nope"), ("evaluate", "nope", "--data", "x.txt"), ("decode", "nope", "hello"), ("train", "--resume", "nope")],
)
def test_an_unknown_run_exits_with_5_and_names_the_nearest(cli, own, command):
    assert_refused(cli(*command, "--runs-dir", own[0]), 5, "no such run 'nope'", own[1].name)


def test_a_runs_folder_below_a_file_can_neither_be_made_nor_listed(cli, tmp_path, sentences):
    (tmp_path / "file").write_text("")
    place = tmp_path / "file" / "runs"
    assert_refused(cli("train", *QUICK, "--data", sentences, "--runs-dir", place), 1, f"can't make a run folder in {place}: ")
    assert_refused(cli("runs", "--runs-dir", place), 1, f"can't list the runs in {place}: ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_runs_folder_without_permission_is_told(cli, tmp_path, sentences):
    tmp_path.chmod(0o500)
    told = cli("train", *QUICK, "--data", sentences, "--runs-dir", tmp_path / "runs")
    tmp_path.chmod(0o700)
    assert_refused(told, 1, "no permission")


def test_without_runs_the_list_says_how_to_make_one(cli, tmp_path):
    told = cli("runs", "--runs-dir", tmp_path)
    assert told.code == 0 and "lattice-tui train" in told.out


# Taking a run up again


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--steps", "9"), "--steps"),
        (("--set", "run.seed=1"), "--set"),
        (("--config", "x.toml"), "--config"),
        (("--data", "x.txt", "--task", "pairs"), "--task"),
        (("--device", "cpu"), "--device"),
        (("--memory-budget", "9"), "--memory-budget"),
    ],
)
def test_resuming_with_options_of_another_run_is_refused_by_their_name(cli, own, options, named):
    told = cli("train", "--resume", "last", "--runs-dir", own[0], *options)
    assert_refused(told, 2, "--resume continues a run as it was started; leave out ")
    rest = " (`lattice-tui fork` begins a new run from it with other settings)\n"
    assert told.err.split("leave out ")[1] == named + rest


def test_resuming_a_finished_run_says_so_and_changes_nothing(cli, own):
    runs, folder = own
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    told = cli("train", "--resume", "last", "--runs-dir", runs, "--json")
    assert told.code == 0 and told.json["state"] == "finished"
    assert f"run {folder.name} is finished after 6 steps" in told.err and "fork" in told.err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_resuming_after_the_data_changed_is_refused(cli, home, own):
    runs, folder = own
    data = runs.parent / "changed.txt"
    data.write_text((home[0] / "data.txt").read_text() + "one more sentence\n")
    config = (folder / "config.toml").read_text()
    (folder / "config.toml").write_text(config.replace(str(home[0] / "data.txt"), str(data)))
    told = cli("train", "--resume", "last", "--runs-dir", runs)
    assert_refused(told, 2, f"{data}: the text has changed since {folder.name} was started", f"fork {folder.name} --data PATH")
    assert_refused(cli("train", "--resume", "last", "--runs-dir", runs, "--data", data), 2, "the text has changed", "fork")


def stopped_early(folder: Path) -> None:
    """Makes a finished run one that was stopped at its first checkpoint."""
    for path in sorted((folder / "checkpoints").glob("step-*"))[1:]:
        shutil.rmtree(path)
    run = RunFolder(folder)
    run.write_info(run.read_info().model_copy(update={"state": "stopped"}))


def test_a_run_whose_text_was_moved_goes_on_with_data_and_keeps_the_new_place(cli, home, own):
    runs, folder = own
    stopped_early(folder)
    gone, moved = runs.parent / "gone.txt", runs.parent / "moved.txt"
    config = (folder / "config.toml").read_text()
    (folder / "config.toml").write_text(config.replace(str(home[0] / "data.txt"), str(gone)))
    told = cli("train", "--resume", "last", "--runs-dir", runs)
    assert_refused(told, 2, f"{gone}: no such file or folder", f"train --resume {folder.name} --data PATH")
    told = cli("fork", "last", "--steps", 9, "--runs-dir", runs)
    assert_refused(told, 2, f"{gone}: no such file or folder", "`lattice-tui fork last --data PATH` goes on with it")
    shutil.copy(home[0] / "data.txt", moved)
    told = cli("train", "--resume", "last", "--runs-dir", runs, "--data", moved, "--json")
    assert told.code == 0 and (told.json["state"], told.json["step"]) == ("finished", 6)
    assert (folder / "config.toml").read_text() == config.replace(str(home[0] / "data.txt"), str(moved))


def test_resuming_passes_over_a_damaged_checkpoint_aloud_and_uses_the_older_one(cli, own):
    runs, folder = own
    newest, older = sorted((folder / "checkpoints").glob("step-*"), reverse=True)[:2]
    (newest / "model.safetensors").write_bytes(b"\0" * 100)
    told = cli("train", "--resume", "last", "--runs-dir", runs, "--json")
    assert told.code == 0
    assert f"passed over a checkpoint: {newest}/model.safetensors: does not match its manifest" in told.err
    assert told.json["step"] == 6 and int(older.name[5:]) < 6


def test_without_any_sound_checkpoint_a_run_can_be_neither_resumed_nor_opened(cli, own, sentences):
    runs, folder = own
    for file in (folder / "checkpoints").glob("step-*/optimizer.safetensors"):
        file.write_bytes(file.read_bytes()[:-1])
    reason = "optimizer.safetensors: does not match its manifest"
    assert_refused(
        cli("train", "--resume", "last", "--runs-dir", runs), 1, "can't be resumed", "no complete checkpoint", reason
    )
    assert_refused(cli("decode", "last", "hello", "--runs-dir", runs), 1, "can't be opened", reason)


def test_folders_of_other_programs_are_not_taken_for_runs(cli, own, tmp_path):
    runs, folder = own
    (runs / "holiday").mkdir()
    (runs / "holiday" / "photo.jpg").write_bytes(b"\xff\xd8")
    (runs / "junk").mkdir()
    (runs / "junk" / "run.json").write_text("[1, 2")
    listed = cli("runs", "--runs-dir", runs, "--json").json
    assert [row["run"] for row in listed["runs"]] == [folder.name]
    assert [(row["run"], row["path"]) for row in listed["damaged"]] == [("junk", str(runs / "junk"))]
    reason = f"{runs / 'junk'}/run.json is damaged or of another version"
    assert listed["damaged"][0]["reason"].startswith(reason)
    table = cli("runs", "--runs-dir", runs).out
    assert re.search(r"^junk +damaged ", table, re.MULTILINE) and reason in table
    assert "holiday" not in table
    assert_refused(cli("status", "holiday", "--runs-dir", runs), 5, "no such run 'holiday'")
    assert_refused(cli("status", "junk", "--runs-dir", runs), 1, "run.json is damaged or of another version")
    assert_refused(cli("train", "--resume", "junk", "--runs-dir", runs), 5, "config.toml can't be read")


def test_a_broken_config_of_a_run_is_told_with_its_file(cli, own):
    runs, folder = own
    (folder / "config.toml").write_text("stages = 3")
    assert_refused(cli("decode", "last", "hello", "--runs-dir", runs), 2, str(folder / "config.toml"), "stages")


# JSON


def test_train_json_is_the_status_of_the_run_and_nothing_else(cli, home):
    place, told = home
    fields = told.json
    assert list(fields) == STATUS_KEYS
    assert (fields["state"], fields["stage"], fields["step"]) == ("finished", 1, 6)
    assert fields["loss"] > 0 and fields["peak_bytes"] > 10**8
    assert all(fields[clock] > 0 for clock in ("elapsed_s", "cpu_s", "saving_s"))
    assert cli("status", fields["run"], "--runs-dir", place / "runs", "--json").json == fields


def test_runs_json_has_the_keys_of_the_contract_newest_first(cli, own):
    runs, folder = own
    other = runs / "20200101-000000-tiny"
    shutil.copytree(folder, other)
    info = json.loads((other / "run.json").read_text())
    (other / "run.json").write_text(json.dumps(info | {"run": other.name, "created": info["created"] - 100}))
    told = cli("runs", "--runs-dir", runs, "--json")
    assert list(told.json) == ["runs", "damaged"] and told.json["damaged"] == []
    assert [row["run"] for row in told.json["runs"]] == [folder.name, other.name]
    for row in told.json["runs"]:
        assert list(row) == ["run", "path", "state", "preset", "stage", "step", "measure", "bleu", "exact", "created"]
        assert (row["state"], row["preset"], row["stage"], row["step"]) == ("finished", "tiny", 1, 6)
    assert Path(told.json["runs"][0]["path"]) == folder


def test_the_table_of_runs_names_the_stage_by_number_and_name(cli, own):
    runs, folder = own
    assert "1 grow" in cli("runs", "--runs-dir", runs).out and "stage 1 grow" in cli("status", "--runs-dir", runs).out
    (folder / "config.toml").write_text("not [ toml")
    table = cli("runs", "--runs-dir", runs)
    assert table.code == 0 and re.search(r"finished +1 +6 ", table.out)


def test_plan_json_has_the_keys_of_the_contract(cli):
    told = cli("plan", "--preset", "tiny", "--json")
    assert list(told.json) == ["stages"] and len(told.json["stages"]) == 2
    keys = [
        "shape",
        "cells",
        "components",
        "total_bytes",
        "budget_bytes",
        "fits",
        "micro_batch",
        "accumulation",
        "reach",
        "kernel",
    ]
    for stage in told.json["stages"]:
        assert list(stage) == [*keys, "checkpoint_ticks", "learned"]
        assert stage["total_bytes"] == sum(stage["components"].values()) <= stage["budget_bytes"] and stage["fits"] is True


@pytest.mark.parametrize("control", ["none", "shuffled", "bypass"])
def test_evaluate_json_has_the_keys_of_the_contract(cli, home, control):
    place, _ = home
    data = place / "data.txt"
    told = cli("evaluate", "last", "--data", data, "--control", control, "--runs-dir", place / "runs", "--json")
    assert list(told.json) == ["bleu", "chrf", "exact", "count", "measure", "signature", "control"]
    assert told.json["count"] == 300 and told.json["control"] == control and told.err == ""


def test_evaluate_refuses_what_it_can_not_score(cli, home, tmp_path):
    place, _ = home
    one = tmp_path / "one.txt"
    one.write_text("a single sentence\n")
    at = ("--runs-dir", place / "runs")
    assert_refused(cli("evaluate", "last", "--data", one, "--control", "shuffled", *at), 2, "needs at least two sentences")
    assert_refused(
        cli("evaluate", "last", "--data", one, "--control", "mixed", *at), 2, "'mixed' is not one of none, shuffled, bypass"
    )
    assert_refused(cli("evaluate", "last", "--data", tmp_path / "no.txt", *at), 2, "no.txt: no such file")


def test_decode_says_which_text_was_cut_and_refuses_none(cli, home):
    at = ("--runs-dir", home[0] / "runs")
    long = cli("decode", "last", "word " * 100, *at)
    assert long.code == 0 and "beyond text.max_tokens = 40 and were cut" in long.err
    told = cli("decode", "last", "word " * 100, *at, "--json")
    assert told.json["cut"] == told.json["tokens"] - 40 > 0 and told.err == ""
    assert_refused(cli("decode", "last", "  \n ", *at), 2, "there is no text to decode")
    assert_refused(cli("decode", "last", "half \ud800", *at), 2, "not valid UTF-8")


def test_morphology_reads_five_fields_and_scores_three_lattices(cli, home):
    at = ("--runs-dir", home[0] / "runs", "--surrogates", 99)
    told = cli("morphology", "last", *at, "--json")
    assert told.code == 0, told.err
    assert list(told.json) == ["run", "step", "since", "fields", "emergence", "forward"]
    assert list(told.json["fields"]) == ["strength", "mean", "along x", "along y", "along z"]
    scores = told.json["emergence"]
    assert list(scores) == ["fresh", "trained", "shuffled"] and all(0 <= row["score"] <= 1 for row in scores.values())
    assert scores["fresh"]["score"] == 0 and scores["fresh"]["participation"] > 0.5
    ways = told.json["forward"]
    assert list(ways) == ["start", "trained"] and all(0 < share < 1 for way in ways.values() for share in way)
    shown = cli("morphology", "last", *at)
    assert shown.code == 0 and "weight from nearer" in shown.out and "emergence score" in shown.out and "p red" in shown.out


def test_morphology_refuses_what_it_can_not_read(cli, home, tmp_path):
    one = tmp_path / "one.txt"
    one.write_text("a single sentence\n")
    at = ("--runs-dir", home[0] / "runs")
    assert_refused(cli("morphology", "last", "--data", one, *at), 2, "at least two sentences")
    assert_refused(cli("morphology", "nobody", *at), 5, "nobody")


def test_presets_json_lists_every_shipped_preset_with_its_aliases(cli):
    rows = {row["preset"]: row for row in cli("presets", "--json").json["presets"]}
    assert {"tiny", "walker", "baseline", "small", "medium", "large", "progressive"} <= set(rows)
    assert rows["medium"]["aliases"] == ["production_medium"] and rows["large"]["aliases"] == ["production_large"]
