"""`evaluate`: scores the model of a run on a text file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.options import AsJson, Best, Control, Device, RunName, RunsDir


def evaluate(
    run: RunName,
    data: Annotated[Path, typer.Option("--data", help="Text to score on; or task:NAME, for the test side of that task.")],
    control: Control = "none",
    best: Best = False,
    device: Device = None,
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
) -> None:
    """Prints the scores.  Raises Stop if the text or the model can't be read, or if `control` is unknown."""
    from app.saved_models.speaking import evaluate_run

    evaluate_run(run, data, control, best, device or "auto", runs_dir, as_json)
