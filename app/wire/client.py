"""The client of a run's control socket: sends commands and gets their answers, or watches the run's events.

    reply = send(folder, "set", {"key": "decode.every", "value": 10}, who="me")
    reply = send(folder, "stage", {"action": "goto", "stage": 1}, who="me")
    reply = send(folder, "pause", {}, who="me")          also: resume, decode, checkpoint, stop

    with Watch(folder) as updates:                       any number at once; `close()` from another thread ends the loop
        for update in updates: ...

    with Connection(folder) as held:                     stays the run's controller between commands
        held.command("pause", {}, "me", timeout_s=30.0)

Synchronous and torch-free.  Every expected failure raises a ClientError whose message is one sentence.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from app.wire import protocol
from app.wire.protocol import FRAME_BYTES, FrameError, Hello, Reply
from monitors.events import AnyEvent, from_fields
from monitors.runs import RunFolder, RunFolderError, state_of

__all__ = ["ClientError", "Connection", "Reply", "Seen", "Watch", "send", "who"]


class ClientError(Exception):
    """The run could not be asked.  The message says why, in one sentence."""


@dataclass(frozen=True)
class Seen:
    """One event of a run, as a viewer sees it.

    `seq` is the event's number.  `dropped` counts the events that this viewer has missed so far because it was too slow.
    `snapshot` is True for events from before it subscribed.
    """

    seq: int
    event: AnyEvent
    dropped: int
    snapshot: bool


def send(folder: RunFolder, command: str, args: dict[str, Any], who: str, timeout_s: float = 30.0) -> Reply:
    """Sends one command to the engine that trains this run.  Returns its answer: {ok, step, error}.

    Waits for the end of the training step in progress, at most `timeout_s` seconds.  `who` signs the command in the log.
    If the engine refuses, `ok` is False and `error` says why.  Raises ClientError if nothing listens or no answer comes.
    """
    with Connection(folder, timeout_s) as connection:
        return connection.command(command, args, who, timeout_s)


def who() -> str:
    """The name with which this process signs its commands: user and process id."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may have no name for its user
        user = f"uid {os.getuid()}"
    return f"{user} (pid {os.getpid()})"


