"""The feed of a run: its latest events, numbered, in one ring buffer from which every viewer reads at its own pace.

The training thread puts an event in and never waits for a viewer.  A viewer that is too slow misses the oldest events, and the
numbers tell it how many.  The latest events are always there.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable

from app.wire.protocol import FRAME_BYTES, RECENT
from monitors.events import AnyEvent, Decoded, Trained

_EVENT_BYTES = FRAME_BYTES - 256
"""The room that a frame has for its event."""


class Feed:
    """A ring buffer of the latest `size` events as JSON, numbered from 0.  Safe for use by several threads."""

    def __init__(self, size: int = RECENT) -> None:
        self._ring: deque[str] = deque(maxlen=size)
        self._latest: dict[str, tuple[int, str]] = {}
        self._next = 0
        self._lock = threading.Lock()
        self.wake: Callable[[], None] = lambda: None
        """A function that is called after every event, in the thread that published it."""

    def publish(self, event: AnyEvent) -> None:
        """Puts an event into the ring, and calls `wake`.  The oldest event goes if the ring is full."""
        text = _fitting(event)
        with self._lock:
            self._ring.append(text)
            if not isinstance(event, Trained):
                self._latest[event.kind] = (self._next, text)
            self._next += 1
        self.wake()

    def after(self, seq: int) -> tuple[int, str] | None:
        """The oldest event in the ring whose number is at least `seq`, as (number, JSON); None if there is none yet."""
        with self._lock:
            if seq >= self._next:
                return None
            first = max(seq, self._next - len(self._ring))
            return first, self._ring[first - self._next]

    def held(self) -> list[int]:
        """The bytes that each event in the ring takes."""
        with self._lock:
            return [sys.getsizeof(text) for text in self._ring]

    def snapshot(self, recent: int) -> tuple[list[tuple[int, str]], int]:
        """Past events in their order, each as (number, JSON), and the number of the next event.

        These are the last `recent` events.  If the latest event of some kind is older, such as the stage's start, it comes
        before them.
        """
        with self._lock:
            count = min(recent, len(self._ring))
            first = self._next - count
            older = sorted(item for item in self._latest.values() if item[0] < first) if recent else []
            return older + [(seq, self._ring[seq - self._next]) for seq in range(first, self._next)], self._next


def _fitting(event: AnyEvent) -> str:
    """The event as JSON that fits into a frame.  If it is too long, samples are left out or texts cut; the log has it all."""
    text = event.model_dump_json()
    while len(text.encode()) > _EVENT_BYTES:
        if isinstance(event, Decoded) and event.samples:
            event = event.model_copy(update={"samples": event.samples[: len(event.samples) // 2]})
        else:
            short = {name: value[:1000] for name, value in event if isinstance(value, str)}
            event = event.model_copy(update=short)
            return event.model_dump_json()
        text = event.model_dump_json()
    return text
