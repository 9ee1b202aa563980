"""Makes the snapshot that the screens show from a run's events, and the lines of the log panel.  Pure functions.

fold(Snapshot(), events) == fold(fold(Snapshot(), first_half), second_half)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TypeVar

from app import formats
from app.tui.snapshot import CURVES, Checkpointed, ClusteringSoFar, LogLine, Look, RewiringSoFar, Snapshot, StageMark
from monitors.events import (
    AnyEvent,
    BadStep,
    Clustered,
    Decoded,
    Edited,
    LeaksJudged,
    MemorySampled,
    Plastic,
    Rewired,
    RolledBack,
    RunEnded,
    RunStarted,
    Saved,
    StageEnded,
    StageStarted,
    Trained,
    VolumeSaved,
    Warned,
)
from monitors.text_safety import printable
from presets.measure import Measure

MOST_LOOKS = 100
"""Looks of the decode monitor whose samples are kept for scrolling back."""

MOST_LOG_LINES = 1000

JUDGED: dict[Measure, str] = {"bleu": "BLEU", "exact": "exact answers"}
"""The names of the curves of the score, by measure."""

Counted = TypeVar("Counted", ClusteringSoFar, RewiringSoFar)


def fold(snapshot: Snapshot, events: Iterable[AnyEvent]) -> Snapshot:
    """The snapshot after more events, which come in the order of the log."""
    events = list(events)
    if not events:
        return snapshot
    points: dict[str, list[tuple[int, float]]] = {name: [] for name in CURVES}
    looks, stages, log = list(snapshot.looks), list(snapshot.stages), list(snapshot.log)
    saved, ended, edits, held = snapshot.saved, snapshot.ended, dict(snapshot.edits), snapshot.held
    memory, plastic, volume = snapshot.memory, snapshot.plastic, snapshot.volume
    leaks = snapshot.leaks
    clustering, rewiring = snapshot.clustering, snapshot.rewiring
    for event in events:
        ended = event if isinstance(event, RunEnded) else None if isinstance(event, RunStarted) else ended
        match event:
            case Trained():
                measured = {"loss": event.loss, "learning rate": event.learning_rate, "step time": event.step_s}
                _note(points, event.step, measured)
            case Decoded():
                scores = {JUDGED[event.measure]: event.score, "chrF": event.chrf, "held-out loss": event.valid_loss}
                _note(points, event.step, scores)
                looks.append(_look(event))
            case StageStarted():
                stages = [mark for mark in stages if mark.index != event.stage]  # a resumed stage starts once more
                stages.append(_mark(event))
                held = False
                # Of the lattice that was, and of no other: a new stage has cells and connections of its own.
                plastic = plastic if plastic and plastic.stage == event.stage else None
                clustering, rewiring = _of_stage(clustering, event.stage), _of_stage(rewiring, event.stage)
            case StageEnded():
                stages = [
                    replace(mark, ended_step=event.step, reason=event.reason) if mark.index == event.stage else mark
                    for mark in stages
                ]
            case Saved():
                saved = Checkpointed(event.step, event.bytes, event.best)
            case MemorySampled():
                memory = event
            case LeaksJudged():
                leaks = event
            case RunStarted():
                leaks = None
            case Clustered():
                clustering = ClusteringSoFar(event, clustering.times + 1)
            case Plastic():
                plastic = event
            case Rewired():
                rewiring = RewiringSoFar(event, rewiring.pruned + event.pruned, rewiring.regrown + event.regrown)
            case VolumeSaved():
                volume = event
            case Edited() if event.command == "set":
                edits[event.key] = event.new
            case Edited() if event.key == "held":
                held = bool(event.new)
        if line := log_line(event):
            log.append(line)
    return Snapshot(
        events=snapshot.events + len(events),
        last_time=events[-1].time,
        step=events[-1].step,
        stage=events[-1].stage,
        curves={name: series.extended(points[name]) for name, series in snapshot.curves.items()},
        looks=tuple(looks[-MOST_LOOKS:]),
        stages=tuple(stages),
        saved=saved,
        memory=memory,
        leaks=leaks,
        clustering=clustering,
        plastic=plastic,
        rewiring=rewiring,
        volume=volume,
        log=tuple(log[-MOST_LOG_LINES:]),
        edits=tuple(edits.items()),
        held=held,
        ended=ended,
    )


def log_line(event: AnyEvent) -> LogLine | None:
    """The event in one line; None for an event that curves and panels show better."""
    match event:
        case Trained() | MemorySampled() | Plastic() | VolumeSaved() | LeaksJudged():
            return None
        case Clustered():
            silhouette = "" if event.silhouette is None else f", silhouette {event.silhouette:.2f}"
            return _line(event, "note", f"{formats.count(event.count)} clusters formed{silhouette}")
        case Rewired():
            told = f"{formats.count(event.pruned)} connections pruned, {formats.count(event.regrown)} regrown"
            return _line(event, "note", f"{told}; sparsity {event.sparsity:.0%}")
        case RunStarted():
            return _line(event, "note", f"{'resumed' if event.resumed else 'started'}: {event.message}")
        case StageStarted():
            return _line(event, "note", f"stage {event.name}: {formats.shape(event.shape)} cells, {event.ticks} ticks")
        case StageEnded():
            return _line(event, "note", f"stage {event.name} ended ({event.reason})")
        case Decoded():
            best = ", best" if event.best else ""
            text = f"{formats.judged(event.measure, event.bleu, event.exact)}, chrF {formats.score(event.chrf)}"
            text += f", {event.exact:.0%} exact{best}" if event.measure == "bleu" else best
            return _line(event, "good" if event.best else "note", text)
        case Saved():
            return _line(event, "note", f"checkpoint saved, {formats.bytes_(event.bytes)}")
        case BadStep():
            return _line(event, "error", f"step skipped ({event.in_a_row} in a row): {event.reason}")
        case RolledBack():
            return _line(event, "error", f"back to the weights of step {event.to_step}: {event.reason}")
        case Warned():
            return _line(event, "warning", event.message)
        case Edited():
            said_by_command = event.key in ("", "paused", "held")
            change = "" if said_by_command else f" {event.key}: {event.old} -> {event.new}"
            return _line(event, "command", f"{event.command}{change} (by {event.who})")
        case RunEnded():
            tone = "error" if event.state == "failed" else "note"
            return _line(event, tone, f"{event.state}: {event.reason} (exit code {event.exit_code})")
    return _line(event, "note", _in_words(event))


def _of_stage(kept: Counted, stage: int) -> Counted:
    """Drops the newest event if it is of another stage.  What was counted over the whole run stays."""
    return kept if kept.latest is None or kept.latest.stage == stage else replace(kept, latest=None)


def _line(event: AnyEvent, tone: str, text: str) -> LogLine:
    return LogLine(event.time, event.step, tone, printable(text))


def _in_words(event: AnyEvent) -> str:
    """The fields of an event for whose kind there is no sentence."""
    fields = event.model_dump(exclude={"time", "step", "stage", "kind"})
    return f"{event.kind.replace('_', ' ')}: " + ", ".join(f"{name} {value}" for name, value in fields.items())


def _note(points: dict[str, list[tuple[int, float]]], step: int, measured: dict[str, float | None]) -> None:
    for name, value in measured.items():
        if value is not None:
            points[name].append((step, value))


def _look(event: Decoded) -> Look:
    names = (
        "step", "bleu", "chrf", "exact", "count", "signature", "best", "seconds", "samples", "measure", "has_questions",
        "after_each_word",
    )  # fmt: skip
    return Look(**{name: getattr(event, name) for name in names})


def _mark(event: StageStarted) -> StageMark:
    names = (
        "name", "shape", "ticks", "kernel", "plan_bytes", "micro_batch", "accumulation", "carried", "checkpoint_ticks",
        "learned_bytes", "learned_from",
    )  # fmt: skip
    return StageMark(index=event.stage, started_step=event.step, **{name: getattr(event, name) for name in names})
