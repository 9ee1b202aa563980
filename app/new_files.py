"""Checks the path of a file that a command is to write, before the work is done that the file is for."""

from __future__ import annotations

import os
from pathlib import Path

from app.exit_codes import ExitCode, Stop


def check_file(option: str, path: Path) -> None:
    """Raises Stop that names the `option` if no file can be written to `path`.  The file may be there already."""
    if path.is_dir():
        raise Stop(ExitCode.USAGE, f"{option} {path}: is a folder; name a file")
    if not path.parent.is_dir():
        raise Stop(ExitCode.USAGE, f"{option} {path}: there is no folder {path.parent}; make it first")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise Stop(ExitCode.USAGE, f"{option} {path}: no file can be written there; name another place")
