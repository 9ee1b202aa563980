"""The events of a run: one hierarchy of types, the log that they are appended to, and a tolerant reader.

`events.jsonl` is the record of a run: one JSON object per line, in the order in which things happened.  Each line is flushed
to the operating system, so that a killed process loses none.  A line that is torn by a crash of the machine is cut off when
the log is opened again.  The reader goes on at the byte offset where it stopped, and skips lines that it can't read, since a
log of a newer version may hold unknown kinds of events.

Events have a single writer, in one process.  Numbers that may be missing are None, never NaN (see monitors.fields).
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
"""Bytes that are read at once to find the end of the last whole line."""


class Event(BaseModel):
    """What all events have: time in unix seconds (0.0 until the log sets it), global optimizer step, and stage index."""

    # Unknown fields are refused here and ignored by `parse_event`: a typo in the code fails, a newer log is read.
    model_config = ConfigDict(extra="forbid", frozen=True)

    time: FiniteFloat = 0.0
    step: Annotated[int, Field(ge=0)] = 0
    stage: Annotated[int, Field(ge=0)] = 0


class RunStarted(Event):
    """A process started the run, or if `resumed` went on from a checkpoint."""

    kind: Literal["run_started"] = "run_started"
    run: Text
    resumed: bool
    message: Text


class StageStarted(Event):
    """A stage began, with its shape (x, y, z) in cells and its tick kernel in one line.

    `carried` says whether weights were carried over from the last stage.  `checkpoint_ticks` is the length of a segment of
    which one state is kept (0: all states are).  `learned_bytes` is the peak that is predicted from `learned_from` measured
    stages.
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
    """An optimizer step: its loss, the global gradient norm, the learning rate, and how many seconds it took."""

    kind: Literal["trained"] = "trained"
    loss: Measured
    grad_norm: Measured
    learning_rate: FiniteFloat
    step_s: FiniteFloat


class Sample(BaseModel):
    """One held-out sentence: its source, its reference, what the decoder said, and its sentence BLEU (0..100).

    Logs of older versions, which did not score sentences, have no `bleu`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Text
    reference: Text
    said: Text
    bleu: Measured = None


class Decoded(Event):
    """The decode monitor scored `count` held-out sentences: BLEU and chrF in 0..100, `exact` and the shares in 0..1.

    `seconds` and `peak_bytes` are the cost of the scoring itself.  `best` says that no earlier score of the run was better.
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
    """A step was not applied, because its loss or gradient was not finite or its loss was a spike.

    `in_a_row` counts such steps since the last good one.
    """

    kind: Literal["bad_step"] = "bad_step"
    reason: Text
    in_a_row: int


class RolledBack(Event):
    """Weights and moments were set back to the checkpoint of `to_step`; step numbers go on from this event's step."""

    kind: Literal["rolled_back"] = "rolled_back"
    to_step: int
    reason: Text


class MemorySampled(Event):
    """The memory of the training process: resident bytes on the host, and torch's counts on a CUDA device.

    `allocated_bytes` is the memory of live tensors.  `reserved_bytes` includes what torch's allocator keeps.  `peak_bytes` is
    the most that was ever allocated, or without a GPU ever resident.  `device_uuid` is the GPU's UUID as CUDA gives it
    (monitors.gauges.same_gpu), or "" on the CPU.
    """

    kind: Literal["memory_sampled"] = "memory_sampled"
    device: Text
    device_uuid: Text
    rss_bytes: int | None
    allocated_bytes: int | None
    reserved_bytes: int | None
    peak_bytes: int | None


class Clustered(Event):
    """The functional clusters were formed anew; `sizes` are the cells in each, largest first (at most 256 clusters).

    `silhouette` is the mean cosine silhouette of a sample, -1..1.  `stability` is the normalised mutual information with the
    previous clustering, 0..1, or None for the first one.
    """

    kind: Literal["clustered"] = "clustered"
    count: int
    sizes: tuple[int, ...]
    silhouette: Measured
    stability: Measured
    merged: int
    seconds: FiniteFloat


class Plastic(Event):
    """What plasticity did to the connections in `updates` updates since the last such event.

    `potentiated`, `depressed` and `unchanged` count connections by what the last update did to their magnitude.  `theta` has
    the minimum, quartiles and maximum of the cells' BCM thresholds.  `mean_change` is the mean |dw| per update.
    `message_change` is the relative change that the first update made to the normalised messages of a probe; it is 0 if
    weights were only rescaled.  `skipped_share` is the share of the rule's work that event-driven updates avoided.
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
    """Connections were pruned and regrown.  `sparsity` (0..1) is the one afterwards.

    `fan_in[n]` is the number of cells with n incoming connections.
    """

    kind: Literal["rewired"] = "rewired"
    pruned: int
    regrown: int
    sparsity: FiniteFloat
    fan_in: tuple[int, ...]
    seconds: FiniteFloat


class VolumeSaved(Event):
    """Per-cell fields were saved next to the log, thinned to `shape` cells (see monitors.volumes)."""

    kind: Literal["volume_saved"] = "volume_saved"
    file: Text
    fields: tuple[Text, ...]
    shape: tuple[int, int, int]
    bytes: int


class MeterVerdict(BaseModel):
    """One meter of the leak detector (monitors.leaks): its reading, its growth from trough to trough, and the verdict on it.

    `slope` and its lower confidence bound `low` are in units per step.  `suspect` names what grows, if that is known.
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
    """The leak detector's verdict on its `samples`, for all meters together and for each one."""

    kind: Literal["leaks_judged"] = "leaks_judged"
    samples: int
    verdict: Literal["measuring", "flat", "suspicious", "leak"]
    meters: tuple[MeterVerdict, ...]


class Warned(Event):
    kind: Literal["warned"] = "warned"
    message: Text


class Edited(Event):
    """Somebody steered the run: from this step on, the setting `key` is `new` and no longer `old`.

    `command` is the command as it was typed: set, stage next, stage hold, pause, and so on.  If it changes no setting, key,
    old and new are empty.
    """

    kind: Literal["edited"] = "edited"
    who: Text
    command: Text
    key: Text = ""
    old: bool | int | FiniteFloat | Text | None = None
    new: bool | int | FiniteFloat | Text | None = None


class RunEnded(Event):
    """The process leaves the run; `exit_code` is the one that it will have."""

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
    """The fields of a line that `rewind` needs, so that events of unknown kinds are kept."""

    step: int
    kind: str = ""


def parse_event(line: bytes | str) -> AnyEvent | None:
    """The event in one JSON line; None if its kind is unknown or it is no event."""
    try:
        return _ANY_EVENT.validate_json(line, extra="ignore")
    except ValidationError:
        return None


def from_fields(fields: dict[str, Any]) -> AnyEvent | None:
    """The event in a parsed JSON object; None if its kind is unknown or it is no event."""
    try:
        return _ANY_EVENT.validate_python(fields, extra="ignore")
    except ValidationError:
        return None


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
