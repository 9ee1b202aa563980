"""`morphology`: tests whether a run's connections vary over space with a wavelength of their own, and scores emergence."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.options import AsJson, Best, Device, RunName, RunsDir


def morphology(
    run: RunName,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Text that drives the cells, or task:NAME; without it the run's held-out sentences."),
    ] = None,
    surrogates: Annotated[
        int, typer.Option("--surrogates", min=99, help="Fields drawn for each null: more take longer, and resolve smaller p.")
    ] = 199,
    best: Best = False,
    device: Device = None,
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
) -> None:
    """Prints the readings and the scores.  Raises Stop if the model or the text can't be read, or if there is no lattice."""
    from app.saved_models.organisation import report

    report(run, data, surrogates, best, device or "auto", runs_dir, as_json)
