"""Runs a program in a terminal of its own, as an operator would: sends keys, and records what it draws and when.

The terminal is a pty that only records.  A search goes through all text that was drawn, without colours, wherever it is on the
screen.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Mapping, Sequence

COLOURS = re.compile(rb"\x1b\[[0-9;:]*m")
BLOCK = 65536
PATIENCE_S = 60.0
"""Seconds to wait for a text by default."""

LEAVE_S = 5.0


class TerminalError(Exception):
    """The program ended, or did not draw the expected text in time.  The message has the end of what it drew."""


class Terminal:
    """A program in a terminal of `columns` x `rows`.  The constructor starts it.

    Leaving the `with` block kills the program if it still runs.
    """

    def __init__(self, command: Sequence[str], columns: int, rows: int, environment: Mapping[str, str]) -> None:
        self._chunks: list[tuple[float, bytes]] = []
        self._news = threading.Condition()
        self._ended = False
        self._master, slave = pty.openpty()
        try:
            fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))
            self.started = time.monotonic()
            self.program = subprocess.Popen(
                command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True, env=dict(environment)
            )
        except BaseException:
            os.close(self._master)
            raise
        finally:
            os.close(slave)
        self._reader = threading.Thread(target=self._read, name=f"terminal of {self.program.pid}", daemon=True)
        self._reader.start()

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.program.poll() is None:
            self.program.kill()
        self.program.wait()
        self._reader.join(LEAVE_S)
        os.close(self._master)

    def press(self, keys: bytes) -> tuple[float, int]:
        """Types the keys.  Returns the time by time.monotonic(), and the number of the next chunk that is drawn."""
        with self._news:
            chunk = len(self._chunks)
        now = time.monotonic()
        os.write(self._master, keys)
        return now, chunk

    def until(self, shown: str, since: int = 0, patience_s: float = PATIENCE_S) -> float:
        """Waits until the program has drawn a text.  Returns the time of that by time.monotonic().

        `shown` is a regular expression in which dots match newlines.  What was drawn before chunk `since` is not searched.
        Raises TerminalError if the program ends first, or if it takes longer than `patience_s` seconds.
        """
        wanted, end = re.compile(shown.encode(), re.DOTALL), time.monotonic() + patience_s
        seen, at = b"", since
        with self._news:
            while True:
                while at < len(self._chunks):
                    when, data = self._chunks[at]
                    seen, at = seen + data, at + 1
                    if wanted.search(COLOURS.sub(b"", seen)):
                        return when
                left = end - time.monotonic()
                if self._ended or left <= 0:
                    why = "the program has ended" if self._ended else f"not within {patience_s:.0f} s"
                    raise TerminalError(f"{shown!r} was not drawn: {why}; last: {COLOURS.sub(b'', seen)[-300:]!r}")
                self._news.wait(left)

    def drawn_bytes(self, start: float, end: float) -> int:
        """How many bytes the program has drawn between two times of time.monotonic()."""
        with self._news:
            return sum(len(data) for when, data in self._chunks if start <= when < end)

    def forget(self) -> None:
        """Throws away what was drawn so far.  No other thread may be in `until` at the same time."""
        with self._news:
            self._chunks.clear()

    def ended(self, patience_s: float = LEAVE_S) -> bool:
        """Waits up to `patience_s` seconds for the program to end by itself.  Returns whether it did."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.program.wait(patience_s)
        return self.program.poll() is not None

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._master, BLOCK)
            except OSError:  # EIO: no process has the other end open any more
                data = b""
            with self._news:
                if data:
                    self._chunks.append((time.monotonic(), data))
                else:
                    self._ended = True
                self._news.notify_all()
            if not data:
                return
