"""`compare`: shows two runs side by side: the settings that differ, the results, and how soon they were reached.

It reads `run.json`, `config.toml` and the event log.  It needs neither checkpoints nor data, so run folders may be copied from
elsewhere.  Torch-free.
"""

from __future__ import annotations

import json
import statistics
from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app import formats
from app.exit_codes import ExitCode, Stop
from app.finding import find_run
from app.options import AsJson, RunsDir
from monitors.event_log import each_event
from monitors.events import Decoded, Edited, StageStarted, Trained
from monitors.runs import RunFolder, RunFolderError, RunInfo, state_of
from monitors.text_safety import printable
from presets.layers import ConfigError, flatten, from_toml
from presets.schema import RunConfig

LOSS_STEPS = 50
"""The loss of a run is the mean over this many last steps."""

SCORE_MARKS = (10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 95.0, 99.0)
"""Marks of BLEU, and of exact answers in percent."""

LOSS_MARKS = (6.0, 5.0, 4.0, 3.0, 2.0, 1.5, 1.0, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01)

SETTINGS_OF_SCORES = ("data.", "run.seed")
"""Settings that decide which sentences are held out."""


@dataclass(frozen=True)
class Reached:
    """When a run first reached a mark: the step, and the seconds of training steps until then, without looks and pauses."""

    step: int
    train_s: float


@dataclass
class Course:
    """The course of a run, as its event log has it."""

    steps: int = 0
    train_s: float = 0.0
    losses: deque[float] = field(default_factory=lambda: deque(maxlen=LOSS_STEPS))
    step_times: array = field(default_factory=lambda: array("d"))
    last: Decoded | None = None
    best_bleu: tuple[float, int] | None = None
    best_exact: tuple[float, int] | None = None
    best_valid_loss: tuple[float, int] | None = None
    bleu_marks: dict[float, Reached] = field(default_factory=dict)
    exact_marks: dict[float, Reached] = field(default_factory=dict)
    loss_marks: dict[float, Reached] = field(default_factory=dict)
    edits: list[Edited] = field(default_factory=list)
    kernels: list[str] = field(default_factory=list)
    unread: int = 0

    def trained(self, event: Trained) -> None:
        self.steps = event.step
        self.train_s += event.step_s
        self.step_times.append(event.step_s)
        if event.loss is not None:
            self.losses.append(event.loss)

    def decoded(self, event: Decoded) -> None:
        self.last = event
        if self.best_bleu is None or event.bleu > self.best_bleu[0]:
            self.best_bleu = event.bleu, event.step
        if self.best_exact is None or event.exact > self.best_exact[0]:
            self.best_exact = event.exact, event.step
        for mark in SCORE_MARKS:
            if event.bleu >= mark:
                self.bleu_marks.setdefault(mark, Reached(event.step, self.train_s))
            if 100 * event.exact >= mark:
                self.exact_marks.setdefault(mark, Reached(event.step, self.train_s))
        loss = event.valid_loss
        if loss is None:
            return
        if self.best_valid_loss is None or loss < self.best_valid_loss[0]:
            self.best_valid_loss = loss, event.step
        for mark in LOSS_MARKS:
            if loss <= mark:
                self.loss_marks.setdefault(mark, Reached(event.step, self.train_s))


@dataclass(frozen=True)
class Side:
    """One of the two runs."""

    folder: RunFolder
    info: RunInfo
    config: RunConfig
    course: Course

    def as_json(self) -> dict[str, Any]:
        info, course, last = self.info, self.course, self.course.last
        return {
            "run": info.run,
            "path": str(self.folder.path),
            "state": state_of(self.folder),
            "preset": info.preset,
            "parent": info.parent or None,
            "stage": info.stage,
            "step": info.step,
            "measure": self.config.data.measure,
            "bleu": last.bleu if last else None,
            "best_bleu": course.best_bleu[0] if course.best_bleu else None,
            "best_bleu_step": course.best_bleu[1] if course.best_bleu else None,
            "chrf": last.chrf if last else None,
            "exact": last.exact if last else None,
            "best_exact": course.best_exact[0] if course.best_exact else None,
            "best_exact_step": course.best_exact[1] if course.best_exact else None,
            "scored_sentences": last.count if last else None,
            "valid_loss": last.valid_loss if last else None,
            "best_valid_loss": course.best_valid_loss[0] if course.best_valid_loss else None,
            "best_valid_loss_step": course.best_valid_loss[1] if course.best_valid_loss else None,
            "loss": statistics.fmean(course.losses) if course.losses else None,
            "step_s": statistics.median(course.step_times) if course.step_times else None,
            "train_s": course.train_s,
            "elapsed_s": info.elapsed_s,
            "cpu_s": info.cpu_s,
            "peak_bytes": info.peak_bytes,
            "kernel": course.kernels[-1] if course.kernels else None,
            "edits": [edit.model_dump(include={"step", "who", "command", "key", "old", "new"}) for edit in course.edits],
        }


