"""Folders of the user outside of runs: where state and caches go, also for a user without a home folder.

Containers start programs as a user that no passwd entry knows, without HOME, or with one that can't be written.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path


class NoHome(Exception):
    """A user without a home folder named no other place; the message says how to."""


def home() -> Path | None:
    """The home folder: $HOME, or what the passwd entry says.  None if there is neither."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def state_folder() -> Path | None:
    """`$XDG_STATE_HOME/lattice-tui`, or `~/.local/state/lattice-tui`.  None without a home folder."""
    return _below("XDG_STATE_HOME", ".local", "state")


def cache_folder() -> Path | None:
    """`$XDG_CACHE_HOME/lattice-tui`, or `~/.cache/lattice-tui`.  None without a home folder."""
    return _below("XDG_CACHE_HOME", ".cache")


def _below(variable: str, *parts: str) -> Path | None:
    named = Path(os.environ.get(variable, ""))
    if named.is_absolute():  # else it is unset, empty, or relative, which the XDG specification says to ignore
        return named / "lattice-tui"
    at_home = home()
    return at_home.joinpath(*parts, "lattice-tui") if at_home is not None else None


def private_folders() -> Iterator[Path]:
    """Folders that only this user may use, best first: below `$XDG_RUNTIME_DIR`, and in the folder for temporary files.

    They are made if they are missing.  One that can't be made, or that others may use, is left out.
    """
    import tempfile  # only now: most commands open without it

    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime) and _is_private(found := Path(runtime, "lattice-tui")):
        yield found
    with contextlib.suppress(OSError):  # no folder for temporary files can be written
        if _is_private(found := Path(tempfile.gettempdir(), f"lattice-tui-{os.getuid()}")):
            yield found


def _is_private(path: Path) -> bool:
    try:
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
