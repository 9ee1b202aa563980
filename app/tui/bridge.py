"""The thread between a run's folder and the screen.  It reads, folds, posts one message, and sleeps.

    poll:  run.json -> state     events.jsonl from where it stopped -> fold -> frame     machine -> gauges
           -> View -> SnapshotRead, once the screen has taken the one before (the newest wins)

The log alone decides what is shown, so a live run, a finished one and a copied folder look the same.  A step back in time folds
the log again from the nearest keyframe.  At most MOST_FRAMES keyframes are kept, spread evenly over the log.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import psutil

from app import planning
from app.tui.fold import fold
from app.tui.messages import SnapshotRead
from app.tui.series import MOST_RECENT
from app.tui.snapshot import Host, Position, Snapshot, View
from monitors.event_log import read_events
from monitors.events import VolumeSaved
from monitors.gauges import Absent, gpus, host_memory
from monitors.runs import RunFolder, RunFolderError, RunInfo, state_of
from monitors.volumes import Volume, Volumes, read_volume
from presets.layers import ConfigError, from_toml
from presets.live import with_settings
from presets.schema import RunConfig

POLL_S = 1.0
HOST_EVERY_S = 2.0

CHUNK_LINES = 2000
"""Lines that are read at once.  So neither a seek nor the end of the program waits long for a big log."""

MOST_FRAMES = 16

REFILL_LINES = 2 * MOST_RECENT
"""A seek starts from a keyframe at least this far before its line, so that the thinned curves are full again at the line."""

LONGEST_GAP_S = 2.0
"""Playback cuts longer pauses to this, for example if a run was resumed a day later."""

SPEEDS = (1.0, 4.0, 16.0, 64.0, 256.0)


@dataclass(frozen=True)
class FoldedLog:
    """The snapshot after the first `lines` lines of the log, which are `offset` bytes."""

    lines: int = 0
    offset: int = 0
    skipped: int = 0
    snapshot: Snapshot = field(default_factory=Snapshot)


class Reader(threading.Thread):
    """Follows one run folder until `close`.  `post` must be safe to call from a thread, as Textual's post_message is."""

    def __init__(self, folder: RunFolder, post: Callable[[SnapshotRead], object], poll_s: float = POLL_S) -> None:
        super().__init__(name=f"reader of {folder.name}", daemon=True)
        self._folder, self._post, self._poll_s = folder, post, poll_s
        self._closed, self._wake = threading.Event(), threading.Event()
        self._taken = threading.Event()
        self._taken.set()
        self._lock = threading.Lock()
        self._wanted: int | None = None  # a line to show; None follows the end
        self._playing, self._speed, self._clock = False, SPEEDS[0], 0.0
        self._forget()
        self._config_read, self._config_trouble = False, ""
        self._config: RunConfig | None = None
        self._edits: tuple[tuple[str, Any], ...] = ()
        self._view = View(str(folder.path), folder.name)
        self._sent: View | None = None
        self._host_at = 0.0

    # What the screen may call, from its own thread.

    def taken(self) -> None:
        """Tells the thread that the last view is on the screen, so that it may send the next."""
        self._taken.set()

    def close(self) -> None:
        """Ends the thread and waits for it."""
        self._closed.set()
        self._wake.set()
        if self.is_alive():
            self.join(timeout=5.0)

    def seek(self, line: int) -> None:
        """Shows the run as it was after this many lines of its log, and stays there."""
        with self._lock:
            self._wanted, self._playing = max(0, line), False
        self._wake.set()

    def follow(self) -> None:
        """Shows the end of the log, and follows it as the log grows."""
        with self._lock:
            self._wanted, self._playing = None, False
        self._wake.set()

    def play(self) -> None:
        """Plays the history from the line that is shown, or pauses the playback."""
        with self._lock:
            if self._wanted is not None:
                self._playing = not self._playing
                self._clock = self._shown.snapshot.last_time
        self._wake.set()

    def change_speed(self, faster: bool) -> None:
        with self._lock:
            at = SPEEDS.index(self._speed) + (1 if faster else -1)
            self._speed = SPEEDS[min(max(at, 0), len(SPEEDS) - 1)]
        self._wake.set()

    # The thread.

    def run(self) -> None:
        last = time.monotonic()
        while not self._closed.is_set():
            now = time.monotonic()
            self._poll(now - last)
            last = now
            self._wake.wait(min(self._poll_s, 0.1) if self._playing else self._poll_s)
            self._wake.clear()

    def read_once(self) -> View:
        """The whole log as it is now.  Pictures and tests call this without starting the thread."""
        self._poll(0.0, send=False)
        return self._view

    def _poll(self, elapsed_s: float, send: bool = True) -> None:
        view = self._with_state(self._view)
        if not self._config_read:
            view = self._with_config(view)
        self._view = view  # a long log is shown as it is read; its first part says this, too
        try:
            self._read_log(send)
            self._show(elapsed_s)
        except OSError as error:
            self._view = replace(self._view, trouble=f"events.jsonl can't be read: {error.strerror or error}")
        view = self._view
        if time.monotonic() - self._host_at >= HOST_EVERY_S:
            self._host_at = time.monotonic()
            view = replace(view, host=read_host(self._folder, view.info, view.is_live))
        self._view = self._with_position(view)
        if send:
            self._send()

    def _with_state(self, view: View) -> View:
        try:
            info, state = self._folder.read_info(), state_of(self._folder)
        except RunFolderError as error:
            return replace(view, trouble=str(error))
        return replace(view, info=info, state=state, trouble=self._config_trouble)

    def _with_position(self, view: View) -> View:
        with self._lock:
            position = Position(self._shown.lines, self._end.lines, self._wanted is None, self._playing, self._speed)
        snapshot = self._shown.snapshot
        if self._config is not None and snapshot.edits != self._edits:
            config = edited(self._config, dict(snapshot.edits))
            view = replace(view, config=config, plans=planning.here(config))
            self._edits = snapshot.edits
        if snapshot.volume != self._view.snapshot.volume or self._view.volume is None:
            view = replace(view, volume=volume_at(self._folder, snapshot.volume))
        return replace(view, snapshot=snapshot, position=position, skipped=self._shown.skipped)

    def _send(self) -> None:
        if self._taken.is_set() and not _same(self._view, self._sent) and not self._closed.is_set():
            self._taken.clear()
            self._sent = self._view
            self._post(SnapshotRead(self._view))

    def _forget(self) -> None:
        self._end = self._shown = FoldedLog()
        self._frames = [FoldedLog()]
        self._every = CHUNK_LINES
        self._inode = 0

    def _read_log(self, send: bool) -> None:
        """Reads the log to its end.  A log that was replaced, as a resumed run does, is read from its start."""
        try:
            status = os.stat(self._folder.events_jsonl)
        except FileNotFoundError:
            return
        if status.st_ino != self._inode or status.st_size < self._end.offset:
            self._forget()
            self._inode = status.st_ino
        while not self._closed.is_set():
            frame = self._advanced(self._end, CHUNK_LINES)
            if frame is self._end:
                return
            self._end = frame
            if frame.lines - self._frames[-1].lines >= self._every:
                self._frames.append(replace(frame, snapshot=frame.snapshot.thinned()))
            if len(self._frames) > MOST_FRAMES:
                self._frames, self._every = self._frames[::2], self._every * 2
            if self._wanted is None and send:
                self._shown = frame
                self._view = self._with_position(self._view)
                self._send()

    def _advanced(self, frame: FoldedLog, lines: int) -> FoldedLog:
        read = read_events(self._folder.events_jsonl, frame.offset, lines)
        if read.offset == frame.offset:
            return frame
        read_lines = len(read.events) + read.skipped
        return FoldedLog(frame.lines + read_lines, read.offset, frame.skipped + read.skipped, fold(frame.snapshot, read.events))

    def _show(self, elapsed_s: float) -> None:
        with self._lock:
            wanted, playing, speed = self._wanted, self._playing, self._speed
        if wanted is None:
            self._shown = self._end
        elif playing:
            self._play_on(elapsed_s * speed)
        elif wanted != self._shown.lines:
            self._shown = self._at(min(wanted, self._end.lines))

    def _at(self, line: int) -> FoldedLog:
        from_line = max(0, line - REFILL_LINES)
        frame = max((frame for frame in self._frames if frame.lines <= from_line), key=lambda frame: frame.lines)
        while frame.lines < line and not self._closed.is_set():
            further = self._advanced(frame, min(CHUNK_LINES, line - frame.lines))
            if further is frame:
                break
            frame = further
        return frame

    def _play_on(self, seconds: float) -> None:
        coming = read_events(self._folder.events_jsonl, self._shown.offset, CHUNK_LINES).events
        if not coming:
            with self._lock:
                self._playing, self._wanted = False, None
            return
        self._clock = max(self._clock + seconds, coming[0].time - LONGEST_GAP_S)
        due = sum(1 for event in coming if event.time <= self._clock)
        if due:
            self._shown = self._advanced(self._shown, due)
            with self._lock:
                if self._playing:
                    self._wanted = self._shown.lines

    def _with_config(self, view: View) -> View:
        try:
            text = self._folder.read_config()
            config = from_toml(text, str(self._folder.config_toml))
        except FileNotFoundError:
            return view  # a run that is just starting has none yet
        except (OSError, UnicodeDecodeError) as error:
            self._config_trouble = f"config.toml can't be read: {getattr(error, 'strerror', None) or error}"
            return replace(view, trouble=self._config_trouble)
        except ConfigError as error:
            self._config_read, self._config_trouble = True, f"config.toml: {error.problems[0]}"
            return replace(view, trouble=self._config_trouble)
        self._config_read, self._config, self._edits, self._config_trouble = True, config, (), ""
        return replace(view, config=config, plans=planning.here(config))


