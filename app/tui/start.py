"""Opens the terminal interface.  Textual is imported last, after the settings that it reads once; torch never."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

from app.exit_codes import ExitCode, Stop
from app.tui import environment
from monitors.runs import RunFolder
from monitors.runs import runs_dir as place


def show(runs_dir: Path | None, folder: RunFolder | None, fps: int | None, read_only: bool, plain: bool) -> None:
    """The screen of a run, or without one the home screen, until it is left.  Raises Stop if there is no terminal."""
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
    if code > 128:  # a signal has ended it, as such a program reports it
        sys.exit(code)
    if code:
        raise Stop(ExitCode.FAILED, "the screen ended with an error; the run is not affected")
