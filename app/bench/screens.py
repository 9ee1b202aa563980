"""`bench tui`: measures what the terminal interface costs and how fast it answers, from outside, on real processes.

    starts        python -c pass, --help and the home screen's first frame, in turns
    keys          key -> the text that it brings, drawn                      beside a run that trains on all cores
    windows       detached, attached, detached, ...: steps per second, CPU and bytes to the terminal    the same run
    memory        an hour of events at 50 per second, appended to a log that an attached screen follows

The processes come from app.bench.processes.  This module loads no torch: the engine is a process of its own, and the bench
takes no core from it while it waits.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from app import configure, formats
from app.bench.processes import PROGRAM, attached, end_engines, ended_by_signals, environment, runs_folder, terminal
from app.exit_codes import ExitCode, Stop
from app.run_process.launch import launch
from app.terminal import TerminalError
from app.version import VERSION
from monitors.event_log import EventLog, read_events
from monitors.events import AnyEvent, Decoded, RunStarted, Sample, StageStarted, Trained
from monitors.machine import machine
from monitors.runs import RunFolder, RunInfo
from presets.layers import to_toml
from presets.schema import RunConfig

COPY_BYTES = 256 * 1024 * 1024
ENDLESS = "1000000"
"""Steps of the run that is watched: more than the bench has time for."""

SETTLE_S = 3.0
"""Pause between the first frame of an attached screen and its window, since start-up is not part of its cost."""

EVENTS_PER_S = 50
"""Rate in the hour of events.  They are appended BATCH at a time, as fast as the screen follows."""

BATCH = 2000
LOOK_EVERY = 50
"""One of this many events is a look of the decode monitor."""

KEYS = (
    (b"l", "all steps, log"),
    (b"l", "all steps(?!,)"),
    (b"2", "┏━ 2 Text"),
    (b"w", "last 1000 steps"),
    (b"www", "all steps"),
    (b"?", "esc closes"),
    (b"q", "3 Stages"),
    (b"1", "┏━ 1 Curves"),
)
"""Keys that are pressed in turns, each with the text that it brings to the screen."""


@dataclass(frozen=True)
class ScreenRow:
    """One quantity over its `count` samples.  `at_most` and `at_least` are targets for its median or p99."""

    name: str
    unit: str
    count: int
    median: float
    p99: float
    min: float
    max: float
    at_most: dict[str, float] = field(default_factory=dict)
    at_least: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, unit: str, samples: list[float], **targets: dict[str, float]) -> ScreenRow:
        ordered = sorted(samples)
        p99 = ordered[min(len(ordered) - 1, round(0.99 * (len(ordered) - 1)))]
        return cls(name, unit, len(ordered), statistics.median(ordered), p99, ordered[0], ordered[-1], **targets)

    @property
    def met(self) -> bool | None:
        """Whether all targets are met; None if there are none."""
        if not self.at_most and not self.at_least:
            return None
        kept = [getattr(self, name) <= limit for name, limit in self.at_most.items()]
        return all(kept + [getattr(self, name) >= limit for name, limit in self.at_least.items()])


def run(
    preset: str, assignments: list[str], starts: int, keys: int, pairs: int, seconds: float, events: int, as_json: bool
) -> None:
    """Measures everything and prints it.  Raises Stop."""
    config = configure.load(preset, None, assignments).config
    rows: list[ScreenRow] = []

    def tell(found: list[ScreenRow]) -> None:
        rows.extend(found)
        for row in found:
            print(f"{row.name}: {row.median:.4g} {row.unit}", file=sys.stderr)

    with ended_by_signals(), runs_folder() as runs_dir:
        try:
            rate = copy_rate()
            tell(bench_starts(runs_dir, starts))
            arguments = ["--preset", preset, *(f"--set={assignment}" for assignment in assignments), "--steps", ENDLESS]
            folder = launch(arguments, runs_dir)
            tell(bench_keys(folder, keys))
            tell(bench_windows(folder, pairs, seconds))
            end_engines(runs_dir)
            tell(bench_memory(runs_dir, config, events))
        except TerminalError as error:
            raise Stop(ExitCode.FAILED, f"the screen does not do what it should: {error}") from error
    if as_json:
        shown = [dataclasses.asdict(row) | {"met": row.met} for row in rows]
        print(json.dumps({"machine": machine(), "copy_gbps": rate, "preset": preset, "rows": shown}))
    else:
        _table(rows, rate, preset)


# What is measured.


def bench_starts(runs_dir: Path, repeats: int) -> list[ScreenRow]:
    """Milliseconds from a program's start to its end, or to its first frame."""
    bare, helped, framed = [], [], []
    for _ in range(repeats):
        bare.append(_milliseconds([sys.executable, "-c", "pass"]))
        helped.append(_milliseconds([*PROGRAM, "--help"]))
        with terminal("--runs-dir", str(runs_dir)) as home:
            shown = home.until("this machine.*baseline")
            framed.append(1000 * (shown - home.started))
            home.press(b"q")
            home.ended()
    return [
        ScreenRow.of("python -c pass", "ms", bare),
        ScreenRow.of("--help", "ms", helped, at_most={"median": 250.0}),
        ScreenRow.of("home screen's first frame", "ms", framed, at_most={"median": 600.0}),
    ]


