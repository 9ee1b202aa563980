"""The protocol of a run's control socket.  A frame is one JSON object on one line of at most 64 KiB.  It never contains code.

    engine -> client   hello            is sent at once, with the protocol's version, the run and its state
    client -> engine   subscribe        asks for events; is answered by updates: recent events, then every new one
    client -> engine   command          asks for a change; is answered by one reply with the same id
    engine -> client   update, reply    a reply with id 0 says why the engine closes the connection

Whatever does not fit these models is refused with a reason: unknown fields, other versions, frames that are too long, garbage.
Torch-free, because engine, commands and TUI share it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import from_json

from presets.control_commands import COMMANDS, Arguments

VERSION: Literal[1] = 1

FRAME_BYTES = 65536
"""Most bytes of a frame, including its newline."""

RECENT = 1024
"""Most recent events that a viewer can ask for, and most that wait for a slow viewer."""

_REASON_CHARACTERS = 500

Id = Annotated[int, Field(ge=0, lt=2**53)]
Seq = Annotated[int, Field(ge=0)]


class FrameError(ValueError):
    """A frame is wrong.  The message says why, in one sentence for its sender."""


class Frame(BaseModel):
    """What all frames have in common: `v` is the version of the protocol."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    v: Literal[1] = VERSION


class Hello(Frame):
    """The engine's greeting.  `folder` says in which folder it trains (RunFolder.identity); "" from earlier versions."""

    kind: Literal["hello"] = "hello"
    run: str
    state: str
    pid: int
    folder: str = ""


class Subscribe(Frame):
    """Asks for up to `recent` past events, and then all new ones."""

    kind: Literal["subscribe"] = "subscribe"
    recent: Annotated[int, Field(ge=0, le=RECENT)] = 256


def _known(command: str) -> str:
    if command not in COMMANDS:
        raise ValueError(f"{command[:40]!r} is no command; there are {', '.join(COMMANDS)}")
    return command


class Command(Frame):
    """An order to the run.  The first one makes its sender the run's controller, until the connection ends."""

    kind: Literal["command"] = "command"
    id: Annotated[int, Field(ge=1, lt=2**53)]
    command: Annotated[str, AfterValidator(_known)]
    args: dict[str, Any] = {}
    who: Annotated[str, Field(min_length=1, max_length=100)]

    @model_validator(mode="after")
    def _arguments_fit(self) -> Command:
        self.arguments()
        return self

    def arguments(self) -> Arguments:
        return COMMANDS[self.command].arguments.model_validate(self.args)


class Reply(Frame):
    """The answer to a command: the step after which it is in effect, or why it was refused."""

    kind: Literal["reply"] = "reply"
    id: Id = 0
    ok: bool
    step: int | None = None
    error: str = ""


class Update(Frame):
    """One event.  `seq` numbers the events of the engine's process from 0.

    `dropped` counts all events that this viewer has missed so far because it was too slow.  `snapshot` is True for events from
    before it subscribed.
    """

    kind: Literal["update"] = "update"
    seq: Seq
    dropped: Annotated[int, Field(ge=0)] = 0
    snapshot: bool = False
    event: dict[str, Any]


REQUESTS: dict[str, type[Frame]] = {"subscribe": Subscribe, "command": Command}
ANSWERS: dict[str, type[Frame]] = {"hello": Hello, "reply": Reply, "update": Update}


def encode(frame: Frame) -> bytes:
    """The line of bytes that stands for a frame.  Raises FrameError if it is too long."""
    line = frame.model_dump_json().encode() + b"\n"
    if len(line) > FRAME_BYTES:
        raise FrameError(f"a frame of {len(line)} bytes is longer than the {FRAME_BYTES} allowed")
    return line


def request(line: bytes) -> Subscribe | Command:
    """Parses a client's frame.  Raises FrameError if it is wrong."""
    frame = _parse(line, REQUESTS)
    assert isinstance(frame, Subscribe | Command)
    return frame


def answer(line: bytes) -> Hello | Reply | Update:
    """Parses an engine's frame.  Raises FrameError if it is wrong."""
    frame = _parse(line, ANSWERS)
    assert isinstance(frame, Hello | Reply | Update)
    return frame


def reason(error: ValidationError) -> str:
    """The first thing that is wrong by a validation error, in one line."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    return (f"{where}: {message}" if where else message)[:_REASON_CHARACTERS]


def _parse(line: bytes, kinds: dict[str, type[Frame]]) -> Frame:
    if len(line) > FRAME_BYTES:
        raise FrameError(f"a frame may have {FRAME_BYTES} bytes, this one has more")
    try:
        fields = from_json(line, allow_inf_nan=False, cache_strings="keys")
    except ValueError as error:
        raise FrameError(f"not one JSON object a line: {error}"[:_REASON_CHARACTERS]) from error
    if not isinstance(fields, dict):
        raise FrameError("not one JSON object a line")
    if fields.get("v") != VERSION or isinstance(fields["v"], bool):
        raise FrameError(f"protocol version {str(fields.get('v'))[:20]} is not spoken here; this is version {VERSION}")
    kind = fields.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        raise FrameError(f"unknown kind of frame {str(kind)[:40]!r}; known: {', '.join(kinds)}")
    try:
        return kinds[kind].model_validate(fields)
    except ValidationError as error:
        raise FrameError(f"{kind}: {reason(error)}") from error
