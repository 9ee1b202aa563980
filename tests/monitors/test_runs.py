"""Run folders: made privately, found by name, held by one process, and honest about a process that is gone."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from monitors import runs
from monitors.plain_files import atomic_write
from monitors.process_start import start_of
from monitors.runs import NoSuchRun, RunFolder, RunFolderError, RunInfo, list_runs, state_of

ROOT = Path(__file__).resolve().parents[2]
NOW = 1795324530.0  # 2026-11-22 05:15:30 UTC
NAME = "20261122-051530-baseline"


@pytest.fixture(autouse=True)
def utc(monkeypatch):
    with monkeypatch.context() as zone:
        zone.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


def info(**fields) -> RunInfo:
    made = RunInfo.of_this_process(run=NAME, preset="baseline", created=NOW, version="0.1", state="running")
    return RunInfo.model_validate(made.model_dump() | fields)


def make(runs_dir: Path, name: str, **fields) -> RunFolder:
    folder = RunFolder(runs_dir / name)
    folder.path.mkdir(parents=True)
    folder.write_info(info(run=name, **fields))
    return folder


# Where runs live


def test_an_explicit_runs_dir_wins(monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert runs.runs_dir(Path("here")) == Path("here")


def test_the_state_home_is_used_when_it_is_set(monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert runs.runs_dir(None) == Path("/state/lattice-tui/runs")


@pytest.mark.parametrize("value", [None, "", "relative/state"])
def test_without_a_usable_state_home_runs_live_below_the_home_folder(monkeypatch, value):
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    if value is not None:
        monkeypatch.setenv("XDG_STATE_HOME", value)
    assert runs.runs_dir(None) == Path("/home/someone/.local/state/lattice-tui/runs")


# Making a folder


def test_a_new_folder_is_named_by_time_and_preset_and_private_with_its_parents(tmp_path):
    folder = RunFolder.create(tmp_path / "state" / "runs", "baseline", NOW)
    assert folder.path == tmp_path / "state" / "runs" / NAME
    assert folder.name == NAME
    modes = [path.stat().st_mode & 0o777 for path in (folder.path, tmp_path / "state" / "runs", tmp_path / "state")]
    assert modes == [0o700] * 3


def test_a_parent_that_was_there_keeps_its_mode(tmp_path):
    tmp_path.chmod(0o755)
    RunFolder.create(tmp_path / "runs", "baseline", NOW)
    assert tmp_path.stat().st_mode & 0o777 == 0o755


def test_names_that_are_taken_get_a_number(tmp_path):
    names = [RunFolder.create(tmp_path, "baseline", NOW).name for _ in range(3)]
    assert names == [NAME, f"{NAME}-2", f"{NAME}-3"]


def test_the_paths_of_a_folder_are_those_of_the_design(tmp_path):
    folder = RunFolder(tmp_path)
    paths = [folder.run_json, folder.config_toml, folder.events_jsonl, folder.engine_log, folder.checkpoints, folder.run_lock]
    assert [path.name for path in paths] == ["run.json", "config.toml", "events.jsonl", "engine.log", "checkpoints", "run.lock"]
    assert {path.parent for path in paths} == {tmp_path}


def test_a_runs_dir_below_a_regular_file_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=r"can't make a run folder in .*file/runs: not a directory; .*--runs-dir"):
        RunFolder.create(tmp_path / "file" / "runs", "baseline", NOW)


@pytest.mark.parametrize(
    ("number", "said"), [(errno.EACCES, "no permission"), (errno.EROFS, "read-only"), (errno.ENOSPC, "no space left")]
)
def test_a_folder_that_cannot_be_made_says_why(tmp_path, monkeypatch, number, said):
    def refuse(self, *args, **kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(RunFolderError, match=said):
        RunFolder.create(tmp_path, "baseline", NOW)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_runs_dir_says_no_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(RunFolderError, match="no permission"):
        RunFolder.create(tmp_path, "baseline", NOW)


@pytest.mark.parametrize("preset", ["", "../up", "a/b", ".hidden", "two words"])
def test_a_preset_that_would_make_an_odd_folder_name_is_refused(tmp_path, preset):
    with pytest.raises(RunFolderError, match="can't be named after"):
        RunFolder.create(tmp_path, preset, NOW)
    assert list(tmp_path.iterdir()) == []


# Finding a run


@pytest.fixture
def three(tmp_path):
    """Runs a, ab and c, of which ab is the newest."""
    folder = tmp_path / "runs"
    for name, created in (("20260101-a", 1.0), ("20260101-ab", 3.0), ("20260202-c", 2.0)):
        make(folder, name, created=created)
    return folder


@pytest.mark.parametrize(
    ("wanted", "found"),
    [("20260101-a", "20260101-a"), ("20260101-ab", "20260101-ab"), ("202602", "20260202-c"), ("last", "20260101-ab")],
)
def test_runs_are_found_by_exact_name_unique_prefix_or_last(three, wanted, found):
    assert RunFolder.find(three, wanted).path == three / found


def test_a_run_elsewhere_is_found_by_its_path(three, tmp_path, monkeypatch):
    make(tmp_path / "elsewhere", "mine")
    assert RunFolder.find(three, str(tmp_path / "elsewhere" / "mine")).path == tmp_path / "elsewhere" / "mine"
    monkeypatch.chdir(three)
    assert RunFolder.find(three, "../elsewhere/mine").path == tmp_path / "elsewhere" / "mine"


def test_an_ambiguous_prefix_names_the_runs_it_could_be(three):
    with pytest.raises(NoSuchRun, match="20260101-a, 20260101-ab; give more"):
        RunFolder.find(three, "20260101")


def test_an_unknown_name_names_the_nearest_run(three):
    with pytest.raises(NoSuchRun, match=r"no such run '20260202-d' .* nearest: .*20260202-c"):
        RunFolder.find(three, "20260202-d")


def test_in_an_empty_place_there_are_no_runs(tmp_path):
    for wanted in ("last", "x"):
        with pytest.raises(NoSuchRun, match="there are no runs in"):
            RunFolder.find(tmp_path / "absent", wanted)


TRICKS = ["../outside", "20260101-a/../../outside", "20260101-a/..", "..", ".", "", "/", "a\0b", "x" * 5000]


@pytest.mark.parametrize("trick", TRICKS, ids=range(len(TRICKS)))
def test_a_name_never_leads_out_of_the_runs_dir(three, tmp_path, monkeypatch, trick):
    make(tmp_path, "outside")  # what `../outside` would be, taken from the runs dir
    deep = tmp_path / "deep" / "er"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)  # from here none of these is a path to a run folder
    with pytest.raises(NoSuchRun, match="no such run"):
        RunFolder.find(three, trick)


def test_a_folder_without_run_json_is_no_run(three):
    (three / "20260303-empty").mkdir()
    with pytest.raises(NoSuchRun):
        RunFolder.find(three, "20260303-empty")


# run.json


def test_run_json_is_read_back_equal_and_is_the_owners_alone(tmp_path):
    folder = RunFolder(tmp_path)
    written = info(loss=1.25, step=7, socket="/run/x.sock", reason="ä")
    folder.write_info(written)
    assert folder.read_info() == written
    assert folder.run_json.stat().st_mode & 0o777 == 0o600
    assert json.loads(folder.run_json.read_text())["format"] == 1


def test_run_json_names_this_process():
    made = info()
    assert (made.host, made.pid) == (os.uname().nodename, os.getpid())
    assert made.pid_started == pytest.approx(psutil.Process().create_time())


def test_a_loss_that_is_not_a_number_is_null_in_run_json(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_info(info(loss=float("nan")))
    assert json.loads(folder.run_json.read_text())["loss"] is None
    assert folder.read_info().loss is None


def test_a_missing_run_json_is_an_error_naming_the_file(tmp_path):
    with pytest.raises(RunFolderError, match=r"run\.json can't be read: no such file"):
        RunFolder(tmp_path).read_info()


@pytest.mark.parametrize(("text", "said"), [("{", "JSON"), ("[]", "file"), ("{}", "run: Field required"), ("\x00\x01", "JSON")])
def test_a_damaged_run_json_is_an_error_saying_what_is_wrong(tmp_path, text, said):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(RunFolderError, match=f"damaged or of another version: .*{said}"):
        RunFolder(tmp_path).read_info()


def test_another_format_is_refused_and_an_added_key_is_not(tmp_path):
    record = json.loads(info().model_dump_json())
    folder = RunFolder(tmp_path)
    folder.run_json.write_text(json.dumps(record | {"added": 1}))
    assert folder.read_info().run == NAME
    folder.run_json.write_text(json.dumps(record | {"format": 2}))
    with pytest.raises(RunFolderError, match="another version: format"):
        folder.read_info()


# State


@pytest.mark.parametrize("state", ["starting", "running", "paused"])
def test_a_live_process_is_in_the_state_it_says(tmp_path, state):
    assert state_of(make(tmp_path, "a", state=state)) == state


@pytest.mark.parametrize(("state", "shown"), [("finished", "finished"), ("failed", "failed"), ("stopped", "finished")])
def test_a_run_that_ended_in_order_stays_what_it_was_though_its_process_is_gone(tmp_path, state, shown):
    assert state_of(make(tmp_path, "a", state=state, **dead())) == shown


@pytest.mark.parametrize("state", ["starting", "running", "paused"])
def test_a_run_whose_process_is_gone_has_crashed(tmp_path, state):
    assert state_of(make(tmp_path, "a", state=state, **dead())) == "crashed"


def test_a_run_whose_pid_belongs_to_another_process_by_now_has_crashed(tmp_path):
    boot, _, ticks = start_of(os.getpid()).partition(":")
    assert state_of(make(tmp_path, "a", pid_start=f"{boot}:{int(ticks) - 1}")) == "crashed"
    assert state_of(make(tmp_path, "b", pid_start=f"{boot[:-1]}x:{ticks}")) == "crashed"  # the machine was started anew


def test_a_run_of_an_earlier_version_is_told_by_the_time_at_which_its_process_started(tmp_path):
    started = psutil.Process().create_time()
    assert state_of(make(tmp_path, "a", pid_start="")) == "running"
    assert state_of(make(tmp_path, "b", pid_start="", pid_started=started - 60)) == "crashed"


@pytest.mark.parametrize("shift", [-3600.0, -5.0, 5.0, 3600.0])
def test_a_clock_that_is_set_does_not_make_a_live_run_crashed(tmp_path, monkeypatch, shift):
    folder, create_time = make(tmp_path, "a"), psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: create_time(process) + shift)
    assert state_of(folder) == "running"


def test_a_copy_of_a_live_runs_folder_is_copied_and_a_renamed_folder_is_not(tmp_path):
    folder = make(tmp_path, "a")
    folder.write_info(info(run="a", folder=folder.identity()))
    shutil.copytree(folder.path, tmp_path / "b")
    assert (state_of(folder), state_of(RunFolder(tmp_path / "b"))) == ("running", "copied")
    folder.path.rename(tmp_path / "c")
    assert state_of(RunFolder(tmp_path / "c")) == "running"


@pytest.mark.parametrize("state", ["finished", "failed"])
def test_a_copy_of_a_run_that_has_ended_is_what_the_run_is(tmp_path, state):
    folder = make(tmp_path, "a", state=state, folder="1:1")
    assert state_of(folder) == state


def test_a_run_whose_process_was_killed_but_not_yet_reaped_has_crashed(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        process = psutil.Process(child.pid)
        folder = make(tmp_path, "a", pid=child.pid, pid_start=start_of(child.pid))
        assert state_of(folder) == "running"
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and left a zombie
        assert process.status() == psutil.STATUS_ZOMBIE
        assert state_of(folder) == "crashed"
    finally:
        child.kill()
        child.communicate()


@pytest.mark.parametrize("pid", [-1, 2**80])
def test_a_pid_that_no_system_gives_has_crashed(tmp_path, pid):
    assert state_of(make(tmp_path, "a", pid=pid)) == "crashed"


def test_a_run_of_another_host_is_believed_until_it_was_silent_too_long(tmp_path):
    folder = make(tmp_path, "a", host="elsewhere", pid_started=0.0)
    assert state_of(folder) == "running"
    long_ago = time.time() - runs.STALE_AFTER_S - 60
    os.utime(folder.run_json, (long_ago, long_ago))
    assert state_of(folder) == "stale"
    folder.events_jsonl.touch()
    assert state_of(folder) == "running"


def test_the_state_of_an_unreadable_folder_is_an_error(tmp_path):
    with pytest.raises(RunFolderError):
        state_of(RunFolder(tmp_path))


def dead() -> dict[str, object]:
    """pid and start time of a process that has ended and was reaped."""
    child = subprocess.Popen(["true"])
    start = start_of(child.pid)
    child.wait()
    return {"pid": child.pid, "pid_start": start}


# The list


def test_rows_have_the_keys_of_the_contract_newest_first(three):
    rows = list_runs(three)
    assert [row["run"] for row in rows] == ["20260101-ab", "20260202-c", "20260101-a"]
    assert list(rows[0]) == ["run", "path", "state", "preset", "stage", "step", "measure", "bleu", "exact", "created"]
    assert rows[0]["path"] == str(three / "20260101-ab")
    assert rows[0]["state"] == "running"
    assert json.loads(json.dumps(rows)) == rows


def test_unreadable_folders_are_left_out_of_the_list(three):
    (three / "20260202-c" / "run.json").write_text("{")
    (three / "empty").mkdir()
    (three / "file").write_text("")
    assert [row["run"] for row in list_runs(three)] == ["20260101-ab", "20260101-a"]


def test_a_place_that_does_not_exist_yet_has_no_runs(tmp_path):
    assert list_runs(tmp_path / "absent") == []


def test_a_place_that_is_no_folder_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="can't list the runs"):
        list_runs(tmp_path / "file")


# The lock


def test_a_second_holder_is_refused_with_the_pid_of_the_first(tmp_path):
    folder = RunFolder(tmp_path)
    code = f"""