def bench_keys(folder: RunFolder, count: int) -> list[ScreenRow]:
    """Milliseconds from a key to the text it brings, beside a run under full load."""
    pauses, taken = random.Random(0), []
    with attached(folder) as screen:
        for keys, shown in itertools.islice(itertools.cycle(KEYS), count):
            # As an operator: never in step with the screen's own rhythm.
            time.sleep(pauses.uniform(0.05, 0.4))
            pressed, chunk = screen.press(keys)
            taken.append(1000 * (screen.until(shown, chunk) - pressed))
    return [ScreenRow.of("key to visible change", "ms", taken, at_most={"median": 50.0, "p99": 150.0})]


def bench_windows(folder: RunFolder, pairs: int, seconds: float) -> list[ScreenRow]:
    """The speed of training with a screen attached, and what the screen itself costs.

    A window with a screen is compared with the mean of the windows before and after it, which have none.
    """
    speeds, cpu, traffic = [_steps_per_s(folder, *_window(seconds))], [], []
    for _ in range(pairs):
        with attached(folder) as screen:
            program = psutil.Process(screen.program.pid)
            time.sleep(SETTLE_S)
            began, before = time.monotonic(), sum(program.cpu_times()[:2])
            window = _window(seconds)
            lasted = time.monotonic() - began
            cpu.append(100 * (sum(program.cpu_times()[:2]) - before) / lasted)
            traffic.append(screen.drawn_bytes(began, began + lasted) / 1024 / lasted)
            speeds.append(_steps_per_s(folder, *window))
        speeds.append(_steps_per_s(folder, *_window(seconds)))
    alone, watched = speeds[::2], speeds[1::2]
    ratios = [speed / statistics.mean(around) for speed, around in zip(watched, itertools.pairwise(alone), strict=True)]
    return [
        ScreenRow.of("training, no screen attached", "steps/s", alone),
        ScreenRow.of("training, a screen attached", "steps/s", watched),
        ScreenRow.of("attached / not attached", "ratio", ratios, at_least={"median": 0.98}),
        ScreenRow.of("screen's CPU", "% of a core", cpu, at_most={"median": 5.0}),
        ScreenRow.of("bytes to the terminal", "KiB/s", traffic, at_most={"median": 12.0}),
    ]


