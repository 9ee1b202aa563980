"""What happened in a run: one hierarchy of typed events, the log they are appended to, and its tolerant reader.

`events.jsonl` is the truth about a run: one JSON object a line, in the order in which things happened.  Writing it flushes
each line to the operating system, so that a killed process loses none; a line torn by a crash of the machine is cut off when
the log is next opened.  The reader goes on where it stopped, by byte offset, and skips what it can't read: a log of a newer
version may hold kinds it has never heard of.

Events have one writer in one process.  Numbers that may be missing are None, never NaN (see monitors.fields).
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError

from monitors.fields import Measured, Text
from monitors.plain_files import open_descriptor, open_plain
from monitors.runs import atomic_write

_BLOCK = 65536
"""Bytes read at once when looking for the end of the last whole line."""


class Event(BaseModel):
    """Time in unix seconds (0.0 until the log sets it), global optimizer step (0 before the first), and stage index."""

    # Unknown fields are refused here and ignored by `parse_event`: a typo in the code fails, a newer log is read.
    model_config = ConfigDict(extra="forbid", frozen=True)

    time: FiniteFloat = 0.0
    step: Annotated[int, Field(ge=0)] = 0
    stage: Annotated[int, Field(ge=0)] = 0


class RunStarted(Event):
    """A process took up the run; `resumed` from a checkpoint, or from nothing."""

    kind: Literal["run_started"] = "run_started"
    run: Text
    resumed: bool
    message: Text


class StageStarted(Event):
    """Shape (x, y, z) in cells, the tick kernel in one line, and whether weights were `carried` over from the last stage.

    `checkpoint_ticks` is the segment of which one state is kept (0: all are); `learned_bytes` the peak that `learned_from`
    stages measured on this machine predict.
    """

    kind: Literal["stage_started"] = "stage_started"
    name: Text
    shape: tuple[int, int, int]
    cells: int
    ticks: int
    kernel: Text
    plan_bytes: int
    micro_batch: int
    accumulation: int
    carried: bool
    checkpoint_ticks: int = 0
    learned_bytes: int | None = None
    learned_from: int = 0


class StageEnded(Event):
    kind: Literal["stage_ended"] = "stage_ended"
    name: Text
    reason: Literal["steps", "loss", "plateau", "operator", "stopped"]


class Trained(Event):
    """One optimizer step: its loss, the global gradient norm, the learning rate used, and the seconds it took."""

    kind: Literal["trained"] = "trained"
    loss: Measured
    grad_norm: Measured
    learning_rate: FiniteFloat
    step_s: FiniteFloat


class Sample(BaseModel):
    """One held-out sentence: what went in, what should come out, what the decoder said; `bleu` its sentence BLEU, 0..100.

    A log of a version that did not score sentences has no `bleu`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Text
    reference: Text
    said: Text
    bleu: Measured = None


class Decoded(Event):
    """One look of the decode monitor: BLEU and chrF 0..100, `exact` and the shares 0..1, `count` sentences scored.

    `seconds` and `peak_bytes` are what the look itself cost; `best`: no earlier look of the run was better.
    """

    kind: Literal["decoded"] = "decoded"
    bleu: FiniteFloat
    chrf: FiniteFloat
    exact: FiniteFloat
    valid_loss: Measured
    count: int
    signature: Text
    samples: tuple[Sample, ...]
    seconds: FiniteFloat
    peak_bytes: int
    active_share: FiniteFloat
    gradient_share: Measured
    best: bool


class Saved(Event):
    """A checkpoint is complete on disk."""

    kind: Literal["saved"] = "saved"
    path: Text
    seconds: FiniteFloat
    bytes: int
    best: bool


class BadStep(Event):
    """A step that was not applied, its loss or gradient not being finite or its loss a spike.

    `in_a_row` counts them since the last good one.
    """

    kind: Literal["bad_step"] = "bad_step"
    reason: Text
    in_a_row: int


class RolledBack(Event):
    """Weights and moments are those of the checkpoint of `to_step` again, and the steps go on from here."""

    kind: Literal["rolled_back"] = "rolled_back"
    to_step: int
    reason: Text


class MemorySampled(Event):
    """What the training process holds: resident bytes on the host and, on a CUDA device, what torch's allocator counts.

    `allocated_bytes` is live tensors, `reserved_bytes` adds what the allocator keeps, `peak_bytes` the most ever allocated
    (resident, without a GPU).  `device_uuid` names the GPU as CUDA tells it (monitors.gauges.same_gpu), "" on the CPU.
    """

    kind: Literal["memory_sampled"] = "memory_sampled"
    device: Text
    device_uuid: Text
    rss_bytes: int | None
    allocated_bytes: int | None
    reserved_bytes: int | None
    peak_bytes: int | None


class Clustered(Event):
    """The functional clusters were formed anew: cells in each, largest first (at most 256 of them).

    `silhouette` is the mean cosine silhouette of a sample, -1..1; `stability` the normalised mutual information with the
    clustering before, 0..1, None for the first.
    """

    kind: Literal["clustered"] = "clustered"
    count: int
    sizes: tuple[int, ...]
    silhouette: Measured
    stability: Measured
    merged: int
    seconds: FiniteFloat


