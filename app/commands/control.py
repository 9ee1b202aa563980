"""`control`: sends one command, given in words, to a live run.  Torch-free."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from app.exit_codes import ExitCode, Stop
from app.finding import find_run
from app.options import AsJson, RunName, RunsDir
from app.wire.client import ClientError, send, who
from monitors.text_safety import printable
from presets.control_commands import from_words, usages


def control(
    run: RunName,
    words: Annotated[list[str], typer.Argument(metavar="COMMAND...", help=" | ".join(usages()))],
    timeout: Annotated[
        float, typer.Option("--timeout", min=0.1, help="Seconds to wait for the end of a training step.")
    ] = 60.0,
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
) -> None:
    """Sends the command and prints the step after which it is in effect.

    Raises Stop if the words are no command, if the run refuses it, or if nothing listens for the run.
    """
    command, arguments = parse(words)
    folder = find_run(runs_dir, run)
    try:
        reply = send(folder, command, arguments, who(), timeout)
    except ClientError as error:
        raise Stop(ExitCode.NO_SUCH_RUN, str(error)) from error
    if as_json:
        print(json.dumps({"run": folder.name, "ok": reply.ok, "step": reply.step, "error": reply.error}))
    if not reply.ok:
        raise Stop(ExitCode.USAGE, f"run {folder.name} refused: {reply.error}")
    if not as_json:
        print(f"{printable(' '.join(words))}: in effect after step {reply.step}")


def parse(words: list[str]) -> tuple[str, dict[str, Any]]:
    """The command and its arguments from words: ["set", "decode.every=10"], ["stage", "goto", "1"], ["pause"].

    Raises Stop with exit code 2 if the words are no command.
    """
    try:
        found = from_words(words)
    except ValueError as error:
        raise Stop(ExitCode.USAGE, str(error)) from error
    if found is None:
        *most, last = usages()
        raise Stop(ExitCode.USAGE, f"{' '.join(words)!r} is no command; there are {', '.join(most)} or {last}")
    command, arguments = found
    return command, arguments.model_dump(exclude_unset=True)
