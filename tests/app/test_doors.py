"""Security tests: input from outside is not executed, leads to no other path, and does not control the terminal.

No other user gets in.
"""

from __future__ import annotations

import ast
import json
import os
import pickle
import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(p.relative_to(ROOT) for part in ("app", "lattice", "monitors", "presets") for p in (ROOT / part).rglob("*.py"))
LOADERS = {"pickle", "cPickle", "_pickle", "shelve", "marshal", "dill", "cloudpickle", "joblib", "yaml", "jsonpickle", "imp"}
RUNNERS = {"eval", "exec", "compile", "__import__"}
CALLS = {"torch.load", "torch.save", "numpy.load", "np.load", "os.system", "os.popen", "importlib.import_module"}
ESCAPE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]")


def dangers(tree: ast.AST) -> list[str]:
    """What in a source could run what it reads."""
    found = []
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                found += [name.name for name in names if name.name.partition(".")[0] in LOADERS]
            case ast.ImportFrom(module=str(module)) if module.partition(".")[0] in LOADERS:
                found.append(module)
            case ast.Attribute() if (name := ast.unparse(node)) in CALLS:
                found.append(name)
            case ast.Call(func=ast.Name(id=name)) if name in RUNNERS:
                found.append(name)
            case ast.keyword(arg="shell", value=ast.Constant(value=True)) | ast.keyword(arg="allow_pickle"):
                found.append(str(node.arg))
    return found


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_no_source_unpickles_evaluates_or_calls_a_shell(path):
    assert dangers(ast.parse((ROOT / path).read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "import dill as d",
        "from yaml import load",
        "torch.load(f)",
        "np.load(f, allow_pickle=True)",
        "eval(x)",
        "exec(x)",
        "compile(x, '', 'exec')",
        "os.system(x)",
        "run(x, shell=True)",
    ],
)
def test_the_search_for_such_sources_finds_them(code):
    assert dangers(ast.parse(code))


# One that tries


class Payload:
    """Runs a command where it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self._canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self._canary}",)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, cli) -> Path:
    """A runs folder with one finished run."""
    place = tmp_path_factory.mktemp("runs")
    data = tmp_path_factory.mktemp("data") / "few.txt"
    data.write_text("".join(f"the {what} is number {i}\n" for i in range(40) for what in ("cat", "dog", "red bird")))
    quick = ("--data", data, "--steps", 4, "--set", "run.threads=1", "--set", "decode.every=2")
    told = cli("train", "--preset", "tiny", *quick, "--runs-dir", place)
    assert told.code == 0, told.err
    return place


@pytest.fixture
def own(trained, tmp_path) -> Path:
    """A copy of the finished run's folder."""
    run = next(path for path in trained.iterdir() if path.is_dir())
    return Path(shutil.copytree(run, tmp_path / "runs" / "run", ignore=shutil.ignore_patterns("control.sock")))


def sign(path: Path) -> None:
    from lattice.training import checkpoint

    manifest = json.loads((path / "MANIFEST.json").read_text())
    for name, entry in manifest["files"].items():
        entry.update(bytes=(path / name).stat().st_size, sha256=checkpoint._digest(path / name))
    (path / "MANIFEST.json").write_text(json.dumps(manifest))


def test_a_pickle_in_the_place_of_any_file_of_a_run_is_refused_or_skipped_and_never_run(cli, own, tmp_path):
    canary = tmp_path / "canary"
    payload = pickle.dumps(Payload(canary))
    pickle.loads(payload)
    assert canary.exists()  # it would, if somebody unpickled it
    canary.unlink()
    checkpoints = own / "checkpoints"
    files = ["model.safetensors", "optimizer.safetensors", "state.json", "tokenizer.json", "MANIFEST.json"]
    for name in files:
        for path in checkpoints.glob("step-*"):
            (path / name).write_bytes(payload)
            if name != "MANIFEST.json":
                sign(path)
        told = cli("decode", own, "a cat")
        assert told.code == 1 and "Traceback" not in told.err
    (own / "events.jsonl").write_bytes(payload + b"\n" + payload)
    for volume in (own / "volumes").glob("*.volume"):
        volume.write_bytes(payload)
    (checkpoints / "best.json").write_bytes(payload)
    for words in (("export", own, "--what", "trained"), ("decode", own, "a cat", "--best"), ("train", "--resume", own)):
        assert "Traceback" not in cli(*words).err
    (own / "config.toml").write_bytes(payload)
    (own / "run.json").write_bytes(payload)
    assert cli("status", own).code == 1 and cli("decode", own, "a cat").code == 2
    assert not canary.exists()


@pytest.mark.parametrize(
    "text", ["__import__('os').system('touch {}')", "!!python/object/apply:os.system ['touch {}']", "$(touch {})"]
)
def test_code_in_settings_names_and_text_is_text(cli, trained, text, tmp_path):
    canary = tmp_path / "canary"
    code = text.format(canary)
    data = tmp_path / "data.txt"
    data.write_text(f"{code}\n{code} again\nmore\n")
    cli("plan", "--preset", "tiny", "--set", f"run.seed={code}")
    cli("plan", "--preset", code)
    cli("status", code, "--runs-dir", trained)
    assert cli("decode", "last", code, "--runs-dir", trained).code == 0
    assert cli("evaluate", "last", "--data", data, "--runs-dir", trained).code == 0
    assert not canary.exists()


# Paths


