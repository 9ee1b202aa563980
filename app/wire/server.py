"""The server of a run's control socket, a Unix socket in the run's folder.  A thread of its own serves it during training.

    greeting -> subscribe -> snapshot, then new events                    any number of viewers
             -> command   -> reply with the step after which it holds     one controller, until its connection ends

Server and training never wait for each other.  Events reach viewers through a ring buffer (app.wire.feed).  Commands reach the
trainer through its inbox (lattice.training.inbox), and are answered once it has applied them.  Only the same user may connect.
This process holds the run's lock, so if there is a socket file already, it belongs to a dead engine and is replaced.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.wire import protocol
from app.wire.feed import Feed
from app.wire.protocol import Command, FrameError, Hello, Reply, Subscribe
from lattice.training.inbox import Inbox, Order
from monitors.places import private_folders
from monitors.runs import RunFolder
from monitors.text_safety import printable

MOST_PATH_BYTES = 100
"""Most bytes in the path of a Unix socket.  Linux has room for 108, other systems for less."""

MOST_CONNECTIONS = 64
MOST_WAITING = 64
"""Most commands of one connection that may wait for the trainer."""

FAREWELL_S = 1.0
"""Seconds that viewers have, at the end, to read what they have not read yet."""

_COMPLAINTS = 20
"""Most refused connections that are logged, so that nobody can fill a disk with them."""

_log = logging.getLogger(__name__)
"""Goes to stderr, unless its level is raised, as by the soak, which has connections refused all day."""


def peer_uid(channel: socket.socket) -> int:
    """The user id of the process at the other end, which the kernel knows (SO_PEERCRED: pid, uid, gid)."""
    size = struct.calcsize("3i")
    return struct.unpack("3i", channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[1]


def socket_path(folder: RunFolder) -> Path:
    """The path of a run's socket: in its folder or, if that path is too long, in a private folder of the user.

    Raises OSError if there is no such folder, or if its path is too long as well.
    """
    beside = folder.control_sock.absolute()
    name = f"{hashlib.sha256(os.fsencode(beside)).hexdigest()[:16]}.sock"
    for path in (beside, *(private / name for private in private_folders())):
        if len(os.fsencode(path)) <= MOST_PATH_BYTES:
            return path
    raise OSError(
        f"its path has {len(os.fsencode(beside))} bytes, of {MOST_PATH_BYTES} that a socket may have, and no folder of yours "
        "alone is in XDG_RUNTIME_DIR or TMPDIR; a shorter --runs-dir would help"
    )


@dataclass(eq=False)
class _Peer:
    """One connection."""

    writer: asyncio.StreamWriter
    who: str = ""
    waiting: set[int] = field(default_factory=set)
    tail: asyncio.Task[None] | None = None
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def write(self, frame: protocol.Frame) -> None:
        self.writer.write(protocol.encode(frame))


class Server:
    """Lets others watch and steer a run.  `start` and `close` must be called in the training thread.

    `state()` gives the state of the run as in `run.json`.
    """

    def __init__(self, folder: RunFolder, feed: Feed, inbox: Inbox, state: Callable[[], str]) -> None:
        self._folder, self._feed, self._inbox, self._state = folder, feed, inbox, state
        self.path: str | None = None
        """The path of the socket; None if the server does not listen."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)
        self._ending = asyncio.Event()
        self._peers: set[_Peer] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._controller: _Peer | None = None
        self._complaints = 0
        self._channel: socket.socket | None = None
        self._news_pending = False
        self._identity = folder.identity()

    def start(self) -> str:
        """Begins to listen.  Returns "", or why it can't listen; training then goes on without a socket."""
        try:
            path = socket_path(self._folder)
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            self._channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            before = os.umask(0o177)
            try:
                self._channel.bind(os.fspath(path))
            finally:
                os.umask(before)
            self._channel.listen(MOST_CONNECTIONS)
        except OSError as error:
            return self._not_started(error.strerror or str(error))
        try:
            self._thread.start()
        except RuntimeError as error:  # the limit of threads is reached
            path.unlink()
            return self._not_started(str(error))
        self.path = os.fspath(path)
        self._feed.wake = self._news
        return ""

    def _not_started(self, why: str) -> str:
        self._loop.close()
        if self._channel is not None:
            self._channel.close()
        return f"this run can't be watched or steered: no control socket: {why}"

    def move(self) -> None:
        """Takes the path that the socket has since its run folder was moved.  Connections stay."""
        if self.path is not None and Path(self.path).name == self._folder.control_sock.name:
            self.path = os.fspath(self._folder.control_sock.absolute())

    def close(self) -> None:
        """Closes all connections and removes the socket.  Waits at most FAREWELL_S seconds for viewers."""
        if self.path is None:
            return
        with contextlib.suppress(OSError):
            os.unlink(self.path)
        self._feed.wake = lambda: None
        self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join()
        self.path = None

    # What the server's thread does

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_unix_server(self._accept, sock=self._channel, limit=protocol.FRAME_BYTES)
        await self._ending.wait()
        server.close()
        for peer in self._peers:
            for number in sorted(peer.waiting):
                peer.write(Reply(id=number, ok=False, error="the run has ended"))
            peer.waiting.clear()
            peer.news.set()
        tails = [peer.tail for peer in self._peers if peer.tail is not None]
        if tails:
            await asyncio.wait(tails, timeout=FAREWELL_S)
        for peer in list(self._peers):
            if peer.writer.transport.get_write_buffer_size():
                peer.writer.transport.abort()
            else:
                peer.writer.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _news(self) -> None:
        """Wakes the loop; is called in the training thread.  One wake-up serves all events that come before the loop runs."""
        if not self._news_pending:
            self._news_pending = True
            self._loop.call_soon_threadsafe(self._spread)

    def _spread(self) -> None:
        self._news_pending = False
        for peer in self._peers:
            peer.news.set()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._begin(self._converse(reader, writer))

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = _Peer(writer)
        writer.transport.set_write_buffer_limits(high=protocol.FRAME_BYTES)
        try:
            uid = peer_uid(writer.get_extra_info("socket"))
            if uid != os.getuid():
                self._refuse(peer, f"this run belongs to user {os.getuid()}, you are user {uid}")
                return
            if len(self._peers) >= MOST_CONNECTIONS:
                self._refuse(peer, f"{MOST_CONNECTIONS} others are connected already")
                return
            self._peers.add(peer)
            peer.write(Hello(run=self._folder.name, state=self._state(), pid=os.getpid(), folder=self._identity))
            while line := await _line(reader):
                self._obey(peer, protocol.request(line))
                await writer.drain()
        except FrameError as error:
            self._refuse(peer, str(error))
        except OSError:  # the other end is gone
            pass
        finally:
            self._forget(peer)

    def _obey(self, peer: _Peer, frame: Subscribe | Command) -> None:
        if isinstance(frame, Subscribe):
            if peer.tail is not None:
                raise FrameError("subscribe: this connection has subscribed already")
            peer.tail = self._begin(self._tail(peer, frame.recent))
            return
        if self._controller not in (None, peer):
            refusal = f"the run is being controlled by {self._controller.who!r}; try again when they have left"
            peer.write(Reply(id=frame.id, ok=False, error=refusal))
            return
        if frame.id in peer.waiting or len(peer.waiting) >= MOST_WAITING:
            why = "that id is waiting already" if frame.id in peer.waiting else "too many commands are waiting"
            peer.write(Reply(id=frame.id, ok=False, error=why))
            return
        self._controller, peer.who = peer, printable(frame.who)
        peer.waiting.add(frame.id)

        def answer(step: int | None, error: str) -> None:
            reply = Reply(id=frame.id, ok=step is not None, step=step, error=error[:4000])
            with contextlib.suppress(RuntimeError):  # the server has closed meanwhile, and has answered itself
                self._loop.call_soon_threadsafe(self._answer, peer, reply)

        self._inbox.put(Order(frame.command, peer.who, answer, frame.arguments()))

    def _answer(self, peer: _Peer, reply: Reply) -> None:
        if reply.id in peer.waiting:
            peer.waiting.discard(reply.id)
            peer.write(reply)

    async def _tail(self, peer: _Peer, recent: int) -> None:
        """Sends past events, then new ones, at the viewer's pace.  Ends when the run has ended and all events are sent."""
        dropped, writer = 0, peer.writer
        with contextlib.suppress(OSError):
            past, cursor = self._feed.snapshot(recent)
            for seq, text in past:
                writer.write(_update(seq, 0, True, text))
                await writer.drain()
            while True:
                peer.news.clear()
                while (found := self._feed.after(cursor)) is not None:
                    seq, text = found
                    dropped += seq - cursor
                    cursor = seq + 1
                    writer.write(_update(seq, dropped, False, text))
                    await writer.drain()
                if self._ending.is_set():
                    return
                await peer.news.wait()

    def _refuse(self, peer: _Peer, why: str) -> None:
        self._complaints += 1
        if self._complaints <= _COMPLAINTS:
            last = " (further ones are not shown)" if self._complaints == _COMPLAINTS else ""
            _log.warning("control socket: refused a connection: %s%s", printable(why), last)
        with contextlib.suppress(OSError):
            peer.write(Reply(ok=False, error=why))

    def _forget(self, peer: _Peer) -> None:
        self._peers.discard(peer)
        if self._controller is peer:
            self._controller = None
        if peer.tail is not None:
            peer.tail.cancel()
        peer.waiting.clear()
        peer.writer.close()


async def _line(reader: asyncio.StreamReader) -> bytes:
    """The next line; empty at the end of the connection.  Raises FrameError if it is too long or not complete."""
    try:
        return await reader.readuntil(b"\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise FrameError("the connection ended in the middle of a frame") from error
        return b""
    except asyncio.LimitOverrunError as error:
        raise FrameError(f"a frame may have {protocol.FRAME_BYTES} bytes, this one has more") from error


def _update(seq: int, dropped: int, snapshot: bool, event: str) -> bytes:
    """An Update frame around an event that is JSON already, so that ten viewers do not serialize it ten times."""
    head = f'{{"v":{protocol.VERSION},"kind":"update","seq":{seq},"dropped":{dropped}'
    return f'{head},"snapshot":{"true" if snapshot else "false"},"event":{event}}}\n'.encode()
