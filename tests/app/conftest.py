"""Fixtures that call the program, in this process or in one of its own, with small data and with runs written by hand."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest
import typer

PROGRAM = Path(sys.executable).with_name("lattice-tui")

DEADLINE_S = 120.0
"""Seconds to wait for a condition before a test fails."""


@dataclass(frozen=True)
class Told:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture(scope="session")
def cli() -> Callable[..., Told]:
    """`cli("plan", "--json")` runs the program's `main` in this process.  The environment is restored afterwards."""
    tree = functools.cache(typer.main.get_command)  # to build it anew takes nine tenths of the time of a short command

    def call(*arguments: object) -> Told:
        from app import cli as program

        out, err = io.StringIO(), io.StringIO()
        before, sys.argv = sys.argv, ["lattice-tui", *map(str, arguments)]
        try:
            with contextlib.ExitStack() as stack:
                stack.enter_context(mock.patch.dict(os.environ))
                stack.enter_context(mock.patch("typer.main.get_command", tree))
                stack.enter_context(contextlib.redirect_stdout(out))
                stack.enter_context(contextlib.redirect_stderr(err))
                try:
                    program.main()
                    code = 0
                except SystemExit as end:
                    code = int(end.code or 0)
        finally:
            sys.argv = before
        return Told(code, out.getvalue(), err.getvalue())

    return call


@pytest.fixture(scope="session")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text file of 300 sentences."""
    from lattice.data.grammar import generate

    path = tmp_path_factory.mktemp("data") / "sentences.txt"
    path.write_text("\n".join(generate(300, seed=2)) + "\n", encoding="utf-8")
    return path


class Process:
    """The program in a process of its own, whose output goes to files.  Leaving the `with` block kills it."""

    def __init__(self, place: Path, *arguments: object) -> None:
        environment = os.environ | {
            "XDG_STATE_HOME": str(place),
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "passive",
            "COLUMNS": "200",
        }
        self._files = place / f"out-{time.monotonic_ns()}", place / f"err-{time.monotonic_ns()}"
        with open(self._files[0], "wb") as out, open(self._files[1], "wb") as err:
            command = [str(PROGRAM), *map(str, arguments)]
            self.popen = subprocess.Popen(command, stdout=out, stderr=err, stdin=subprocess.DEVNULL, env=environment, cwd=place)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
            self.popen.wait(DEADLINE_S)

    def wait(self) -> Told:
        """Waits until the process ends.  Returns its exit code and its output."""
        code = self.popen.wait(DEADLINE_S)
        out, err = (path.read_text(encoding="utf-8") for path in self._files)
        return Told(code, out, err)

    def until(self, condition: Callable[[], object]):
        """Waits until the condition is true, and returns its value.  Fails if the process ends first, or takes too long."""
        end = time.monotonic() + DEADLINE_S
        while not (found := condition()):
            if self.popen.poll() is not None:
                found = condition()
                assert found, f"ended with {self.popen.returncode} before that: {self._files[1].read_text()}"
                return found
            assert time.monotonic() < end, "took too long"
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(0.01)
        return found


@pytest.fixture(scope="session")
def process() -> type[Process]:
    """`with process(folder, "train", ...) as run:` is the program in a process of its own, state and output in the folder."""
    return Process


class Written:
    """A run folder that is written by hand as an engine leaves it.  The test says which events its log has."""

    def __init__(self, runs: Path, name: str, settings: tuple[str, ...], events: list, **info: object) -> None:
        from monitors.event_log import EventLog
        from monitors.runs import RunFolder, RunInfo
        from presets.layers import load, to_toml

        self.path = runs / name
        self.path.mkdir(parents=True)
        folder = RunFolder(self.path)
        folder.config_toml.write_text(to_toml(load("tiny", None, settings).config), encoding="utf-8")
        clock = iter(range(1_700_000_000, 1_800_000_000))
        with contextlib.closing(EventLog(folder.events_jsonl, lambda: float(next(clock)))) as log:
            for event in events:
                log.append(event)
        fields = {"preset": "tiny", "created": 1_700_000_000.0, "version": "0", "state": "finished", "exit_code": 0} | info
        folder.write_info(RunInfo.of_this_process(run=name, **fields))


@pytest.fixture(scope="session")
def written() -> type[Written]:
    """`written(runs, name, settings, events, step=...)` makes a finished run's folder without training."""
    return Written
