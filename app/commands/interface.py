"""The commands that open the terminal interface.  Textual is imported last, after the settings it reads once; torch never."""

from __future__ import annotations

import gc
import os
import re
import sys
from pathlib import Path

from app.exit_codes import ExitCode, Stop
from app.tui import environment
from monitors.runs import NoSuchRun, RunFolder, RunFolderError
from monitors.runs import runs_dir as place


def home(runs_dir: Path | None, fps: int | None, read_only: bool, plain: bool) -> None:
    """Raises Stop where there is no terminal."""
    _show(runs_dir, None, fps, read_only, plain)


def attach(run: str, runs_dir: Path | None, fps: int | None, read_only: bool, plain: bool) -> None:
    """Raises Stop where there is no such run, or no terminal."""
    _show(runs_dir, _find(run, runs_dir), fps, read_only, plain)


def screenshot(run: str | None, out: Path, size: str, runs_dir: Path | None) -> None:
    """Draws the run's screen as it stands now, or without a run the home screen; needs no terminal.  Raises Stop."""
    if not (match := re.fullmatch(r"([1-9]\d{1,2})x([1-9]\d{1,2})", size)):
        raise Stop(ExitCode.USAGE, f"--size: {size!r} is not of the form 160x50")
    folder = _find(run, runs_dir) if run is not None else None
    environment.prepare()
    os.environ["TEXTUAL_COLOR_SYSTEM"] = "truecolor"
    from app.tui.picture import svg

    try:
        out.write_text(svg(folder, place(runs_dir), (int(match[1]), int(match[2]))), encoding="utf-8")
    except OSError as error:
        raise Stop(ExitCode.FAILED, f"{out} can't be written: {error.strerror or error}") from error
    print(out)


def _show(runs_dir: Path | None, folder: RunFolder | None, fps: int | None, read_only: bool, plain: bool) -> None:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise Stop(
            ExitCode.USAGE,
            "this screen needs a terminal; `lattice-tui runs`, `status` and `train` work without one, --help lists all",
        )
    environment.prepare(fps)
    gc.disable()  # what is imported stays; collecting while it comes was a tenth of the time to the first frame
    from app.tui.app import run

    gc.freeze()
    gc.enable()
    code = run(place(runs_dir), folder, read_only, plain or None)
    if code:
        raise Stop(ExitCode.FAILED, "the screen ended with an error; the run is not affected")


def _find(run: str, runs_dir: Path | None) -> RunFolder:
    try:
        return RunFolder.find(place(runs_dir), run)
    except NoSuchRun as error:
        raise Stop(ExitCode.NO_SUCH_RUN, str(error)) from error
    except RunFolderError as error:
        raise Stop(ExitCode.FAILED, str(error)) from error
