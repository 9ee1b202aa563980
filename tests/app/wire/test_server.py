"""Tests of the control socket, without a trainer: who gets in, who steers, who watches, and what is refused."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import random
import select
import shutil
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.wire import protocol
from app.wire import server as module
from app.wire.client import ClientError, Connection, Watch, send
from app.wire.feed import Feed
from app.wire.protocol import FRAME_BYTES, RECENT, Hello, Reply, Subscribe, Update
from app.wire.server import MOST_CONNECTIONS, Server, socket_path
from lattice.training.inbox import Inbox, Order
from monitors.events import Decoded, RunEnded, Sample, StageStarted, Trained, Warned
from monitors.runs import RunFolder, RunInfo, state_of
from presets.control_commands import Arguments, SetArguments, StageArguments

WAIT_S = 20.0


def trained(step: int) -> Trained:
    return Trained(step=step, loss=1.0, grad_norm=1.0, learning_rate=0.1, step_s=0.1)


class Engine:
    """A run folder with a listening server, and the trainer's side of both."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder, self.feed, self.inbox, self.state = folder, Feed(), Inbox(), "running"
        self.server = Server(folder, self.feed, self.inbox, lambda: self.state)
        self.deaf = self.server.start()
        own = {"run": folder.name, "folder": folder.identity()}
        self.info = RunInfo.of_this_process(**own, preset="tiny", created=1.0, version="0", state="running")
        folder.write_info(self.info.model_copy(update={"socket": self.server.path}))

    def obey(self, step: int = 5, error: str = "") -> Order:
        """Takes the next order and answers it, as the trainer does at the end of a step."""
        order = self.inbox.wait()
        order.answer(None if error else step, error)
        return order

    @contextlib.contextmanager
    def watch(self):
        """(watch, iterator) of a viewer that has seen one event: from here on it sees all."""
        self.feed.publish(Warned(message="before"))
        with Watch(self.folder, recent=1) as watch:
            seen = iter(watch)
            assert next(seen).event.message == "before"
            yield watch, seen

    def connect(self) -> Raw:
        return Raw(self.server.path)


class Raw:
    """A connected socket without a client's checks, as a careless or hostile client has it."""

    def __init__(self, path: str, buffer: int | None = None) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(WAIT_S)
        if buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.connect(path)
        self._stream = self.socket.makefile("rb")

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self.socket.close()

    def send(self, raw: bytes) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(raw)

    def frame(self):
        """The next frame, or None if the engine has closed the connection."""
        with contextlib.suppress(ConnectionResetError):
            line = self._stream.readline()
            return protocol.answer(line) if line else None
        return None

    def command(self, number: int, who: str = "raw", name: str = "pause") -> None:
        self.send(protocol.encode(protocol.Command(id=number, command=name, who=who)))


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder of its own whose path is as short as they get: a socket's path has 107 bytes at most."""
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


@pytest.fixture
def engine(short_path):
    folder = RunFolder(short_path / "20261122-051530-tiny")
    folder.path.mkdir(mode=0o700)
    engine = Engine(folder)
    yield engine
    engine.server.close()


def refusals(caplog) -> list[str]:
    return [line for line in caplog.messages if "refused a connection" in line]


# The socket


def test_the_socket_stands_beside_the_run_for_its_owner_alone_and_goes_at_the_end(engine):
    path = engine.folder.control_sock
    assert engine.deaf == "" and engine.server.path == str(path)
    found = path.stat()
    assert stat.S_ISSOCK(found.st_mode) and found.st_mode & 0o777 == 0o600
    engine.server.close()
    assert not path.exists()
    engine.server.close()  # a second time is no error
    with pytest.raises(ClientError, match="nothing listens for run 20261122-051530-tiny"):
        send(engine.folder, "pause", {}, "ann")


def test_a_dead_engines_socket_is_replaced(tmp_path):
    folder = RunFolder(tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(folder.control_sock))
    folder.write_info(
        RunInfo.of_this_process(run="x", preset="tiny", created=1.0, version="0", socket=str(folder.control_sock))
    )
    with pytest.raises(ClientError, match="nothing listens"):
        send(folder, "pause", {}, "ann")
    engine = Engine(folder)
    with Connection(folder) as connection:
        assert connection.hello == Hello(run=folder.name, state="running", pid=os.getpid(), folder=folder.identity())
    engine.server.close()


