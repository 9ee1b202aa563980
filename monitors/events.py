"""The events of a run: one hierarchy of types.

Numbers that may be missing are None, never NaN (see monitors.fields).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError

from monitors.fields import ONLY_KEYS_CACHED, Measured, Text
from presets.measure import Measure, score_by, ties


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


class AfterWord(BaseModel):
    """What would be answered to a sentence if it ended with this word, and whether that is right; None if that is not known."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    word: Text
    said: Text
    right: bool | None


class Decoded(Event):
    """The decode monitor scored `count` held-out sentences: BLEU and chrF in 0..100, `exact` and the shares in 0..1.

    `measure` says which of BLEU and `exact` the run is judged by; logs of version 0.1.0 do not say it and mean BLEU.  `best`
    says that no earlier look of the run was as good by it, ties decided.  `signature` is sacrebleu's, which says how text was
    split for BLEU (tok).  `after_each_word` is about the beginnings of one sentence
    (lattice.observing.after_each_word); it is empty unless sentences are read in time.  `seconds` and `peak_bytes` are the
    cost of the look itself.
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
    measure: Measure = "bleu"
    after_each_word: tuple[AfterWord, ...] = ()

    @property
    def score(self) -> float:
        """The score 0..100 that the run is judged by."""
        return score_by(self.measure, self.bleu, self.exact)

    @property
    def ties(self) -> tuple[float, float, float]:
        """What decides between this look and one of the same score."""
        return ties(self.chrf, self.exact, self.valid_loss)

    @property
    def has_questions(self) -> bool:
        """Whether sentences have answers that differ from them; not so for the task `reconstruct`."""
        return any(sample.source != sample.reference for sample in self.samples)


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
_ANY_EVENT: TypeAdapter[AnyEvent] = TypeAdapter(Annotated[AnyEvent, Field(discriminator="kind")], config=ONLY_KEYS_CACHED)

E = TypeVar("E", bound=Event)


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
