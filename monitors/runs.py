"""Run folders: where they are, what is in one, which process trains in it, and the state of the run.

    RUN/  run.json  config.toml  events.jsonl  engine.log  checkpoints/  volumes/  run.lock  control.sock

The process that trains holds `run.lock` and rewrites `run.json` from time to time.  All others only read.  A killed run can't
write that it was killed, so `state_of` checks whether the process that `run.json` names still exists.  A copied folder has the
`run.json` of the original, so it also checks whether that process trains in this very folder.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import fcntl
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import psutil
from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError

from monitors.fields import ONLY_KEYS_CACHED, Measured, Text
from monitors.places import NoHome, state_folder
from monitors.plain_files import atomic_write, open_descriptor, open_plain, remove_torn
from monitors.process_start import is_alive, start_of
from presets.measure import Measure

STALE_AFTER_S = 600.0
"""Seconds without a write after which a run on another host counts as lost, since its process can't be looked up from here."""


class RunFolderError(Exception):
    """Something is wrong with a run folder; the message says what, in one sentence for the operator."""


class NoSuchRun(RunFolderError):
    """No run has that name, or several may be meant."""


class RunInfo(BaseModel):
    """The content of `run.json`.

    `created` and `pid_started` (psutil's create_time) are in unix seconds, `cpu_s` is in seconds of all threads together.
    `pid_start` says when the process started by what no clock moves (monitors.process_start), and `folder` in which folder it
    trains (RunFolder.identity); both are "" in runs of earlier versions.
    `stage` is an index, `step` the global optimizer step.  `exit_code` is None until the process ends.  `measure` says which
    of `bleu` (0..100) and `exact` (0..1) the run is judged by.
    """

    model_config = ConfigDict(extra="ignore", frozen=True) | ONLY_KEYS_CACHED

    format: Literal[1] = 1
    run: Text
    preset: Text
    created: FiniteFloat
    host: Text
    pid: int
    pid_started: FiniteFloat
    pid_start: Text = ""
    folder: Text = ""
    version: Text
    state: Literal["starting", "running", "paused", "finished", "failed", "stopped"] = "starting"
    stage: int = 0
    step: int = 0
    bleu: Measured = None
    exact: Measured = None
    measure: Measure = "bleu"
    loss: Measured = None
    elapsed_s: FiniteFloat = 0.0
    cpu_s: FiniteFloat = 0.0
    saving_s: FiniteFloat = 0.0
    peak_bytes: int = 0
    exit_code: int | None = None
    reason: Text = ""
    parent: Text = ""
    """The run and step that this run was forked from, as `RUN@STEP`."""

    socket: Text | None = None

    @classmethod
    def of_this_process(cls, **fields: Any) -> RunInfo:
        """Information on a run of this process: fills in host, pid and its start as `state_of` looks them up."""
        pid, started = os.getpid(), psutil.Process().create_time()
        return cls(host=os.uname().nodename, pid=pid, pid_started=started, pid_start=start_of(pid), **fields)

    def process_is_alive(self) -> bool:
        """True if the process that wrote this is still there.  Only for processes of this host."""
        return is_alive(self.pid, self.pid_start, self.pid_started)


