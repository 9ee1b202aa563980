"""Child processes that run this program: their command line and their environment."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]


def command(module: str, *arguments: str) -> list[str]:
    """The command line that runs a module of this program with these arguments.

    With -P, Python does not look in the current folder, so a folder `app` there is not mistaken for this program's.
    """
    return [sys.executable, "-P", "-m", module, *arguments]


def environment(**more: str) -> dict[str, str]:
    """This process's environment, plus the variables `more`.  The program's folder comes first on Python's path."""
    path = os.pathsep.join(filter(None, [os.fspath(_ROOT), os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": path} | more
