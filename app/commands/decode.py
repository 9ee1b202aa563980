"""`decode`: sends one text through the model of a run."""

from __future__ import annotations

from typing import Annotated

import typer

from app.exit_codes import ExitCode, Stop
from app.options import AsJson, Best, Device, RunName, RunsDir


def decode(
    run: RunName,
    text: Annotated[str, typer.Argument(help="What to send through the lattice.")],
    each: Annotated[
        bool, typer.Option("--after-each-word", help="Also what comes back for the text up to each word, one line per word.")
    ] = False,
    best: Best = False,
    device: Device = None,
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
) -> None:
    """Prints what comes back.  Raises Stop if the text is empty or no UTF-8, or if the model can't be opened."""
    if not text.strip():
        raise Stop(ExitCode.USAGE, "there is no text to decode")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Stop(ExitCode.USAGE, "the text is not valid UTF-8") from error
    from app.saved_models.speaking import decode_text

    decode_text(run, text, each, best, device or "auto", runs_dir, as_json)