class RunFolder:
    """The paths in one run's folder, its `run.json` and its lock."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        return self.path.name

    def moved_to(self, path: Path) -> None:
        """Takes the path that the folder has now.  Only for the process that trains in it (monitors.held_folder)."""
        self.path = path

    def identity(self) -> str:
        """What tells this folder from every copy of it, and stays if it is renamed.  Raises OSError if it is gone."""
        return identity_of(self.path.stat())

    @property
    def run_json(self) -> Path:
        return self.path / "run.json"

    @property
    def config_toml(self) -> Path:
        return self.path / "config.toml"

    @property
    def events_jsonl(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def engine_log(self) -> Path:
        return self.path / "engine.log"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def volumes(self) -> Path:
        return self.path / "volumes"

    @property
    def control_sock(self) -> Path:
        return self.path / "control.sock"

    @property
    def run_lock(self) -> Path:
        return self.path / "run.lock"

    @classmethod
    def create(cls, runs_dir: Path, preset: str, now: float) -> RunFolder:
        """Creates a folder such as `20261122-051530-baseline`, in local time; if the name is taken, `-2` and so on is added.

        The folder and missing parents get mode 0700.  Raises RunFolderError that says why it can't be created.
        """
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", preset):
            raise RunFolderError(f"a run can't be named after preset {preset!r}; use letters, digits, '-' and '_'")
        name = f"{time.strftime('%Y%m%d-%H%M%S', time.localtime(now))}-{preset}"
        try:
            for parent in (*reversed(runs_dir.parents), runs_dir):
                if not parent.exists():
                    parent.mkdir(mode=0o700, exist_ok=True)
            taken = 1
            while True:
                path = runs_dir / (name if taken == 1 else f"{name}-{taken}")
                try:
                    path.mkdir(mode=0o700)
                    return cls(path)
                except FileExistsError:
                    taken += 1
        except OSError as error:
            told = f"can't make a run folder in {runs_dir}: {why(error)}; name another place with --runs-dir"
            raise RunFolderError(told) from error

    @classmethod
    def find(cls, runs_dir: Path, name_or_path: str) -> RunFolder:
        """Finds a run by its exact name, as `last` (the newest), by a path, or by a prefix of one name only, in this order.

        A name never leads out of `runs_dir`; a path means what it means in the shell.  Raises NoSuchRun that names similar
        runs.
        """
        names = [path.name for path in _run_paths(runs_dir)]
        if name_or_path in names:
            return cls(runs_dir / name_or_path)
        if name_or_path == "last" and (rows := list_runs(runs_dir)):
            return cls(Path(rows[0]["path"]))
        if name_or_path and os.path.isfile(os.path.join(name_or_path, "run.json")):
            return cls(Path(name_or_path).resolve())
        matches = [name for name in names if name_or_path and name.startswith(name_or_path)]
        if len(matches) == 1:
            return cls(runs_dir / matches[0])
        if matches:
            raise NoSuchRun(f"no such run {name_or_path!r}: it could be {_listed(matches)}; give more of the name")
        if not names:
            raise NoSuchRun(f"no such run {name_or_path!r}: there are no runs in {runs_dir}")
        nearest = difflib.get_close_matches(name_or_path, names, n=3, cutoff=0.4) or sorted(names, reverse=True)[:3]
        raise NoSuchRun(f"no such run {name_or_path!r} in {runs_dir}; the nearest: {_listed(nearest)}")

    def write_info(self, info: RunInfo) -> None:
        """Replaces `run.json` as a whole, mode 0600.  Raises OSError."""
        atomic_write(self.run_json, info.model_dump_json(indent=1) + "\n")

    def read_info(self) -> RunInfo:
        """Reads `run.json`.  Raises RunFolderError if it is missing or can't be understood."""
        try:
            with open_plain(self.run_json) as stream:
                return RunInfo.model_validate_json(stream.read())
        except OSError as error:
            raise RunFolderError(f"{self.run_json} can't be read: {why(error)}") from error
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "file"
            raise RunFolderError(f"{self.run_json} is damaged or of another version: {where}: {first['msg']}") from error

    def read_config(self) -> str:
        """The text of `config.toml`.  Raises OSError and UnicodeDecodeError."""
        with open_plain(self.config_toml) as stream:
            return stream.read().decode("utf-8")

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the run for training, until the process ends at the latest.  Raises RunFolderError if another process holds it.

        Files that an earlier holder left half written are removed.
        """
        try:
            descriptor = open_descriptor(self.run_lock, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise RunFolderError(f"{self.run_lock} can't be opened: {why(error)}") from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(descriptor, 32, 0).decode("ascii", errors="replace").strip()
                raise RunFolderError(f"run {self.name} is already being trained by process {holder or 'unknown'}") from None
            except OSError as error:
                raise RunFolderError(f"{self.run_lock} can't be locked: {why(error)}") from error
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            remove_torn(self.path)
            yield
        finally:
            os.close(descriptor)  # frees the lock; the file stays, for removing it would let two processes lock two files


def runs_dir(explicit: Path | None) -> Path:
    """The folder of all runs: `explicit`, or `$XDG_STATE_HOME/lattice-tui/runs`, or `~/.local/state/lattice-tui/runs`.

    Raises NoHome if nothing says where that is.
    """
    if explicit is not None:
        return explicit
    state = state_folder()
    if state is None:
        told = "has no home folder to keep runs in; name a place with --runs-dir, or set HOME or XDG_STATE_HOME"
        raise NoHome(f"user {os.getuid()} {told}")
    return state / "runs"


def identity_of(status: os.stat_result) -> str:
    """Device and inode of a file or folder as text."""
    return f"{status.st_dev}:{status.st_ino}"


def state_of(folder: RunFolder) -> str:
    """The state of a run: starting | running | paused | finished | failed | crashed | copied | stale.

    A run that was stopped on request is `finished`, since its checkpoint is saved.  A run is `crashed` if its process no
    longer exists on this host, or if the pid belongs to another process by now.  It is `copied` if that process is alive, but
    trains in another folder, from which this one was copied.  It is `stale` if it was last seen on another host, too long ago.
    Raises RunFolderError as `read_info` does.
    """
    return _state(folder, folder.read_info())


def list_runs(runs_dir: Path) -> list[dict[str, Any]]:
    """One row {run, path, state, preset, stage, step, ...} per run, newest first, without `damaged_runs`."""
    rows = []
    for path in _run_paths(runs_dir):
        try:
            info = RunFolder(path).read_info()
            state = _state(RunFolder(path), info)
        except RunFolderError:
            continue
        names = ("preset", "stage", "step", "measure", "bleu", "exact", "created")
        rows.append({"run": path.name, "path": str(path), "state": state} | {name: getattr(info, name) for name in names})
    return sorted(rows, key=lambda row: (row["created"], row["run"]), reverse=True)


def damaged_runs(runs_dir: Path) -> list[tuple[Path, str]]:
    """Folders whose `run.json` can't be understood, in order of name, each with the reason."""
    found = []
    for path in sorted(_run_paths(runs_dir)):
        try:
            RunFolder(path).read_info()
        except RunFolderError as error:
            found.append((path, str(error)))
    return found