def bench_memory(runs_dir: Path, config: RunConfig, events: int) -> list[ScreenRow]:
    """Resident MB of a screen that follows a log of this many events, and how much it grows over their second half."""
    folder = RunFolder.create(runs_dir, "recorded", time.time())
    folder.config_toml.write_text(to_toml(config), encoding="utf-8")
    own = RunInfo.of_this_process(run=folder.name, preset="recorded", created=time.time(), version=VERSION, state="running")
    folder.write_info(own)
    held: list[float] = []
    with contextlib.closing(EventLog(folder.events_jsonl)) as log:
        coming = _hour(config, time.time())
        log.append(next(coming))
        log.append(next(coming))
        with attached(folder, "step 0") as screen:
            program, done = psutil.Process(screen.program.pid), 2
            while done < events:
                for event in itertools.islice(coming, min(BATCH, events - done)):
                    log.append(event)
                    done += 1
                _, chunk = screen.press(b"")
                screen.until(f"step {formats.count(event.step)}/", chunk)
                held.append(program.memory_info().rss / 1e6)
    half = held[len(held) // 2 :]
    return [
        ScreenRow.of("screen's memory over the events", "MB", held),
        ScreenRow.of("its growth over their second half", "MB", [half[-1] - half[0]], at_most={"median": 2.0}),
    ]


def copy_rate() -> float:
    """GB per second, read plus written, of a plain copy.  It has one thread, since this module loads no torch."""
    source, target, taken = bytes(COPY_BYTES), bytearray(COPY_BYTES), []
    for _ in range(4):
        clock = time.perf_counter()
        target[:] = source
        taken.append(time.perf_counter() - clock)
    return 2 * COPY_BYTES / statistics.median(taken[1:]) / 1e9


def _milliseconds(command: list[str]) -> float:
    clock = time.monotonic()
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment())
    return 1000 * (time.monotonic() - clock)


def _window(seconds: float) -> tuple[float, float]:
    """Waits, and returns the start and the end of the wait in unix seconds, as events have them."""
    start = time.time()
    time.sleep(seconds)
    return start, time.time()


def _steps_per_s(folder: RunFolder, start: float, end: float) -> float:
    """Training steps per second between two times, looks and checkpoints left out.  Raises Stop if there is no step."""
    found = read_events(folder.events_jsonl).events
    taken = [event.step_s for event in found if isinstance(event, Trained) and start <= event.time < end]
    if not taken:
        raise Stop(ExitCode.FAILED, "no training step ended in a window; give longer ones with --seconds")
    return len(taken) / sum(taken)


def _hour(config: RunConfig, start: float) -> Iterator[AnyEvent]:
    """Events as a run writes them, EVENTS_PER_S of them per second of the log, without end."""
    stage = config.stages[0]
    yield RunStarted(time=start, run="recorded", resumed=False, message="an hour of events")
    sizes = {"plan_bytes": 0, "micro_batch": 32, "accumulation": 1, "cells": stage.shape[0] * stage.shape[1] * stage.shape[2]}
    about = {"shape": stage.shape, "ticks": stage.ticks, "kernel": "none", "carried": False}
    yield StageStarted(time=start, name=stage.name, **sizes, **about)
    numbers, step = random.Random(0), 0
    for count in itertools.count(1):
        when = start + count / EVENTS_PER_S
        if count % LOOK_EVERY:
            step += 1
            loss = 6.0 / (1 + step / 1000) + numbers.gauss(0, 0.1)
            yield Trained(
                time=when, step=step, loss=loss, grad_norm=1.0, learning_rate=1e-3, step_s=numbers.uniform(0.01, 0.03)
            )
            continue
        said = tuple(Sample(source=f"sentence {step} {i}", reference=f"sentence {step} {i}", said=f"{i}") for i in range(8))
        scores = {"bleu": numbers.uniform(0, 100), "chrf": numbers.uniform(0, 100), "exact": 0.5, "valid_loss": 1.0}
        shares = {"active_share": 0.9, "gradient_share": 1.0, "seconds": 0.1, "peak_bytes": 0}
        yield Decoded(time=when, step=step, **scores, **shares, count=64, signature="nrefs:1", samples=said, best=False)


def _table(rows: list[ScreenRow], rate: float, preset: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("what", "unit", "median", "p99", "min", "max", "n", "target", "", box=None, pad_edge=False)
    table.columns[0].no_wrap = True
    for row in rows:
        numbers = (f"{value:.4g}" for value in (row.median, row.p99, row.min, row.max))
        targets = [f"{name} <= {limit:g}" for name, limit in row.at_most.items()]
        targets += [f"{name} >= {limit:g}" for name, limit in row.at_least.items()]
        verdict = {True: "met", False: "MISSED", None: ""}[row.met]
        table.add_row(row.name, row.unit, *numbers, str(row.count), ", ".join(targets), verdict)
    console = Console(highlight=False, emoji=False)
    console.width = max(console.width, 140)  # a narrow terminal wraps the lines; numbers cut short say nothing
    console.print(f"{machine()}; plain copy {rate:.1f} GB/s read + written by one thread; the run: {preset}", markup=False)
    console.print(table)
