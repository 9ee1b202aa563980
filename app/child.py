"""Other processes of this program: how they are called, and where they find it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]


def command(module: str, *arguments: str) -> list[str]:
    """A command that runs a module of the program.  With -P, a folder called `app` in the current one is not taken for it."""
    return [sys.executable, "-P", "-m", module, *arguments]


def environment(**more: str) -> dict[str, str]:
    """This process's environment, with the folder of the program first on Python's path, and `more`."""
    path = os.pathsep.join(filter(None, [os.fspath(_ROOT), os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": path} | more