@pytest.mark.parametrize("name", ["../other/run", "..", ".", "/", "run/../../other/run/x", "", "run\0", "~", "*", "a/b"])
def test_a_name_leads_out_of_the_runs_folder_only_where_it_is_a_path_to_a_run(own, name):
    from monitors.runs import NoSuchRun, RunFolder

    other = shutil.copytree(own, own.parent.parent / "other" / "run")
    with pytest.raises((NoSuchRun, ValueError)):
        RunFolder.find(own.parent, name)
    assert RunFolder.find(own.parent, str(other)).path == other


def test_a_checkpoint_that_is_a_link_is_no_checkpoint_and_what_it_leads_to_is_left_alone(own, tmp_path):
    from lattice.training import checkpoint

    checkpoints = own / "checkpoints"
    ((step, real),) = checkpoint.steps(checkpoints)[:1]
    outside = Path(shutil.copytree(real, tmp_path / "outside"))
    (checkpoints / "step-99999999").symlink_to(outside)
    (checkpoints / ".tmp-step-00000007").symlink_to(outside)
    (checkpoints / ".old-step-00000008").symlink_to(outside)
    assert checkpoint.steps(checkpoints)[0][0] == step
    checkpoint.retire(checkpoints, 1)
    assert sorted(path.name for path in outside.iterdir()) == sorted(path.name for path in real.iterdir())
    assert not list(checkpoints.glob(".*-step-*"))


@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "MANIFEST.json"])
def test_a_link_or_a_pipe_in_the_place_of_a_checkpoints_file_is_refused_at_once(own, name):
    from lattice.training import checkpoint

    _, path = checkpoint.steps(own / "checkpoints")[0]
    for make in (lambda file: file.symlink_to("/dev/zero"), os.mkfifo):
        (path / name).unlink()
        make(path / name)
        with pytest.raises(checkpoint.CheckpointError, match="is not a plain file"):
            checkpoint.load(path)


@pytest.mark.parametrize("name", ["events.jsonl", "config.toml", "run.json", "run.lock"])
@pytest.mark.parametrize(
    "make", [os.mkfifo, lambda file: file.symlink_to("/dev/zero"), Path.mkdir], ids=["pipe", "device", "folder"]
)
def test_what_is_no_plain_file_of_a_run_is_refused_by_every_command_at_once(cli, own, name, make):
    (own / name).unlink()
    make(own / name)
    runs = ("--runs-dir", own.parent)
    refused = 0
    for words in (
        ("runs",),
        ("status", own.name),
        ("compare", own.name, own.name),
        ("export", own.name, "--what", "trained"),
        ("decode", own.name, "a cat"),
        ("fork", own.name, "--steps", 6),
        ("train", "--resume", own.name),
        ("control", own.name, "pause"),
    ):
        told = cli(*words, *runs)
        assert "Traceback" not in told.err
        refused += told.code != 0
    assert refused


@pytest.mark.parametrize("name, detach", [("events.jsonl", ()), ("run.lock", ()), ("engine.log", ("--detach",))])
def test_a_link_in_a_run_folder_leads_no_write_out_of_it(cli, own, tmp_path, name, detach):
    from monitors.runs import RunFolder

    folder, victim = RunFolder(own), tmp_path / "victim"
    folder.write_info(folder.read_info().model_copy(update={"state": "stopped"}))  # so that it is taken up again
    victim.write_text("mine\nand torn")
    (own / name).unlink(missing_ok=True)
    (own / name).symlink_to(victim)
    told = cli("train", "--resume", own.name, *detach, "--runs-dir", own.parent)
    assert told.code == 1 and "is not a plain file" in told.err and "Traceback" not in told.err
    assert victim.read_text() == "mine\nand torn"


@pytest.mark.parametrize("path", ["/dev/zero", "/proc/self/mem", "/"])
def test_devices_and_folders_are_no_config_and_no_data(cli, path, tmp_path):
    for told in (
        cli("plan", "--preset", "tiny", "--config", path),
        cli("train", "--preset", "tiny", "--data", path if path != "/" else "/dev", "--runs-dir", tmp_path / "runs"),
    ):
        assert told.code == 2 and told.err.startswith("lattice-tui: ") and told.err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_run_and_all_folders_in_it_are_the_owners_alone(trained):
    (run,) = (path for path in trained.iterdir() if path.is_dir())
    folders = [run, *(path for path in run.rglob("*") if path.is_dir())]
    assert len(folders) >= 4
    assert {path.stat().st_mode & 0o777 for path in folders} == {0o700}
    private = [run / "events.jsonl", run / "run.json", run / "run.lock"]
    assert {path.stat().st_mode & 0o777 for path in private} == {0o600}


# The terminal


def test_no_command_hands_the_terminal_what_it_would_obey(cli, own):
    evil = "\x1b]0;title\x07\x1b[2J\x9b31m\u202e"
    run = own.rename(own.with_name(f"evil{evil}"))
    from monitors.event_log import EventLog
    from monitors.events import Warned

    log = EventLog(run / "events.jsonl")
    log.append(Warned(step=9, message=evil))
    log.close()
    runs = run.parent
    for words in (
        ("runs",),
        ("status", run.name),
        ("decode", run.name, f"a cat{evil}"),
        ("compare", run.name, run.name),
        ("train", "--resume", run.name),
        ("evaluate", run.name, "--data", f"no{evil}"),
        ("fork", run.name, "--set", f"a{evil}=1"),
        ("control", run.name, "set", f"a={evil}"),
        ("screenshot", run.name, "--out", runs / "picture.svg"),
    ):
        told = cli(*words, "--runs-dir", runs)
        assert not ESCAPE.search(told.out) and not ESCAPE.search(told.err), words
        assert "Traceback" not in told.err, told.err
    picture = (runs / "picture.svg").read_text(encoding="utf-8")
    assert not ESCAPE.search(picture.replace("\t", ""))