class Connection:
    """An open connection to the engine of a run.  `hello` is the engine's greeting.

    Raises ClientError if nothing listens, or if the engine refuses the connection.
    """

    def __init__(self, folder: RunFolder, timeout_s: float = 30.0) -> None:
        self._folder, self._name, self._last_id, self._buffer = folder, folder.name, 0, b""
        self._socket = _connect(folder, timeout_s)
        try:
            self.hello = self._greeting(timeout_s)
        except BaseException:
            self.close()
            raise

    def command(self, command: str, args: dict[str, Any], who: str, timeout_s: float = 30.0) -> Reply:
        """Does what `send` does.  The first command makes this connection the run's controller until it is closed."""
        self._last_id += 1
        try:
            order = protocol.Command(id=self._last_id, command=command, args=args, who=who)
            line = protocol.encode(order)
        except ValidationError as error:
            return Reply(id=self._last_id, ok=False, error=protocol.reason(error))
        except FrameError as error:
            return Reply(id=self._last_id, ok=False, error=str(error))
        end = time.monotonic() + timeout_s
        self.write(line, timeout_s)
        while True:
            frame = self.read(max(0.0, end - time.monotonic()))
            if isinstance(frame, Reply) and frame.id in (0, self._last_id):
                return frame

    def write(self, line: bytes, timeout_s: float) -> None:
        """Sends one encoded frame.  Raises ClientError if the run can't be reached."""
        try:
            self._socket.settimeout(timeout_s)
            self._socket.sendall(line)
        except BrokenPipeError:
            return  # the engine has closed the connection; what it sent before can still be read
        except OSError as error:
            raise ClientError(f"run {self._name} can't be reached: {error.strerror or error}") from error

    def read(self, timeout_s: float | None) -> Hello | Reply | protocol.Update:
        """Waits up to `timeout_s` seconds for the next frame (None = for ever) and returns it.

        Raises ClientError if no frame comes, if it can't be understood, or if the connection has ended.
        """
        end = None if timeout_s is None else time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            if len(self._buffer) > FRAME_BYTES:
                raise ClientError(f"run {self._name} sends frames that are too long; it may be of another version")
            try:
                self._socket.settimeout(None if end is None else max(1e-3, end - time.monotonic()))
                block = self._socket.recv(FRAME_BYTES)
            except TimeoutError as error:
                raise ClientError(
                    f"run {self._name} has not answered within {timeout_s:.0f} s; its step takes longer, or it hangs"
                ) from error
            except OSError as error:
                raise ClientError(f"the connection to run {self._name} broke: {error.strerror or error}") from error
            if not block:
                raise ClientError(f"run {self._name} has closed the connection; `lattice-tui status` says how it stands")
            self._buffer += block
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            return protocol.answer(line)
        except FrameError as error:
            raise ClientError(f"run {self._name} says what this version does not understand: {error}") from error

    def close(self) -> None:
        """Ends the connection.  A `read` in another thread then raises ClientError."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _greeting(self, timeout_s: float) -> Hello:
        frame = self.read(timeout_s)
        if isinstance(frame, Reply):
            raise ClientError(f"run {self._name} refuses the connection: {frame.error}")
        if not isinstance(frame, Hello) or not self._is_own(frame):
            raise ClientError(f"what listens on the socket of run {self._name} is another program or another run")
        return frame

    def _is_own(self, hello: Hello) -> bool:
        """True if the engine trains in the folder that was asked for, and not in one from which it was copied.

        An engine of an earlier version only says its run's name.
        """
        if not hello.folder:
            return hello.run == self._name
        try:
            return hello.folder == self._folder.identity()
        except OSError as error:
            raise ClientError(f"{self._folder.path} can't be read: {error.strerror or error}") from error


class Watch:
    """Iterates over the events of a run: up to `recent` past ones, then every new one.

    It ends when the run ends, or when `close()` is called.  `dropped` counts the events that were missed.  Raises ClientError
    if nothing listens.
    """

    def __init__(self, folder: RunFolder, recent: int = 256, timeout_s: float = 30.0) -> None:
        self._connection = Connection(folder, timeout_s)
        self.hello = self._connection.hello
        self.dropped = 0
        self._connection.write(protocol.encode(protocol.Subscribe(recent=recent)), timeout_s)

    def __iter__(self) -> Iterator[Seen]:
        while True:
            try:
                frame = self._connection.read(None)
            except ClientError:
                return
            if not isinstance(frame, protocol.Update):
                continue
            self.dropped = frame.dropped
            event = from_fields(frame.event)
            if event is not None:  # it is None if only a newer engine knows its kind
                yield Seen(frame.seq, event, frame.dropped, frame.snapshot)

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _connect(folder: RunFolder, timeout_s: float) -> socket.socket:
    try:
        info, state = folder.read_info(), state_of(folder)
    except RunFolderError as error:
        raise ClientError(str(error)) from error
    if state == "copied":
        where = f" in {Path(info.socket).parent}" if info.socket and _is_beside(info.socket, folder) else ""
        raise ClientError(
            f"nothing listens for run {folder.name} in {folder.path.parent}: it is a copy of a run that process {info.pid} "
            f"trains{where}; name that folder to reach it"
        )
    if info.socket is None:
        why = f"its state is {state}" if state != "starting" else "it is still starting, try again in a moment"
        raise ClientError(f"nothing listens for run {folder.name}: {why}")
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        channel.settimeout(timeout_s)
        if _is_beside(info.socket, folder):
            _connect_beside(channel, folder)
        else:
            channel.connect(info.socket)
    except OSError as error:
        channel.close()
        where = "" if info.state == state else f" (its state is {state})"
        raise ClientError(f"nothing listens for run {folder.name}{where}: {error.strerror or error}") from error
    return channel


def _is_beside(path: str, folder: RunFolder) -> bool:
    """True if the socket at this path stands in the engine's run folder, and not in a private folder of the user."""
    return Path(path).name == folder.control_sock.name


def _connect_beside(channel: socket.socket, folder: RunFolder) -> None:
    """Connects to the socket in this folder, wherever it was moved to.  `run.json` may still name the path of before.

    The path by the descriptor is short enough for a socket, however long that of the folder is.  Raises OSError.
    """
    descriptor = os.open(folder.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        channel.connect(f"/proc/self/fd/{descriptor}/{folder.control_sock.name}")
    finally:
        os.close(descriptor)
