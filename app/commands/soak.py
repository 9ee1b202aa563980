"""`soak`: trains under load and looks for leaks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.options import AsJson, Assignments, Preset


def soak(
    hours: Annotated[float, typer.Option("--hours", min=0.001, help="How long; 0.17 is ten minutes, 24 a day.")],
    preset: Preset = "baseline",
    assignments: Assignments = [],
    chaos: Annotated[
        bool, typer.Option("--chaos", help="Viewers come and go; commands edit, pause, prune, save; some send nonsense.")
    ] = False,
    out: Annotated[Path, typer.Option("--out", help="Folder for soak.json and soak.png.")] = Path("soak"),
    trace: Annotated[
        bool, typer.Option("--trace", help="Trace Python's allocations from the start: slower, names suspects sooner.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Runs the soak and prints its verdict.  Raises Stop if the verdict's exit code is not 0."""
    from app.soak import soaking

    soaking.run(hours, preset, assignments, chaos, out, trace, as_json)
