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
from presets.layers import parse_value

PLAIN = ("pause", "resume", "decode", "checkpoint", "stop")
USAGE = "set a.b=c, stage next|hold|release|goto N, pause, resume, decode, checkpoint or stop"


def parse(words: list[str]) -> tuple[str, dict[str, Any]]:
    """Command and arguments from words: ["set", "decode.every=10"], ["stage", "goto", "1"], ["pause"].

    `none` stands for no value (until_loss=none).  Raises Stop, exit code 2.
    """
    match words:
        case ["set", assignment]:
            key, equals, text = (part.strip() for part in assignment.partition("="))
            if key and equals:
                value = parse_value(text)
                if isinstance(value, bool | int | float | str | None):
                    return "set", {"key": key, "value": value}
            raise Stop(ExitCode.USAGE, f"set: {assignment!r} is not of the form section.key=value")
        case ["stage", ("next" | "hold" | "release") as action]:
            return "stage", {"action": action}
        case ["stage", "goto", number] if number.isdecimal():
            return "stage", {"action": "goto", "stage": int(number)}
        case [command] if command in PLAIN:
            return command, {}
    raise Stop(ExitCode.USAGE, f"{' '.join(words)!r} is no command; there are {USAGE}")


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