def edited(config: RunConfig, edits: dict[str, Any]) -> RunConfig:
    """The config with the operators' changes.  It stays as it is if a change is not known to this version."""
    try:
        return with_settings(config, edits)
    except ConfigError:
        return config


def volume_at(folder: RunFolder, saved: VolumeSaved | None) -> Volume | Absent | None:
    """The cells that the event names, or else the newest earlier ones that are still there; None without an event.

    Files are found by their steps.  A path that stands in a log is never followed.
    """
    if saved is None:
        return None
    volumes = Volumes(folder.volumes)
    if (path := volumes.at(saved.step)) is not None:
        return read_volume(path)
    oldest = volumes.oldest()
    if oldest is None:
        return Absent(f"the cells of step {saved.step} were written, but {volumes.path.name}/ is not in this folder any more")
    return Absent(f"the cells of step {saved.step} are gone, only the newest are kept: the oldest here are of step {oldest}")


def read_host(folder: RunFolder, info: RunInfo | None, is_live: bool) -> Host:
    """The gauges of this machine.  Those of the run's process are absent if it runs elsewhere."""
    memory = host_memory()
    try:
        disk: int | Absent = psutil.disk_usage(str(folder.path)).free
    except OSError as error:
        disk = Absent(f"can't be read: {error.strerror or error}")
    cards = gpus()
    return Host(
        rss_bytes=_rss(info, is_live),
        available_bytes=memory if isinstance(memory, Absent) else memory.available_bytes,
        total_bytes=memory if isinstance(memory, Absent) else memory.total_bytes,
        disk_free_bytes=disk,
        gpus=cards if isinstance(cards, Absent) else tuple(cards),
    )


def _rss(info: RunInfo | None, is_live: bool) -> int | Absent:
    if info is None:
        return Absent("run.json is not there yet")
    if not is_live:
        return Absent("the run has ended")
    if info.host != os.uname().nodename:
        return Absent(f"it runs on {info.host}")
    try:
        return psutil.Process(info.pid).memory_info().rss
    except (psutil.Error, ValueError) as error:
        return Absent(f"process {info.pid} can't be read: {type(error).__name__}")


def _same(view: View, other: View | None) -> bool:
    """Whether two views are equal, without comparing their curves point by point."""
    if other is None or view.snapshot is not other.snapshot:
        return False
    return replace(view, snapshot=Snapshot()) == replace(other, snapshot=Snapshot())
