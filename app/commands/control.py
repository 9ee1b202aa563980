"""`control`: one command to a live run, in words.  Torch-free."""

from __future__ import annotations

import getpass
import json
import os
from pathlib import Path
from typing import Any

from app.exit_codes import ExitCode, Stop
from app.wire.client import ClientError, send
from monitors.runs import NoSuchRun, RunFolder
from monitors.runs import runs_dir as place
from monitors.text_safety import printable
from presets.control_commands import from_words, usages


def parse(words: list[str]) -> tuple[str, dict[str, Any]]:
    """Command and arguments from words: ["set", "decode.every=10"], ["stage", "goto", "1"], ["pause"].

    Raises Stop, exit code 2.
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


def who() -> str:
    """How this process signs its commands: user, and process id."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may have no name for its user
        user = f"uid {os.getuid()}"
    return f"{user} (pid {os.getpid()})"


def run(name: str, words: list[str], runs_dir: Path | None, timeout_s: float, as_json: bool) -> None:
    """Sends the command and prints at which step it took effect.  Raises Stop where it is refused or nobody listens."""
    command, arguments = parse(words)
    try:
        folder = RunFolder.find(place(runs_dir), name)
        reply = send(folder, command, arguments, who(), timeout_s)
    except NoSuchRun as error:
        raise Stop(ExitCode.NO_SUCH_RUN, str(error)) from error
    except ClientError as error:
        raise Stop(ExitCode.NO_SUCH_RUN, str(error)) from error
    if as_json:
        print(json.dumps({"run": folder.name, "ok": reply.ok, "step": reply.step, "error": reply.error}))
    if not reply.ok:
        raise Stop(ExitCode.USAGE, f"run {folder.name} refused: {reply.error}")
    if not as_json:
        print(f"{printable(' '.join(words))}: in effect after step {reply.step}")
