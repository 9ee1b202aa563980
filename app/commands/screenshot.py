"""`screenshot`: draws a screen as a picture, without a terminal."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

import typer

from app.exit_codes import ExitCode, Stop
from app.finding import find_run
from app.new_files import check_file
from app.options import RunName, RunsDir
from monitors.runs import runs_dir as place


def screenshot(
    run: RunName = "last",
    out: Annotated[Path, typer.Option("--out", help="The picture, an SVG file.")] = Path("lattice-tui.svg"),
    size: Annotated[str, typer.Option("--size", help="Columns x rows.")] = "160x50",
    home: Annotated[bool, typer.Option("--home", help="The home screen instead of a run's.")] = False,
    runs_dir: RunsDir = None,
) -> None:
    """Writes the picture and prints its path.

    Raises Stop if `size` is wrong, if there is no such run, or if the picture can't be written.
    """
    if not (match := re.fullmatch(r"([1-9]\d{1,2})x([1-9]\d{1,2})", size)):
        raise Stop(ExitCode.USAGE, f"--size: {size!r} is not of the form 160x50")
    check_file("--out", out)
    folder = None if home else find_run(runs_dir, run)
    from app.tui import environment

    environment.prepare()
    os.environ["TEXTUAL_COLOR_SYSTEM"] = "truecolor"
    from app.tui.picture import svg

    try:
        out.write_text(svg(folder, place(runs_dir), (int(match[1]), int(match[2]))), encoding="utf-8")
    except OSError as error:
        raise Stop(ExitCode.FAILED, f"{out} can't be written: {error.strerror or error}") from error
    print(out)
