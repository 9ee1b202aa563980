"""Opens plain files of a run folder, and nothing else that somebody may have put there.

Reading a pipe could block forever, a device may never end, and a link could lead a writer to a file outside the run.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_descriptor(path: Path, flags: int = os.O_RDONLY) -> int:
    """Like os.open; a file that it creates has mode 0600.  Raises OSError, also if the path is not a plain file."""
    try:
        # Not blocking: opening a pipe would wait for its other end.
        descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):  # a link; a socket or a pipe that nobody reads; a folder
            raise _not_plain(path) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _not_plain(path)
    return descriptor


def open_plain(path: Path) -> BinaryIO:
    """Opens a file for reading.  Raises OSError, also if the path is not a plain file."""
    return os.fdopen(open_descriptor(path), "rb")


def _not_plain(path: Path) -> OSError:
    return OSError(errno.EINVAL, "is not a plain file", os.fspath(path))