def _run_paths(runs_dir: Path) -> list[Path]:
    """The folders that have a `run.json`; none if `runs_dir` does not exist yet."""
    try:
        return [path for path in runs_dir.iterdir() if os.path.isfile(path / "run.json")]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunFolderError(f"can't list the runs in {runs_dir}: {why(error)}") from error


def _state(folder: RunFolder, info: RunInfo) -> str:
    if info.state == "stopped":
        return "finished"
    if info.state in ("finished", "failed"):
        return info.state
    if info.host != os.uname().nodename:
        return "stale" if time.time() - _last_touched(folder) > STALE_AFTER_S else info.state
    if not info.process_is_alive():
        return "crashed"
    return "copied" if _is_copy(folder, info) else info.state


def _is_copy(folder: RunFolder, info: RunInfo) -> bool:
    with contextlib.suppress(OSError):
        return info.folder not in ("", folder.identity())
    return False


def _last_touched(folder: RunFolder) -> float:
    """Unix seconds of the last write to `run.json` or the event log."""
    times = [0.0]
    for path in (folder.run_json, folder.events_jsonl):
        with contextlib.suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(times)


def _listed(names: list[str]) -> str:
    shown = ", ".join(sorted(names)[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown


def why(error: Exception) -> str:
    """The reason of an error in words; for system calls without error number and file name."""
    if not isinstance(error, OSError):
        return str(error)
    reasons = {errno.EACCES: "no permission", errno.EPERM: "no permission", errno.EROFS: "the file system is read-only"}
    reasons |= {errno.ENOSPC: "no space left on the device", errno.EDQUOT: "the disk quota is used up"}
    return reasons.get(error.errno or 0) or (error.strerror or str(error)).lower()
