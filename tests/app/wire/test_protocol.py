"""Tests of the control socket's frames: what is understood, and that everything else is refused with a reason."""

from __future__ import annotations

import json
import random

import pytest

from app.wire import protocol
from app.wire.protocol import ANSWERS, FRAME_BYTES, REQUESTS, VERSION, Command, FrameError, Hello, Reply, Subscribe, Update

FRAMES = [
    Hello(run="20261122-051530-tiny", state="running", pid=7),
    Subscribe(recent=10),
    Command(id=1, command="set", args={"key": "decode.every", "value": 10}, who="ann"),
    Command(id=2, command="set", args={"key": "stages.0.until_loss", "value": None}, who="ann"),
    Command(id=3, command="stage", args={"action": "goto", "stage": 2}, who="ann"),
    *(Command(id=4, command="stage", args={"action": action}, who="ann") for action in ("next", "hold", "release")),
    Command(id=5, command="wound", args={"wound": "block:8"}, who="ann"),
    Command(id=5, command="heal", args={"by": "stdp", "waves": 40}, who="ann"),
    *(Command(id=5, command=name, who="ann") for name in ("wound", "heal", "pause", "resume", "decode", "checkpoint", "stop")),
    Reply(id=1, ok=True, step=20),
    Reply(ok=False, error="no"),
    Update(seq=3, dropped=2, event={"kind": "warned", "message": "é\n"}),
]


def line(**fields: object) -> bytes:
    return json.dumps({"v": VERSION} | fields).encode() + b"\n"


def command(**fields: object) -> bytes:
    return line(**{"kind": "command", "id": 1, "command": "pause", "args": {}, "who": "ann"} | fields)


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: frame.kind)
def test_a_frame_is_one_line_and_read_back_as_it_was(frame):
    raw = protocol.encode(frame)
    assert raw.count(b"\n") == 1 and raw.endswith(b"\n")
    read = protocol.request if frame.kind in REQUESTS else protocol.answer
    assert read(raw) == frame


def test_a_client_does_not_take_the_engines_frames_for_requests_nor_the_other_way_round():
    for frame in FRAMES:
        read = protocol.answer if frame.kind in REQUESTS else protocol.request
        with pytest.raises(FrameError, match="unknown kind of frame"):
            read(protocol.encode(frame))
    assert set(REQUESTS) & set(ANSWERS) == set()


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"\n", "not one JSON object a line"),
        (b"pause\n", "not one JSON object a line"),
        (b"[1]\n", "not one JSON object a line"),
        (b'{"v":1}{"v":1}\n', "not one JSON object a line"),
        (b'{"v":NaN}\n', "not one JSON object a line"),
        (b"\xff\xfe\n", "not one JSON object a line"),
        (b"[" * 60000 + b"\n", "not one JSON object a line"),
        (b"{}\n", "protocol version None is not spoken here; this is version 1"),
        (command(v=2), "protocol version 2"),
        (command(v="1"), "protocol version 1 is not"),
        (command(v=True), "protocol version True"),
        (line(kind="shell"), "unknown kind of frame 'shell'; known: subscribe, command"),
        (line(kind=["command"]), "unknown kind of frame"),
        (line(kind="subscribe", since=3), "subscribe: since: Extra inputs are not permitted"),
        (line(kind="subscribe", recent=10**6), "subscribe: recent: Input should be less than or equal to 1024"),
        (command(id=0), "id: Input should be greater"),
        (command(who=""), "who: String should have at least 1 character"),
        (command(who="x" * 101), "who: String should have at most 100"),
        (command(command="format"), "command: 'format' is no command; there are decode, set, stage"),
        (command(args={"force": True}), "force: Extra inputs are not permitted"),
        (command(sudo=True), "sudo: Extra inputs are not permitted"),
        (command(command="set", args={"key": "a.b"}), "value: Field required"),
        (command(command="set", args={"key": "a.b", "value": [1]}), "value"),
        (command(command="set", args={"key": "a.b", "value": 10**400}), "value"),
        (command(command="stage", args={"action": "goto"}), "goto needs the number of a stage"),
        (command(command="stage", args={"action": "next", "stage": 1}), "nothing else takes one"),
        (command(command="stage", args={"action": "back"}), "action: Input should be 'next', 'hold'"),
        (b" " * FRAME_BYTES + b"{}\n", f"a frame may have {FRAME_BYTES} bytes"),
    ],
    ids=lambda value: repr(value[:40]),
)
def test_what_is_no_request_is_refused_in_one_line_that_says_why(raw, reason):
    with pytest.raises(FrameError) as refusal:
        protocol.request(raw)
    assert reason in str(refusal.value)
    assert len(str(refusal.value)) < 700 and "\n" not in str(refusal.value)


def test_a_frame_that_is_too_long_is_not_sent():
    protocol.encode(Reply(ok=False, error="x" * (FRAME_BYTES - 200)))
    with pytest.raises(FrameError, match="longer than the 65536 allowed"):
        protocol.encode(Reply(ok=False, error="x" * FRAME_BYTES))


def mutated(draw: random.Random) -> bytes:
    """Random bytes, or a good frame that was cut, flipped, doubled, or given odd values."""
    good = protocol.encode(draw.choice(FRAMES))
    odd = [None, True, -1, 2**70, 1e308, "", "\ud800", "x" * 300, [], [[]], {}, {"v": 1}, 0.5, "set", "command"]
    match draw.randrange(6):
        case 0:
            return draw.randbytes(draw.randrange(200))
        case 1:
            return good[: draw.randrange(len(good))]
        case 2:
            raw = bytearray(good)
            for _ in range(draw.randrange(1, 4)):
                raw[draw.randrange(len(raw))] = draw.randrange(256)
            return bytes(raw)
        case 3:
            return good.strip() + good
        case 4:
            fields = json.loads(good)
            fields[draw.choice([*fields, "extra"])] = draw.choice(odd)
            return json.dumps(fields).encode()
        case _:
            fields = json.loads(protocol.encode(FRAMES[2]))
            fields["args"] = {draw.choice(["key", "value", "action", "stage"]): draw.choice(odd) for _ in range(3)}
            fields["command"] = draw.choice(["set", "stage", "pause", "stop"])
            return json.dumps(fields).encode()


def test_ten_thousand_damaged_frames_are_understood_or_refused_and_nothing_else_happens():
    draw, understood, refused = random.Random(7), 0, 0
    for _ in range(10_000):
        raw = mutated(draw)
        for read in (protocol.request, protocol.answer):
            try:
                frame = read(raw)
            except FrameError as error:
                refused += 1
                str(error).encode()
            else:
                understood += 1
                assert read(protocol.encode(frame)) == frame
    assert refused > 15_000 and understood > 100
