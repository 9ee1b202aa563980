"""Opens plain files of a run folder, and nothing else that somebody may have put there; and replaces them as a whole.

Reading a pipe could block forever, a device may never end, and a link could lead a writer to a file outside the run.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO


def open_descriptor(path: Path, flags: int = os.O_RDONLY) -> int:
    """Like os.open; a file that it creates has mode 0600, and root gives it to the owner of its folder.

    Raises OSError, also if the path is not a plain file.
    """
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
    if flags & os.O_CREAT:
        give_to_owner(descriptor, path.parent)
    return descriptor


def give_to_owner(made: int | Path, folder: Path) -> None:
    """If root made a file or folder (a path or a descriptor) in another user's folder, that user gets it.

    So root may go on with a user's run, as in a container or with sudo, and the user can go on with it afterwards.  On file
    systems that refuse this, it stays root's.
    """
    if os.geteuid() != 0:
        return
    with contextlib.suppress(OSError):
        owner = os.stat(folder)
        if owner.st_uid != 0:
            os.chown(made, owner.st_uid, owner.st_gid)


def open_plain(path: Path) -> BinaryIO:
    """Opens a file for reading.  Raises OSError, also if the path is not a plain file."""
    return os.fdopen(open_descriptor(path), "rb")


def _not_plain(path: Path) -> OSError:
    return OSError(errno.EINVAL, "is not a plain file", os.fspath(path))


def atomic_write(path: Path, data: bytes | str | Iterable[bytes], mode: int = 0o600, sync: bool = True) -> None:
    """Replaces a file as a whole: at any time, also after a loss of power, it has either the old or the new content.

    Without `sync` it does not wait for the disk, and a loss of power may leave a damaged file.  Text is written as UTF-8.
    Parts are written one after the other, and may be read from the old file meanwhile.  Raises OSError, and then leaves the
    old file and nothing else.
    """
    data = data.encode() if isinstance(data, str) else data
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(descriptor, mode)
            give_to_owner(descriptor, path.parent)
            stream.writelines([data] if isinstance(data, bytes) else data)
            stream.flush()
            if sync:
                os.fsync(descriptor)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    if sync:
        _sync_folder(path.parent)


def remove_torn(folder: Path) -> None:
    """Removes files that `atomic_write` left half written in a folder because its process was killed.  Raises OSError.

    Only the folder's only writer may call this, since a file of another writer may still be in progress.
    """
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # what file systems say that can't sync a folder; the rename itself has succeeded
            raise
    finally:
        os.close(descriptor)