class Plastic(Event):
    """What plasticity did to the connections since the last such event, over `updates` updates.

    `potentiated` and `depressed` count connections by what the last update did to their magnitude; `theta` are the minimum,
    quartiles and maximum of the cells' BCM thresholds; `mean_change` is the mean |dw| of an update; `message_change`
    the relative change that the first one made to the messages of a probe, which are normalised (0 where it only rescales);
    `skipped_share` is the share of the rule's work that event-driven updates avoided.
    """

    kind: Literal["plastic"] = "plastic"
    updates: int
    potentiated: int
    depressed: int
    unchanged: int
    active_share: FiniteFloat
    theta: tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]
    mean_change: FiniteFloat
    message_change: Measured
    skipped_share: FiniteFloat
    seconds: FiniteFloat


class Rewired(Event):
    """Connections were pruned and regrown; `sparsity` afterwards, 0..1.

    `fan_in[n]` is the number of cells with n incoming connections.
    """

    kind: Literal["rewired"] = "rewired"
    pruned: int
    regrown: int
    sparsity: FiniteFloat
    fan_in: tuple[int, ...]
    seconds: FiniteFloat


class VolumeSaved(Event):
    """Per-cell fields were written beside the log, thinned to `shape` cells (monitors.volumes reads them)."""

    kind: Literal["volume_saved"] = "volume_saved"
    file: Text
    fields: tuple[Text, ...]
    shape: tuple[int, int, int]
    bytes: int


class MeterVerdict(BaseModel):
    """One meter of the leak detector (monitors.leaks): its reading, its growth from trough to trough, and what is made of it.

    `slope` and its lower confidence bound `low` in units a step; `suspect` names who grows, where that is known.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Text
    unit: Literal["bytes", "count"]
    value: FiniteFloat
    slope: FiniteFloat
    low: FiniteFloat
    growth: FiniteFloat
    verdict: Literal["measuring", "flat", "suspicious", "leak"]
    suspect: Text = ""


class LeaksJudged(Event):
    """What the leak detector makes of the `samples` it keeps, all meters together and each by itself."""

    kind: Literal["leaks_judged"] = "leaks_judged"
    samples: int
    verdict: Literal["measuring", "flat", "suspicious", "leak"]
    meters: tuple[MeterVerdict, ...]


class Warned(Event):
    kind: Literal["warned"] = "warned"
    message: Text


class Edited(Event):
    """Somebody steered the run: from this step on `key` is `new` where it was `old`.

    `command` as it was typed: set, stage next, stage hold, pause, ...; key, old and new are empty where it has none.
    """

    kind: Literal["edited"] = "edited"
    who: Text
    command: Text
    key: Text = ""
    old: bool | int | FiniteFloat | Text | None = None
    new: bool | int | FiniteFloat | Text | None = None


class RunEnded(Event):
    """The process leaves the run, with the exit code it will have."""

    kind: Literal["run_ended"] = "run_ended"
    state: Literal["finished", "stopped", "failed"]
    reason: Text
    exit_code: int


AnyEvent = (
    RunStarted | StageStarted | StageEnded | Trained | Decoded | Saved | BadStep | RolledBack | MemorySampled | Clustered
    | Plastic | Rewired | VolumeSaved | LeaksJudged | Warned | Edited | RunEnded
)  # fmt: skip
_ANY_EVENT: TypeAdapter[AnyEvent] = TypeAdapter(Annotated[AnyEvent, Field(discriminator="kind")])

E = TypeVar("E", bound=Event)


class _Stamp(BaseModel):
    """All that `rewind` must know of a line, so that events of unknown kinds are kept."""

    step: int
    kind: str = ""


def parse_event(line: bytes | str) -> AnyEvent | None:
    """The event in one JSON line, or None where it is of an unknown kind or no event at all."""
    try:
        return _ANY_EVENT.validate_json(line, extra="ignore")
    except ValidationError:
        return None


def from_fields(fields: dict[str, Any]) -> AnyEvent | None:
    """As `parse_event`, of an object that is no text any more."""
    try:
        return _ANY_EVENT.validate_python(fields, extra="ignore")
    except ValidationError:
        return None


class EventLog:
    """Appends events to a JSON-lines file, made with mode 0600.  Opening cuts off a torn last line.  Raises OSError."""

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
        """Drops what happened after `step`, and lines that are no events; returns how many lines went.

        `edits` is the number of `edited` events that the checkpoint knows of.  One more than that was made after it was
        saved, if at the same step, and goes with all that follows.

        A run resumed from the checkpoint of `step` goes through the later steps again.  The file is replaced as a whole, so
        a crash leaves the old or the new one; a reader's byte offset from before means nothing afterwards.
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
"""What is told at a look; a look at a step comes before its checkpoint, but for the last one of a run."""


def _up_to(lines: Iterable[bytes], step: int, edits: int | None) -> Iterator[bytes]:
    """The lines of what happened by `step`; none from the first `edited` event on that is one too many.

    What was looked at after the last save of `step` is left out: a run that was killed at its last look takes it again.
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
    """Bytes up to and including the last newline; a log grows long, so it is searched from its end."""
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
    """Events in the order of the log, how many lines could not be read, and the byte offset at which to go on."""

    events: list[AnyEvent]
    skipped: int
    offset: int


def each_event(path: Path) -> Iterator[AnyEvent | None]:
    """The event of every whole line, one after the other, so that a long log takes no memory; None for an unreadable line.

    Raises OSError where the log can't be opened.
    """
    with open_plain(path) as stream:
        for line in stream:
            if line.endswith(b"\n"):
                yield parse_event(line)


def read_events(path: Path, after: int = 0, most: int | None = None) -> ReadResult:
    """Reads the whole lines from byte `after` on, at most `most` of them; a run that has logged nothing yet has none.

    A last line without its newline is still being written: it is left, and the offset stays before it.  Raises OSError
    where the file exists and can't be read.
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
