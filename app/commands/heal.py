"""`heal`: wounds a copy of a run's lattice, and heals it without labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.exit_codes import ExitCode, Stop
from app.options import AsJson, Best, Device, RunName, RunsDir
from presets import wound as wounds
from presets.control_commands import HealArguments, HealBy, WoundArguments


def heal(
    run: RunName,
    wound: Annotated[
        str,
        typer.Option(
            "--wound",
            metavar="KIND:AMOUNT",
            help="connections:0.3, cells:0.1, block:8, shuffle:0.2 or noise:3 (share destroyed; side of a cube of cells; share "
            "of the cells; times the connections' size).",
        ),
    ] = WoundArguments().wound,
    data: Annotated[
        Path | None, typer.Option("--data", help="Text to heal by, without targets; default: what the run was trained on.")
    ] = None,
    by: Annotated[
        HealBy,
        typer.Option("--by", help="neighbours: from what lives beside the wound, by STDP where nothing does; or stdp alone."),
    ] = "neighbours",
    waves: Annotated[
        int,
        typer.Option("--waves", min=0, help="Most waves of STDP, of eight sentences; it ends earlier once they change little."),
    ] = HealArguments().waves,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Where the wound falls, and which sentences heal it.")] = 0,
    best: Best = False,
    device: Device = None,
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
) -> None:
    """Prints the scores of the intact, the wounded and the healed lattice.  The run itself stays as it is.

    Raises Stop if the wound is none, or if the text or the model can't be read.
    """
    try:
        what = wounds.parse(wound)
    except ValueError as error:
        raise Stop(ExitCode.USAGE, f"--wound: {error}") from error
    from app.saved_models.healing import heal_run

    heal_run(run, what, data, by, waves, seed, best, device or "auto", runs_dir, as_json)