import sys
from pathlib import Path
from monitors.runs import RunFolder
with RunFolder(Path({str(tmp_path)!r})).lock():
    print("held", flush=True)
    sys.stdin.read()
"""
    holder = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        refused = rf"run {tmp_path.name} is already being trained by process {holder.pid}$"
        with pytest.raises(RunFolderError, match=refused), folder.lock():
            pytest.fail("two processes held the lock")
        holder.kill()
        holder.wait()
        with folder.lock():  # a killed holder leaves nothing behind
            assert folder.run_lock.read_text() == f"{os.getpid()}\n"
    finally:
        holder.kill()
        holder.communicate()


def test_a_lock_is_held_within_one_process_too_and_freed_at_the_end(tmp_path):
    folder = RunFolder(tmp_path)
    with folder.lock(), pytest.raises(RunFolderError, match=f"process {os.getpid()}"), folder.lock():
        pytest.fail("held twice")
    with folder.lock():
        pass


def test_a_new_holder_replaces_a_longer_pid_of_an_earlier_one(tmp_path):
    folder = RunFolder(tmp_path)
    folder.run_lock.write_text("12345678901234\n")
    with folder.lock():
        assert folder.run_lock.read_text() == f"{os.getpid()}\n"


def test_a_lock_is_freed_when_training_raises(tmp_path):
    folder = RunFolder(tmp_path)
    with pytest.raises(ZeroDivisionError), folder.lock():
        raise ZeroDivisionError
    with folder.lock():
        pass


def test_a_lock_in_a_folder_that_is_gone_is_an_error(tmp_path):
    with pytest.raises(RunFolderError, match=r"run\.lock can't be opened: no such file"), RunFolder(tmp_path / "gone").lock():
        pytest.fail("locked nothing")


# Atomic writing


def test_atomic_write_replaces_text_and_bytes_with_the_mode_asked_for(tmp_path):
    path = tmp_path / "file"
    atomic_write(path, "größer")
    assert path.read_bytes() == "größer".encode()
    assert path.stat().st_mode & 0o777 == 0o600
    atomic_write(path, b"\x00\xff", mode=0o640)
    assert path.read_bytes() == b"\x00\xff"
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["fchmod", "fsync", "replace"])
def test_atomic_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, step):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(*_args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken, pytest.raises(OSError, match="No space"):
        broken.setattr(os, step, fail)
        atomic_write(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_write_syncs_the_content_before_the_rename_and_the_folder_after(tmp_path, monkeypatch):
    done = []
    replace = os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: done.append("folder" if os.path.isdir(f"/proc/self/fd/{fd}") else "file"))
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append("rename"), replace(*paths)))
    atomic_write(tmp_path / "file", "new")
    assert done == ["file", "rename", "folder"]
    done.clear()
    atomic_write(tmp_path / "file", "newer", sync=False)
    assert done == ["rename"]


def test_atomic_write_accepts_a_file_system_that_cannot_sync_folders(tmp_path, monkeypatch):
    sync = os.fsync

    def only_files(fd):
        if os.path.isdir(f"/proc/self/fd/{fd}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(fd)

    monkeypatch.setattr(os, "fsync", only_files)
    atomic_write(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "new"