def test_where_the_path_is_too_long_the_socket_goes_to_a_private_folder_that_run_json_names(short_path, monkeypatch):
    runtime = short_path / "r"
    runtime.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    folder = RunFolder(short_path / ("x" * 100))
    folder.path.mkdir()
    engine = Engine(folder)
    path = Path(engine.server.path)
    assert path.parent == runtime / "lattice-tui" and path.parent.stat().st_mode & 0o777 == 0o700
    with Connection(folder) as connection:
        assert connection.hello.run == folder.name
    engine.server.close()
    assert not path.exists()


def test_a_folder_that_others_may_use_is_no_place_for_a_socket_and_the_run_goes_on_deaf(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "lattice-tui").mkdir(mode=0o755)
    (tmp_path / f"lattice-tui-{os.getuid()}").mkdir(mode=0o755)
    folder = RunFolder(tmp_path / ("x" * 100))
    folder.path.mkdir()
    with pytest.raises(OSError, match=r"its path has .* no folder of yours alone"):
        socket_path(folder)
    engine = Engine(folder)
    assert engine.deaf.startswith("this run can't be watched or steered: no control socket: its path has ")
    assert engine.deaf.endswith("a shorter --runs-dir would help")
    engine.feed.publish(trained(1))
    engine.server.close()
    gc.collect()
    with pytest.raises(ClientError, match="nothing listens"):
        send(folder, "pause", {}, "ann")


@pytest.mark.parametrize("runtime", ["", "/nowhere/to/be/found"])
def test_without_a_runtime_folder_the_private_one_bears_the_users_number(runtime, short_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    monkeypatch.setattr(tempfile, "tempdir", str(short_path))
    assert socket_path(RunFolder(short_path / ("x" * 100))).parent == short_path / f"lattice-tui-{os.getuid()}"


def test_a_private_folder_with_too_long_a_path_gives_way_to_the_next(short_path, monkeypatch):
    runtime = short_path / ("r" * 90)
    runtime.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.setattr(tempfile, "tempdir", str(short_path))
    assert socket_path(RunFolder(short_path / ("x" * 100))).parent == short_path / f"lattice-tui-{os.getuid()}"


def test_where_no_thread_can_be_started_the_run_goes_on_without_a_socket(tmp_path, monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    folder = RunFolder(tmp_path)
    with monkeypatch.context() as limited:
        limited.setattr(threading.Thread, "start", refuse)
        engine = Engine(folder)
    assert engine.deaf == "this run can't be watched or steered: no control socket: can't start new thread"
    assert engine.server.path is None and not folder.control_sock.exists()
    engine.feed.publish(trained(1))
    engine.server.close()


# Whose socket it is


def copied(engine: Engine, to: Path) -> RunFolder:
    """A copy of the engine's folder under the same name, as `cp -r` makes it in another folder for runs."""
    shutil.copytree(engine.folder.path, to / engine.folder.name, ignore=lambda *_: ["control.sock"])
    return RunFolder(to / engine.folder.name)


def test_commands_and_viewers_of_a_copied_folder_do_not_reach_the_originals_engine(engine, short_path):
    copy = copied(engine, short_path / "backup")
    for reach in (lambda: send(copy, "stop", {}, "ann"), lambda: Watch(copy)):
        with pytest.raises(ClientError, match=rf"it is a copy of a run that process {os.getpid()} trains in ") as refused:
            reach()
        assert str(engine.folder.path) in str(refused.value)
    assert state_of(copy) == "copied" and state_of(engine.folder) == "running"
    assert list(engine.inbox.waiting()) == []


def test_a_copy_whose_run_json_does_not_say_its_folder_is_told_by_the_greeting(engine, short_path):
    """So it is with a hard link to the socket, as `cp -al` makes it."""
    copy = copied(engine, short_path / "backup")
    os.link(engine.folder.control_sock, copy.control_sock)
    copy.write_info(copy.read_info().model_copy(update={"folder": ""}))
    with pytest.raises(ClientError, match="is another program or another run"):
        send(copy, "stop", {}, "ann")
    assert list(engine.inbox.waiting()) == []


def test_a_copy_of_a_folder_whose_socket_is_elsewhere_does_not_reach_it_either(short_path, monkeypatch):
    (short_path / "r").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_path / "r"))
    folder = RunFolder(short_path / ("x" * 100))
    folder.path.mkdir()
    engine = Engine(folder)
    copy = copied(engine, short_path / "backup")
    copy.write_info(copy.read_info().model_copy(update={"folder": ""}))
    with pytest.raises(ClientError, match="is another program or another run"):
        send(copy, "stop", {}, "ann")
    engine.server.close()


