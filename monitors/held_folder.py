"""A run folder that a process holds on to while it trains, so that it notices if the folder is renamed, moved or deleted."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from monitors.runs import RunFolder, RunFolderError, identity_of


class HeldFolder:
    """Keeps a run folder open.  `follow` gives it the path that it has now.  Raises OSError if it can't be opened."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self._descriptor = os.open(folder.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._identity = identity_of(os.fstat(self._descriptor))

    def follow(self) -> bool:
        """Returns True if the folder was moved since the last call; its path is then the new one.

        Raises RunFolderError if it has no path any more: it was deleted, or moved to another file system, which copies it.
        """
        if self._is_at(self.folder.path):
            return False
        with contextlib.suppress(OSError):
            now = Path(os.readlink(f"/proc/self/fd/{self._descriptor}"))
            if self._is_at(now):
                self.folder.moved_to(now)
                return True
        raise RunFolderError(
            f"the run folder {self.folder.path} is gone: it was deleted, or moved to another file system; what was not saved "
            "before that is lost"
        )

    def close(self) -> None:
        os.close(self._descriptor)

    def _is_at(self, path: Path) -> bool:
        """True if this folder is at the path, as far as can be told."""
        try:
            return identity_of(os.stat(path)) == self._identity
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:  # a file system that does not answer at the moment
            return True
