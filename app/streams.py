"""stdin, stdout and stderr of this program when they are closed, full, or lost.

Nobody has to read what the program says.  A closed stream becomes /dev/null: otherwise the next file that is opened would take
its number, and messages would end up in a checkpoint.  A stderr that can't be written is ignored.  A stdout that can't be
written ends a command, because its results are lost.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any


class Stdout(io.FileIO):
    """The file behind stdout.  `error` is the latest error in writing to it, None if there was none."""

    error: OSError | None = None

    def write(self, data: Any, /) -> Any:
        try:
            return super().write(data)
        except OSError as error:
            self.error = error
            raise


class _Stderr(io.FileIO):
    """The file behind stderr.  It takes everything for written."""

    def write(self, data: Any, /) -> Any:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno in (errno.EIO, errno.EPIPE):
                lose(2)
            return memoryview(data).nbytes


def prepare() -> Stdout:
    """Opens what is closed, and makes stderr one that never raises.  To be called first of all.  Returns the file of stdout.

    Streams that something else has put in the place of Python's own stay as they are.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, which is this one
    stdout = Stdout(1, "w", closefd=False)
    if sys.stdout is sys.__stdout__:
        sys.stdout = _text(stdout, sys.__stdout__)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _text(_Stderr(2, "w", closefd=False), sys.__stderr__)
    return stdout


def _text(raw: Any, like: Any) -> io.TextIOWrapper:
    """A text stream that writes to `raw` as `like` does, which is None if Python found the stream closed."""
    same = {name: getattr(like, name) for name in ("encoding", "errors", "line_buffering", "write_through")} if like else {}
    unbuffered = same.get("write_through")  # as with PYTHONUNBUFFERED
    return io.TextIOWrapper(raw if unbuffered else io.BufferedWriter(raw), **same)


def lose(*descriptors: int) -> None:
    """Sends streams (1 or 2) to /dev/null, together with what waits to be written, and the other one if it is the same file.

    A terminal that is gone, for instance, is gone for both.
    """
    nothing, lost = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), [os.fstat(descriptor) for descriptor in descriptors]
    for stream in (1, 2):
        if any(os.path.samestat(os.fstat(stream), each) for each in lost):
            os.dup2(nothing, stream)
    os.close(nothing)