def test_the_engine_of_a_renamed_folder_is_reached_under_the_new_name(engine, short_path):
    engine.folder.path.rename(short_path / "renamed")
    with Connection(RunFolder(short_path / "renamed")) as connection:
        assert connection.hello.pid == os.getpid()


def test_an_engine_of_an_earlier_version_is_reached_by_its_runs_name(engine):
    engine.folder.write_info(engine.info.model_copy(update={"folder": "", "socket": engine.server.path}))
    engine.server._identity = ""  # as its greeting says nothing of the folder
    with Connection(engine.folder) as connection:
        assert connection.hello.run == engine.folder.name


# Who gets in


def test_another_users_process_is_refused_and_logged(engine, monkeypatch, caplog):
    monkeypatch.setattr(module, "peer_uid", lambda channel: os.getuid() + 1)
    with pytest.raises(ClientError, match=f"refuses the connection: this run belongs to user {os.getuid()}, you are user"):
        send(engine.folder, "stop", {}, "mallory")
    assert len(refusals(caplog)) == 1
    monkeypatch.undo()
    with Connection(engine.folder) as connection:
        assert connection.hello.state == "running"


def test_the_kernel_says_who_is_at_the_other_end():
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        assert module.peer_uid(ours) == os.getuid()


def test_more_connections_than_there_is_room_for_are_refused_until_one_leaves(engine):
    with contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(engine.connect()) for _ in range(MOST_CONNECTIONS)]
        assert all(isinstance(peer.frame(), Hello) for peer in crowd)
        with engine.connect() as late:
            assert late.frame() == Reply(ok=False, error=f"{MOST_CONNECTIONS} others are connected already")
            assert late.frame() is None
    assert connected_in_the_end(engine)


def connected_in_the_end(engine: Engine) -> bool:
    """Tries to connect until the engine has noticed that others left."""
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        with contextlib.suppress(ClientError), Connection(engine.folder):
            return True
    return False


# Who steers


def test_a_command_reaches_the_trainer_as_an_order_and_comes_back_with_its_step(engine):
    cases = [
        ("set", {"key": "decode.every", "value": 10}, SetArguments(key="decode.every", value=10)),
        ("set", {"key": "stages.0.until_loss", "value": None}, SetArguments(key="stages.0.until_loss", value=None)),
        ("stage", {"action": "goto", "stage": 1}, StageArguments(action="goto", stage=1)),
        ("stage", {"action": "hold"}, StageArguments(action="hold")),
        ("pause", {}, Arguments()),
    ]
    with Connection(engine.folder) as connection:
        for number, (name, args, expected) in enumerate(cases, 1):
            order_line = protocol.Command(id=number, command=name, args=args, who="ann")
            connection.write(protocol.encode(order_line), WAIT_S)
            order = engine.obey(step=number)
            assert (order.command, order.arguments) == (name, expected) and order.who == "ann"
            assert connection.read(WAIT_S) == Reply(id=number, ok=True, step=number)


def test_a_refusal_of_the_trainer_comes_back_with_its_reason(engine):
    with engine.connect() as peer:
        peer.frame()
        peer.command(1)
        engine.obey(error="the run is paused already")
        assert peer.frame() == Reply(id=1, ok=False, error="the run is paused already")


