"""The real processes that `bench tui` measures: the program in a terminal, and the engines of its runs.

However the bench ends, its engines are killed and the folder with its runs is removed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from app import child
from app.exit_codes import ExitCode, Stop
from app.terminal import Terminal
from monitors.runs import RunFolder, list_runs

COLUMNS, ROWS = 160, 50
"""Size of every terminal."""

PROGRAM = tuple(child.command("app.cli"))


@contextlib.contextmanager
def runs_folder() -> Iterator[Path]:
    """A folder for runs.  At the end the engines of its runs are killed and it is removed."""
    with tempfile.TemporaryDirectory(prefix="lattice-tui-bench-", ignore_cleanup_errors=True) as folder:
        try:
            yield Path(folder)
        finally:
            end_engines(Path(folder))


def end_engines(runs_dir: Path) -> None:
    """Kills the engine of every run in the folder, and waits for its end."""
    for row in list_runs(runs_dir):
        info = RunFolder(Path(row["path"])).read_info()
        if info.pid == os.getpid():
            continue
        with contextlib.suppress(psutil.NoSuchProcess):
            engine = psutil.Process(info.pid)
            if info.process_is_alive():
                engine.kill()
                psutil.wait_procs([engine], timeout=10.0)


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Ctrl-C, an ended terminal and SIGTERM raise Stop, so that everything is cleaned up on the way out."""

    def end(number: int, _frame: object) -> None:
        code = ExitCode.INTERRUPTED if number == signal.SIGINT else ExitCode.TERMINATED
        raise Stop(code, "bench ended by a signal; nothing of it is left")

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def environment() -> dict[str, str]:
    """The environment of a log-in over SSH, without variables that change the screen's defaults."""
    kept = {
        name: value
        for name, value in child.environment().items()
        if not name.startswith(("TEXTUAL", "LATTICE_TUI", "NO_COLOR"))
    }
    return kept | {
        "TERM": "xterm-256color",
        "COLORTERM": "truecolor",
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
    }


def terminal(*arguments: str) -> Terminal:
    """Starts the program in a terminal of its own."""
    return Terminal([*PROGRAM, *arguments], COLUMNS, ROWS, environment())


@contextlib.contextmanager
def attached(folder: RunFolder, shown: str = r"loss \d") -> Iterator[Terminal]:
    """A screen attached to the run, once it shows the regular expression `shown`.  At the end its own keys close it."""
    with terminal("attach", str(folder.path)) as screen:
        screen.until(shown)
        yield screen
        screen.press(b"q")
        screen.press(b"d")
        screen.ended()
