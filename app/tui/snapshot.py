"""What the screens show, as frozen values.  app.tui.fold makes a Snapshot from a run's events, and app.tui.bridge a View of it.

Everything here is bounded, so that watching a run for days costs no more than watching it for an hour.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from app.tui.series import Series
from monitors.events import AfterWord, Clustered, LeaksJudged, MemorySampled, Plastic, Rewired, RunEnded, Sample, VolumeSaved
from monitors.gauges import Absent, Gpu
from monitors.runs import RunInfo
from monitors.volumes import Volume
from presets.measure import Measure
from presets.plan import StagePlan
from presets.schema import RunConfig

THINNED_LOOKS = 8
"""Looks of the decode monitor that a keyframe keeps."""

PACE_STEPS = 50
"""Steps over which the pace, and with it the time left, is averaged."""

CURVES = ("loss", "held-out loss", "BLEU", "exact answers", "chrF", "learning rate", "step time")
"""The curves in the order in which they are shown.  A run has one of BLEU and exact answers, by which it is judged."""


@dataclass(frozen=True)
class Look:
    """One look of the decode monitor.  Scores are 0..100, `exact` is 0..1."""

    step: int
    bleu: float
    chrf: float
    exact: float
    count: int
    signature: str
    best: bool
    seconds: float
    samples: tuple[Sample, ...]
    measure: Measure = "bleu"
    has_questions: bool = False
    """Whether sentences have answers that differ from them."""

    after_each_word: tuple[AfterWord, ...] = ()


@dataclass(frozen=True)
class StageMark:
    """A stage that has started.  `ended_step` and `reason` are None while it runs."""

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
    """A line of the log panel.  `tone` is note, good, command, warning or error, and chooses colour and sign of the line."""

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
class ClusteringSoFar:
    """The newest clustering of the stage, and how often cells were clustered in the run so far."""

    latest: Clustered | None = None
    times: int = 0


@dataclass(frozen=True)
class RewiringSoFar:
    """The newest rewiring of the stage, and the connections pruned and regrown in the run so far."""

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
    """The last verdict of the leak detector.  A resumed run begins without one."""

    clustering: ClusteringSoFar = ClusteringSoFar()
    plastic: Plastic | None = None
    """The newest plasticity event of the stage."""

    rewiring: RewiringSoFar = RewiringSoFar()
    volume: VolumeSaved | None = None
    """The event that says where the newest cells were written.  `View.volume` is what could be read there."""

    log: tuple[LogLine, ...] = ()
    edits: tuple[tuple[str, Any], ...] = ()
    """Settings that were changed while the run trained, with their newest values."""

    held: bool = False
    """An operator holds the stage past its end."""

    ended: RunEnded | None = None

    def thinned(self) -> Snapshot:
        """A small copy for a keyframe: curves without their newest points, and only a few looks."""
        curves = {name: series.thinned() for name, series in self.curves.items()}
        return replace(self, curves=curves, looks=self.looks[-THINNED_LOOKS:])

    @property
    def pace_s(self) -> float | None:
        """Mean seconds per step over the last steps, without decoding and saving."""
        times = [span.mean for span in self.curves["step time"].recent[-PACE_STEPS:]]
        return sum(times) / len(times) if times else None


@dataclass(frozen=True)
class Host:
    """Gauges that the machine with the screen reads: of the run's process, and of itself."""

    rss_bytes: int | Absent
    available_bytes: int | Absent
    total_bytes: int | Absent
    disk_free_bytes: int | Absent
    gpus: tuple[Gpu, ...] | Absent


@dataclass(frozen=True)
class Position:
    """Where in the log the snapshot stands: after `event` of `total` lines.

    With `following` it stays at the end.  With `playing` it moves on from an earlier line, `speed` times as fast as the run.
    """

    event: int = 0
    total: int = 0
    following: bool = True
    playing: bool = False
    speed: float = 1.0


@dataclass(frozen=True)
class View:
    """Everything that a run screen shows.  `trouble` says in words what could not be read."""

    folder: str
    name: str
    snapshot: Snapshot = field(default_factory=Snapshot)
    info: RunInfo | None = None
    state: str = "starting"
    config: RunConfig | None = None
    plans: tuple[StagePlan, ...] = ()
    host: Host | None = None
    volume: Volume | Absent | None = None
    """The cells at the time of the snapshot; None if the run had recorded none by then."""

    position: Position = field(default_factory=Position)
    skipped: int = 0
    trouble: str = ""

    @property
    def is_live(self) -> bool:
        return self.state in ("starting", "running", "paused")
