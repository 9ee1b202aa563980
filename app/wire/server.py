"""The engine's ear: a Unix socket beside the run, served by a thread of its own while training goes on.

    greeting -> subscribe -> snapshot, then a tail                any number of viewers
             -> command   -> reply with the step it took effect   one controller, until its connection ends

Server and training never wait for each other.  Events reach viewers through a ring (app.wire.feed).  Commands reach the trainer
through its inbox (lattice.training.inbox) and are answered once it has applied them.  Only the same user gets in.
This process holds the run's lock, so a socket file that is already there belongs to a dead engine and is replaced.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import socket
import stat
import struct
import tempfile
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.wire import protocol
from app.wire.feed import Feed
from app.wire.protocol import Command, FrameError, Hello, Reply, Subscribe
from lattice.training.inbox import Inbox, Order
from monitors.runs import RunFolder
from monitors.text_safety import printable

MOST_PATH_BYTES = 100
"""A Unix socket's path has room for 108 bytes on Linux, and less elsewhere."""

MOST_CONNECTIONS = 64
MOST_WAITING = 64
"""Commands of one connection that wait for the trainer."""

FAREWELL_S = 1.0
"""How long viewers have, at the end, to take what they have not read yet."""

_COMPLAINTS = 20
"""Refused connections that are told; nobody can fill a disk with them."""

_log = logging.getLogger(__name__)
"""Goes to stderr, unless somebody asks for less: a soak refuses connections all day."""


def peer_uid(channel: socket.socket) -> int:
    """User id of the process at the other end, from the kernel (SO_PEERCRED: pid, uid, gid)."""
    size = struct.calcsize("3i")
    return struct.unpack("3i", channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[1]


def socket_path(folder: RunFolder) -> Path:
    """Beside the run; where that path is too long for a socket, in a private folder.  Raises OSError."""
    beside = folder.control_sock.absolute()
    if len(os.fsencode(beside)) <= MOST_PATH_BYTES:
        return beside
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    name = "lattice-tui" if os.path.isabs(runtime) else f"lattice-tui-{os.getuid()}"
    place = Path(runtime if os.path.isabs(runtime) else tempfile.gettempdir()) / name
    with contextlib.suppress(FileExistsError):
        place.mkdir(mode=0o700)
    found = place.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(f"{place} is not a folder that only you may use")
    return place / f"{hashlib.sha256(os.fsencode(beside)).hexdigest()[:16]}.sock"


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
    """`start`, then `close`, both in the training thread.  `state()` is what `run.json` says."""

    def __init__(self, folder: RunFolder, feed: Feed, inbox: Inbox, state: Callable[[], str]) -> None:
        self._folder, self._feed, self._inbox, self._state = folder, feed, inbox, state
        self.path: str | None = None
        """Of the socket, while it is there."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)
        self._ending = asyncio.Event()
        self._peers: set[_Peer] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._controller: _Peer | None = None
        self._complaints = 0
        self._channel: socket.socket | None = None
        self._news_pending = False

    def start(self) -> str:
        """Listens; returns "" or why nobody will be able to: training goes on without."""
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
            self._loop.close()
            if self._channel is not None:
                self._channel.close()
            return f"this run can't be watched or steered: no control socket: {error.strerror or error}"
        self.path = os.fspath(path)
        self._feed.wake = self._news
        self._thread.start()
        return ""

    def close(self) -> None:
        """Says goodbye to everybody and removes the socket; takes FAREWELL_S at most."""
        if self.path is None:
            return
        with contextlib.suppress(OSError):
            os.unlink(self.path)
        self._feed.wake = lambda: None
        self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join()
        self.path = None

    # The thread

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
        """In the training thread: one wake-up of the loop is enough for all that happens before it runs."""
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
            peer.write(Hello(run=self._folder.name, state=self._state(), pid=os.getpid()))
            while line := await _line(reader):
                self._obey(peer, protocol.request(line))
                await writer.drain()
        except FrameError as error:
            self._refuse(peer, str(error))
        except OSError:  # the other end vanished
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
            taken = f"the run is being controlled by {self._controller.who!r}; try again when they have left"
            peer.write(Reply(id=frame.id, ok=False, error=taken))
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
        """Shows what has happened, then what happens, at the viewer's pace; ends when the run has and all is shown."""
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
    """The next line, or nothing at the end.  Raises FrameError where it is too long."""
    try:
        return await reader.readuntil(b"\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise FrameError("the connection ended in the middle of a frame") from error
        return b""
    except asyncio.LimitOverrunError as error:
        raise FrameError(f"a frame may have {protocol.FRAME_BYTES} bytes, this one has more") from error


def _update(seq: int, dropped: int, snapshot: bool, event: str) -> bytes:
    """An Update frame around JSON that is ready, so that ten viewers do not cost ten times its making."""
    head = f'{{"v":{protocol.VERSION},"kind":"update","seq":{seq},"dropped":{dropped}'
    return f'{head},"snapshot":{"true" if snapshot else "false"},"event":{event}}}\n'.encode()
