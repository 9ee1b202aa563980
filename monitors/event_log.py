"""The log of a run's events, and a tolerant reader of it.

`events.jsonl` is the record of a run: one JSON object per line, in the order in which things happened.  Each line is flushed
to the operating system, so that a killed process loses none.  A line that is torn by a crash of the machine is cut off when
the log is opened again.  The reader goes on at the byte offset where it stopped, and skips lines that it can't read, since a
log of a newer version may hold unknown kinds of events.

Events have a single writer, in one process.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydantic import BaseModel, ValidationError

from monitors.events import AnyEvent, E, parse_event
from monitors.fields import ONLY_KEYS_CACHED
from monitors.plain_files import atomic_write, open_descriptor, open_plain

_BLOCK = 65536
"""Bytes that are read at once to find the end of the last whole line."""


class _Stamp(BaseModel):
    """The fields of a line that `rewind` needs, so that events of unknown kinds are kept."""

    model_config = ONLY_KEYS_CACHED

    step: int
    kind: str = ""


class EventLog:
    """Appends events to a JSON-lines file, which is created with mode 0600.  Raises OSError.

    Opening it cuts off a torn last line.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._stream = self._open()

    def append(self, event: E) -> E:
        """Sets the event's time, writes it as one line and flushes; returns the event as written."""
        stamped = event.model_copy(update={"time": self._clock()})
        self._stream.write(stamped.model_dump_json().encode() + b"\n")
        self._stream.flush()
        return stamped

    def rewind(self, step: int, edits: int | None = None) -> int:
        """Drops the events after `step`, and lines that are no events; returns how many lines were dropped.

        A run that is resumed from the checkpoint of `step` goes through the later steps again.  `edits` is the number of
        `edited` events that the checkpoint knows of.  Any further one was made after the checkpoint was saved, even if at the
        same step; it is dropped with all that follows.

        The file is replaced as a whole, so that a crash leaves either the old or the new one.  Byte offsets of readers are
        invalid afterwards.
        """
        # Read anew each time, for a log may be larger than memory; mostly nothing goes, and then nothing is written.
        with open_plain(self._path) as stream:
            lines = sum(1 for _ in stream)
            stream.seek(0)
            kept = sum(1 for _ in _up_to(stream, step, edits))
            if kept < lines:
                stream.seek(0)
                atomic_write(self._path, _up_to(stream, step, edits))
                self._stream.close()
                self._stream = self._open()
        return lines - kept

    def close(self) -> None:
        self._stream.close()

    def _open(self) -> BinaryIO:
        descriptor = open_descriptor(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        stream = os.fdopen(descriptor, "a+b")
        stream.truncate(_end_of_last_line(stream))
        return stream


_OF_A_LOOK = ("decoded", "memory_sampled", "plastic", "volume_saved")
"""Kinds of events of a look at held-out text.  A look comes before the checkpoint of its step, except for a run's last look."""


def _up_to(lines: Iterable[bytes], step: int, edits: int | None) -> Iterator[bytes]:
    """The lines of events up to `step`, and up to the first `edited` event that exceeds `edits`.

    Looks after the last save of `step` are left out, since a run that was killed during its last look repeats it.
    """
    since_save: list[tuple[str, bytes]] | None = None
    for line in lines:
        try:
            stamp = _Stamp.model_validate_json(line)
        except ValidationError:
            continue
        if edits is not None and stamp.kind == "edited":
            edits -= 1
            if edits < 0:
                break
        if stamp.step > step:
            continue
        if stamp.kind == "saved" and stamp.step == step:
            yield from (earlier for _, earlier in since_save or ())
            since_save = [(stamp.kind, line)]
        elif since_save is None:
            yield line
        else:
            since_save.append((stamp.kind, line))
    yield from (line for kind, line in since_save or () if kind not in _OF_A_LOOK)


def _end_of_last_line(stream: BinaryIO) -> int:
    """Bytes up to and including the last newline.  A log may be long, so it is searched from its end."""
    end = stream.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - _BLOCK)
        stream.seek(start)
        newline = stream.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


@dataclass(frozen=True)
class ReadResult:
    """Events in the order of the log, the number of unreadable lines, and the byte offset at which to go on."""

    events: list[AnyEvent]
    skipped: int
    offset: int


def each_event(path: Path) -> Iterator[AnyEvent | None]:
    """Yields the event of every whole line, or None for an unreadable line, without keeping the log in memory.

    Raises OSError if the log can't be opened.
    """
    with open_plain(path) as stream:
        for line in stream:
            if line.endswith(b"\n"):
                yield parse_event(line)


def read_events(path: Path, after: int = 0, most: int | None = None) -> ReadResult:
    """Reads whole lines from byte `after` on, at most `most` of them.  A missing file has none.

    A last line without a newline is still being written; it is not read, and the offset stays before it.  Raises OSError if the
    file exists and can't be read.
    """
    events: list[AnyEvent] = []
    skipped, offset = 0, after
    try:
        stream = open_plain(path)
    except FileNotFoundError:
        return ReadResult(events, skipped, offset)
    with stream:
        stream.seek(after)
        for line in itertools.islice(stream, most):
            if not line.endswith(b"\n"):
                break
            offset += len(line)
            event = parse_event(line)
            if event is None:
                skipped += 1
            else:
                events.append(event)
    return ReadResult(events, skipped, offset)