def test_what_does_not_fit_the_protocol_is_refused_by_the_client_without_asking(engine):
    reply = send(engine.folder, "format", {}, "ann")
    assert (reply.ok, reply.step) == (False, None)
    assert reply.error.startswith("command: 'format' is no command; there are decode, set, ")
    assert "goto needs the number" in send(engine.folder, "stage", {"action": "goto"}, "ann").error


def test_a_second_controller_is_refused_politely_and_gets_the_place_when_the_first_leaves(engine):
    with engine.connect() as first, engine.connect() as second:
        first.frame(), second.frame()
        first.command(1, who="ann")
        engine.obey(step=3)
        assert first.frame() == Reply(id=1, ok=True, step=3)
        second.command(1, who="bob")
        assert second.frame() == Reply(
            id=1, ok=False, error="the run is being controlled by 'ann'; try again when they have left"
        )
        engine.feed.publish(trained(4))
        second.send(protocol.encode(Subscribe()))  # watching is for all
        assert isinstance(second.frame(), Update)
        first.socket.shutdown(socket.SHUT_RDWR)
        assert first.frame() is None
        reply, number = Reply(ok=False), 1
        while not reply.ok:  # until the engine has seen the first one leave
            number += 1
            second.command(number, who="bob")
            ready = None
            while ready is None:
                if select.select([second.socket], [], [], 0)[0]:
                    ready = "refused"
                with contextlib.suppress(StopIteration):
                    order = next(engine.inbox.waiting())
                    order.answer(9, "")
                    ready = "obeyed"
            reply = second.frame()
        assert (reply.id, reply.step) == (number, 9)


def test_commands_that_still_wait_at_the_end_are_told_so(engine):
    with engine.connect() as peer:
        peer.frame()
        peer.command(1)
        order = engine.inbox.wait()
        engine.server.close()
        assert peer.frame() == Reply(id=1, ok=False, error="the run has ended")
        assert peer.frame() is None
        order.answer(9, "")  # too late, and harmless


def test_an_engine_that_does_not_answer_in_time_is_said_to_be_slow(engine):
    with pytest.raises(ClientError, match="has not answered within 0 s; its step takes longer"):
        send(engine.folder, "pause", {}, "ann", timeout_s=0.05)


def test_orders_beyond_what_may_wait_are_refused(engine):
    with engine.connect() as peer:
        peer.frame()
        for number in range(1, module.MOST_WAITING + 2):
            peer.command(number)
        assert peer.frame() == Reply(id=module.MOST_WAITING + 1, ok=False, error="too many commands are waiting")
        peer.command(1)
        assert peer.frame().error == "that id is waiting already"


# Who watches


def test_a_viewer_gets_what_happened_and_then_what_happens_until_the_run_ends(engine):
    start = StageStarted(
        name="a", shape=(1, 1, 2), cells=2, ticks=1, kernel="k", plan_bytes=1, micro_batch=1, accumulation=1, carried=False
    )
    engine.feed.publish(start)
    for step in range(1, 11):
        engine.feed.publish(trained(step))
    with Watch(engine.folder, recent=3) as watch:
        seen = iter(watch)
        past = [next(seen) for _ in range(4)]
        # The stage's start is older than the three asked for; a viewer could make nothing of these without it.
        assert [(item.event.kind, item.event.step) for item in past] == [
            ("stage_started", 0),
            ("trained", 8),
            ("trained", 9),
            ("trained", 10),
        ]
        assert [item.snapshot for item in past] == [True] * 4 and [item.seq for item in past] == [0, 8, 9, 10]
        engine.feed.publish(trained(11))
        item = next(seen)
        assert (item.event, item.snapshot, item.seq, item.dropped) == (trained(11), False, 11, 0)
        end = RunEnded(step=11, state="finished", reason="all done", exit_code=0)
        engine.feed.publish(end)
        engine.server.close()
        assert [item.event for item in seen] == [end]


def test_closing_a_watch_from_elsewhere_ends_its_loop(engine):
    with engine.watch() as (watch, seen):
        engine.feed.publish(trained(1))
        for _ in seen:
            watch.close()


