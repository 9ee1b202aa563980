"""`attach`: shows the screen of a run."""

from __future__ import annotations

from app.finding import find_run
from app.options import Fps, Plain, ReadOnly, RunName, RunsDir


def attach(
    run: RunName = "last", runs_dir: RunsDir = None, fps: Fps = None, read_only: ReadOnly = False, plain: Plain = False
) -> None:
    """Shows the screen of a run until it is left.  Raises Stop if there is no such run, or no terminal."""
    from app.tui.start import show

    show(runs_dir, find_run(runs_dir, run), fps, read_only, plain)
