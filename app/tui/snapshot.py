"""What the screens show, as frozen values.  app.tui.fold makes them from a run's events.

Everything here is bounded, so that watching a run for days costs no more than watching it for an hour.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from app.tui.series import Series
from monitors.events import Clustered, LeaksJudged, MemorySampled, Plastic, Rewired, RunEnded, Sample, VolumeSaved
from monitors.gauges import Absent, Gpu
from monitors.runs import RunInfo
from monitors.volumes import Volume
from presets.plan import StagePlan
from presets.schema import RunConfig

THINNED_LOOKS = 8
"""Looks of the decode monitor that a keyframe keeps."""

PACE_STEPS = 50
"""Steps that pace and time left are averaged over."""

CURVES = ("loss", "held-out loss", "BLEU", "chrF", "learning rate", "step time")


@dataclass(frozen=True)
class Look:
    """One look of the decode monitor, scores 0..100, `exact` 0..1."""

    step: int
    bleu: float
    chrf: float
    exact: float
    count: int
    signature: str
    best: bool
    seconds: float
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class StageMark:
    """A stage that has started; `ended_step` and `reason` are None while it runs."""

    index: int
    name: str
    shape: tuple[int, int, int]
    ticks: int
    kernel: str
    plan_bytes: int
    micro_batch: int
    accumulation: int
    carried: bool
    checkpoint_ticks: int
    learned_bytes: int | None
    learned_from: int
    started_step: int
    ended_step: int | None = None
    reason: str | None = None


@dataclass(frozen=True)
class LogLine:
    """`tone` is one of note, good, command, warning, error; it is also said by the sign in front of the text."""

    time: float
    step: int
    tone: str
    text: str


@dataclass(frozen=True)
class Checkpointed:
    step: int
    bytes: int
    best: bool


@dataclass(frozen=True)
class Clustering:
    """The newest clustering of the stage, and how often cells were clustered in the run so far."""

    latest: Clustered | None = None
    times: int = 0


@dataclass(frozen=True)
class Rewiring:
    """The newest rewiring of the stage; connections pruned and regrown in the run so far."""

    latest: Rewired | None = None
    pruned: int = 0
    regrown: int = 0


@dataclass(frozen=True)
class Snapshot:
    """A run after some of its events."""

    events: int = 0
    last_time: float = 0.0
    step: int = 0
    stage: int = 0
    curves: dict[str, Series] = field(default_factory=lambda: {name: Series() for name in CURVES})
    looks: tuple[Look, ...] = ()
    stages: tuple[StageMark, ...] = ()
    saved: Checkpointed | None = None
    memory: MemorySampled | None = None
    leaks: LeaksJudged | None = None
    """What the leak detector said last; a resumed run begins anew."""

    clustering: Clustering = Clustering()
    plastic: Plastic | None = None
    """The newest of the stage."""

    rewiring: Rewiring = Rewiring()
    volume: VolumeSaved | None = None
    """Where the newest cells are written; `View.volume` is what could be read there."""

    log: tuple[LogLine, ...] = ()
    edits: tuple[tuple[str, Any], ...] = ()
    """Settings changed while it trained, with their newest values."""

    held: bool = False
    """An operator holds the stage past its end."""

    ended: RunEnded | None = None

    def thinned(self) -> Snapshot:
        """To be kept among many: its curves without their newest points, and few looks with their samples."""
        curves = {name: series.thinned() for name, series in self.curves.items()}
        return replace(self, curves=curves, looks=self.looks[-THINNED_LOOKS:])

    @property
    def pace_s(self) -> float | None:
        """Mean seconds of the last steps, decoding and saving left out."""
        times = [span.mean for span in self.curves["step time"].recent[-PACE_STEPS:]]
        return sum(times) / len(times) if times else None


@dataclass(frozen=True)
class Host:
    """What the machine that shows the run can say about it and about itself."""

    rss_bytes: int | Absent
    available_bytes: int | Absent
    total_bytes: int | Absent
    disk_free_bytes: int | Absent
    gpus: tuple[Gpu, ...] | Absent


@dataclass(frozen=True)
class Position:
    """Where in the log the snapshot stands: event number, of how many; `following` the end, or `playing` from a seek."""

    event: int = 0
    total: int = 0
    following: bool = True
    playing: bool = False
    speed: float = 1.0


@dataclass(frozen=True)
class View:
    """All that a run screen shows; `trouble` says in words what could not be read."""

    folder: str
    name: str
    snapshot: Snapshot = field(default_factory=Snapshot)
    info: RunInfo | None = None
    state: str = "starting"
    config: RunConfig | None = None
    plans: tuple[StagePlan, ...] = ()
    host: Host | None = None
    volume: Volume | Absent | None = None
    """The cells as they were when the snapshot was taken; None where the run has recorded none up to there."""

    position: Position = field(default_factory=Position)
    skipped: int = 0
    trouble: str = ""

    @property
    def is_live(self) -> bool:
        return self.state in ("starting", "running", "paused")