def compare(
    first: Annotated[str, typer.Argument(metavar="RUN", help="A run's name, a unique beginning of it, a path, or `last`.")],
    second: Annotated[str, typer.Argument(metavar="RUN", help="The one beside it.")],
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
) -> None:
    """Prints both runs side by side.  Raises Stop if one is not there or can't be read."""
    sides = _open(first, runs_dir), _open(second, runs_dir)
    rows, settings, marks, notes = [side.as_json() for side in sides], _settings(*sides), _marks(*sides), _notes(*sides)
    if as_json:
        print(json.dumps({"runs": rows, "settings": settings, "marks": marks, "notes": notes}))
        return
    console = Console(highlight=False, emoji=False, soft_wrap=False)
    names = [escape(printable(f"{row['run']}")) for row in rows]
    table = Table("", *names, box=None, pad_edge=False)
    for title, show in ROWS:
        table.add_row(title, *(escape(printable(show(row))) for row in rows))
    console.print(table)
    if settings:
        console.print()
        table = Table("what was set otherwise", "", "", box=None, pad_edge=False)
        for setting in settings:
            table.add_row(setting["setting"], *(escape(printable(_value(setting["values"][i]))) for i in (0, 1)))
        console.print(table)
    if marks:
        console.print()
        table = Table("steps and training time to", "", "", box=None, pad_edge=False)
        for mark in marks:
            title = MARKS[mark["measure"]].format(mark["level"])
            table.add_row(title, *(f"{formats.count(at['step'])}, {formats.duration(at['train_s'])}" for at in mark["reached"]))
        console.print(table)
    for row in rows:
        if row["edits"]:
            console.print(f"\nchanged while {printable(row['run'])} trained", markup=False, soft_wrap=True)
        for edit in row["edits"]:
            change = f" {edit['key']}: {edit['old']} -> {edit['new']}" if edit["key"] else ""
            line = f"  step {edit['step']}: {edit['command']}{change} (by {edit['who']})"
            console.print(printable(line), markup=False, soft_wrap=True)
    for note in notes:
        console.print(f"\nnote: {note}", markup=False)


def _bleu(row: dict[str, Any]) -> str:
    """BLEU; none for a run that is not judged by it, because its answers may be too short to have any."""
    return _best(formats.score(row["bleu"]), row, "best_bleu", formats.score) if row["measure"] == "bleu" else "-"


def _exact(row: dict[str, Any]) -> str:
    now = _or_dash(row["exact"], _percent)
    return now if row["measure"] == "bleu" else _best(now, row, "best_exact", _percent)


def _percent(share: float) -> str:
    return f"{share:.1%}"


def _best(now: str, row: dict[str, Any], best: str, show: Callable[[float], str]) -> str:
    return "-" if row[best] is None else f"{now} (best {show(row[best])} at {formats.count(row[f'{best}_step'])})"


def _or_dash(value: Any, show: Callable[[Any], str]) -> str:
    return "-" if value is None else show(value)


