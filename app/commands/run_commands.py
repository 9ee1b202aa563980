"""The command line of runs that are there: which there are, how they compare, what their models say and their events hold."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from app.commands.options import AsJson, Best, Control, Device, RunName, RunsDir

run_app = typer.Typer(rich_markup_mode=None)


@run_app.command()
def runs(runs_dir: RunsDir = None, as_json: AsJson = False) -> None:
    """List runs, newest first."""
    from app.commands import listing as command

    command.runs(runs_dir, as_json)


@run_app.command()
def status(run: RunName = "last", runs_dir: RunsDir = None, as_json: AsJson = False) -> None:
    """Say how one run stands."""
    from app.commands import listing as command

    command.status(run, runs_dir, as_json)


@run_app.command()
def compare(
    first: Annotated[str, typer.Argument(metavar="RUN", help="A run's name, a unique beginning of it, a path, or `last`.")],
    second: Annotated[str, typer.Argument(metavar="RUN", help="The one beside it.")],
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
) -> None:
    """Two runs side by side: what was set otherwise, what came out, and how soon."""
    from app.commands import compare as command

    command.compare(first, second, runs_dir, as_json)


@run_app.command()
def export(
    run: RunName = "last",
    form: Annotated[
        Literal["csv", "tensorboard"],
        typer.Option("--format", help="csv: every event, a table a kind; tensorboard: the numbers of its curves."),
    ] = "csv",
    what: Annotated[
        str | None, typer.Option("--what", help="Only this kind of event, such as trained, as one CSV table (stdout).")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the files (default: RUN-csv here); with --what, the file.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there; says which.")] = False,
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
) -> None:
    """Write a run's events as CSV tables or TensorBoard files."""
    from app.commands import export as command

    command.export(run, form, what, out, force, runs_dir, as_json)


@run_app.command()
def evaluate(
    run: RunName,
    data: Annotated[Path, typer.Option("--data", help="Text to score on.")],
    control: Control = "none",
    best: Best = False,
    device: Device = None,
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
) -> None:
    """Score a run's model on a text file: BLEU, chrF, share of sentences that come back unchanged."""
    from app.commands import speak as command

    command.evaluate_run(run, data, control, best, device or "auto", runs_dir, as_json)


@run_app.command()
def decode(
    run: RunName,
    text: Annotated[str, typer.Argument(help="What to send through the lattice.")],
    best: Best = False,
    device: Device = None,
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
) -> None:
    """Send one text through a run's lattice and print what comes out."""
    from app.commands import speak as command

    command.decode_text(run, text, best, device or "auto", runs_dir, as_json)


@run_app.command()
def morphology(
    run: RunName,
    data: Annotated[
        Path | None, typer.Option("--data", help="Text that drives the cells; without it the run's held-out sentences.")
    ] = None,
    surrogates: Annotated[
        int, typer.Option("--surrogates", min=99, help="Fields drawn for each null: more take longer, and resolve smaller p.")
    ] = 199,
    best: Best = False,
    device: Device = None,
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
) -> None:
    """Ask whether a run's connections vary over space with a wavelength of their own, and score how far it has organised."""
    from app.commands import morphology as command

    command.run(run, data, surrogates, best, device or "auto", runs_dir, as_json)
