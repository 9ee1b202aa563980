"""`heal`: wounds a copy of a run's lattice, and heals it without labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.exit_codes import ExitCode, Stop
from app.options import AsJson, Best, Device, RunName, RunsDir
from presets import wound as wounds
from presets.control_commands import HealArguments, HealBy, WoundArguments

MOST = HealArguments().waves


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
        Path | None,
        typer.Option("--data", help="stdp: text to heal by, without targets; default: what the run was trained on."),
    ] = None,
    by: Annotated[
        HealBy,
        typer.Option("--by", help="neighbours: take after what lives beside the wound; or stdp: grow by the timing of firing."),
    ] = "neighbours",
    waves: Annotated[
        int | None,
        typer.Option("--waves", min=0, help=f"stdp: most waves of eight sentences; it ends once they change little. ({MOST})"),
    ] = None,
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
    if by != "stdp" and (
        given := next((name for name, value in (("data", data), ("waves", waves)) if value is not None), None)
    ):
        raise Stop(ExitCode.USAGE, f"--{given}: neighbours run no sentences; add --by stdp, or leave it out")
    from app.saved_models.healing import heal_run

    heal_run(run, what, data, by, MOST if waves is None else waves, seed, best, device or "auto", runs_dir, as_json)