def test_a_slow_viewer_loses_the_oldest_sees_the_latest_and_knows_how_many_are_gone(engine):
    count = 4 * RECENT
    with Raw(engine.server.path, buffer=4096) as slow, engine.watch() as (fast, seen):
        slow.frame()
        slow.send(protocol.encode(Subscribe(recent=1)))
        assert slow.frame().event["message"] == "before"
        long = "x" * 4000
        for step in range(count):
            engine.feed.publish(Warned(step=step, message=long))
            next(seen)  # the fast one keeps up: nothing it sees waits for the slow one
        assert fast.dropped == 0
        numbers, dropped = [], []
        while not numbers or numbers[-1] < count:  # the first event has number 0
            update = slow.frame()
            numbers.append(update.seq)
            dropped.append(update.dropped)
        assert dropped[-1] == count - len(numbers) > 0
        assert dropped == sorted(dropped) and numbers == sorted(numbers)


def test_an_event_with_more_text_than_a_frame_holds_is_shown_with_fewer_samples(engine):
    sample = Sample(source="é" * 1000, reference="é" * 1000, said="é" * 1000)
    event = Decoded(
        bleu=1.0, chrf=1.0, exact=0.0, valid_loss=1.0, count=64, signature="s", samples=(sample,) * 64, seconds=1.0,
        peak_bytes=1, active_share=1.0, gradient_share=1.0, best=True,
    )  # fmt: skip
    with engine.watch() as (_, seen):
        engine.feed.publish(event)
        engine.feed.publish(Warned(message="\0" * 100_000))
        assert len(next(seen).event.samples) == 8
        assert next(seen).event.message == "\0" * 1000


# Garbage


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"GET / HTTP/1.1\r\n", "not one JSON object a line"),
        (b"x" * (3 * FRAME_BYTES), "a frame may have 65536 bytes, this one has more"),
        (b'{"v":9,"kind":"command"}\n', "protocol version 9 is not spoken here"),
        (b'{"v":1,"kind":"subscribe","pickle":"gASV"}\n', "subscribe: pickle: Extra inputs"),
    ],
    ids=["another protocol", "giant", "version", "unknown field"],
)
def test_what_is_no_frame_ends_the_connection_with_a_reason_and_a_line_in_the_log(engine, caplog, raw, why):
    with engine.connect() as peer:
        assert isinstance(peer.frame(), Hello)
        peer.send(raw)
        reply = peer.frame()
        # What was sent beyond the refused bytes can cost the answer: the kernel resets a connection closed with unread input.
        assert reply is None or (reply.id == 0 and why in reply.error)
        assert peer.frame() is None
    [line] = refusals(caplog)
    assert why in line


def test_half_a_frame_and_a_vanished_client_disturb_nobody(engine):
    with engine.watch() as (_, seen):
        for _ in range(20):
            with engine.connect() as peer:
                peer.send(b'{"v":1,"kind":')
        engine.feed.publish(trained(1))
        assert next(seen).event.step == 1


def test_hundreds_of_random_conversations_leave_the_engine_listening_and_give_it_no_order(engine, caplog):
    draw = random.Random(11)
    for _ in range(400):
        with contextlib.suppress(OSError), engine.connect() as peer:
            match draw.randrange(4):
                case 0:
                    peer.send(draw.randbytes(draw.randrange(1, 2000)) + b"\n")
                case 1:
                    peer.send(b"x" * draw.randrange(FRAME_BYTES, 4 * FRAME_BYTES))
                case 2:
                    frame = {"v": draw.choice([0, 2, -1, None, "1"]), "kind": "command", "id": 1, "command": "stop", "who": "x"}
                    peer.send(json.dumps(frame).encode() + b"\n")
                case _:
                    frame = {"v": 1, "kind": "command", "id": 1, "command": "stop", "who": "x", draw.choice("abc"): 1}
                    peer.send(json.dumps(frame).encode() + b"\n")
            if draw.random() < 0.5:
                peer.frame()
    assert connected_in_the_end(engine)
    with engine.connect() as peer:
        assert isinstance(peer.frame(), Hello)
        peer.command(1, who="ann", name="checkpoint")
        assert (engine.obey().command, peer.frame().ok) == ("checkpoint", True)
    said = refusals(caplog)
    assert len(said) == 20 and said[-1].endswith("(further ones are not shown)")