ROWS: tuple[tuple[str, Callable[[dict[str, Any]], str]], ...] = (
    ("state", lambda row: row["state"]),
    ("preset", lambda row: row["preset"]),
    ("forked from", lambda row: row["parent"] or "-"),
    ("steps", lambda row: f"{formats.count(row['step'])}, in stage {row['stage']}"),
    ("BLEU", _bleu),
    ("chrF", lambda row: formats.score(row["chrf"])),
    ("exact", _exact),
    ("sentences scored", lambda row: _or_dash(row["scored_sentences"], formats.count)),
    ("held-out loss", lambda row: _best(formats.loss(row["valid_loss"]), row, "best_valid_loss", formats.loss)),
    (f"loss, last {LOSS_STEPS} steps", lambda row: _or_dash(row["loss"], formats.loss)),
    ("median step", lambda row: _or_dash(row["step_s"], lambda seconds: f"{1000 * seconds:.1f} ms")),
    ("time in all, of CPU", lambda row: f"{formats.duration(row['elapsed_s'])}, {formats.duration(row['cpu_s'])}"),
    ("peak memory", lambda row: formats.bytes_(row["peak_bytes"])),
    ("kernel", lambda row: row["kernel"] or "-"),
    ("changes on the way", lambda row: formats.count(len(row["edits"]))),
)
"""The titles of the lines that are always shown, each with a function that reads its text from a run's JSON."""


MARKS = {"valid_loss": "held-out loss {:g}", "bleu": "BLEU {:g}", "exact": "exact {:g}%"}
"""The titles of marks, by what is measured."""


def _open(name: str, runs_dir: Path | None) -> Side:
    folder = find_run(runs_dir, name)
    try:
        info, text = folder.read_info(), folder.read_config()
        return Side(folder, info, from_toml(text, str(folder.config_toml)), _course(folder))
    except ConfigError as error:
        raise Stop(ExitCode.USAGE, str(error)) from error
    except (RunFolderError, OSError, UnicodeDecodeError) as error:
        raise Stop(ExitCode.FAILED, f"run {name} can't be read: {error}") from error


def _course(folder: RunFolder) -> Course:
    course = Course()
    for event in each_event(folder.events_jsonl):
        match event:
            case Trained():
                course.trained(event)
            case Decoded():
                course.decoded(event)
            case Edited():
                course.edits.append(event)
            case StageStarted():
                course.kernels.append(event.kernel)
            case None:
                course.unread += 1
    return course


def _settings(a: Side, b: Side) -> list[dict[str, Any]]:
    """The settings that the two runs were started with and that differ.  The value is also None if a run has no such stage."""
    left, right = flatten(a.config), flatten(b.config)
    keys = [key for key in {**left, **right} if key != "purpose"]
    pairs = {key: [left.get(key, (None,))[0], right.get(key, (None,))[0]] for key in keys}
    return [{"setting": key, "values": values} for key, values in pairs.items() if values[0] != values[1]]


def _marks(a: Side, b: Side) -> list[dict[str, Any]]:
    """The marks of held-out loss that both runs reached, and of the score if one measure judges both, easiest first."""
    judged = {a.config.data.measure, b.config.data.measure}
    kinds = [("valid_loss", "loss_marks")] + [(measure, f"{measure}_marks") for measure in judged if len(judged) == 1]
    found = []
    for measure, marks in kinds:
        left, right = getattr(a.course, marks), getattr(b.course, marks)
        for level in sorted(left.keys() & right.keys(), reverse=measure == "valid_loss"):
            reached = [{"step": at.step, "train_s": at.train_s} for at in (left[level], right[level])]
            found.append({"measure": measure, "level": level, "reached": reached})
    return found


def _notes(a: Side, b: Side) -> list[str]:
    """Notes on what makes the numbers of the two runs less comparable than they look."""
    notes = []
    scored = [setting["setting"] for setting in _settings(a, b) if setting["setting"].startswith(SETTINGS_OF_SCORES)]
    if scored:
        notes.append(f"the runs differ in {', '.join(scored)}: their scores may be of different held-out sentences")
    counts = [side.course.last.count for side in (a, b) if side.course.last]
    if len(set(counts)) > 1:
        notes.append(f"the last scores are of {counts[0]} and of {counts[1]} sentences")
    for side in (a, b):
        if side.course.unread:
            notes.append(f"{side.course.unread} lines of {printable(side.info.run)}'s log can't be read and are left out")
    return notes


def _value(value: Any) -> str:
    return "-" if value is None else value if isinstance(value, str) else json.dumps(value)
