"""`soak`: trains for a long time under everything that a run can meet, and tells whether this process leaks memory.

    long     one run of two stages, a small one and then the preset's last, with decoding, re-clustering, discovery, plasticity,
             pruning and regrowth, and checkpoints
    cycles   short runs of both stages, one after another: engines, sockets, optimizers and lattices are made and freed

A screen is attached in a terminal of its own all the time, and its memory is one of the meters.  With `chaos`, viewers come and
go, commands edit, pause, prune and save, and some clients send nonsense.  Training runs in this process, so that all of it is
metered together.  The cycles are judged in a window of their own.  The long run frees memory at its end; in a common window,
that would hide a leak of the cycles.  Each run is removed at its end.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import shutil
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from app import configure, formats
from app.exit_codes import ExitCode, Stop
from app.run_process import engine
from app.run_process.prepare import prepare_device
from app.soak import meter_curves
from app.soak.load import Load, loaded
from lattice.data.grammar import generate
from lattice.observing.leak_monitor import LeakMonitor
from lattice.training.callbacks import Callback
from lattice.training.state import TrainingState
from monitors import leaks
from monitors.events import AnyEvent, LeaksJudged
from monitors.leak_detector import Detector
from monitors.machine import machine
from monitors.text_safety import printable
from presets.schema import RunConfig

LONG_SHARE = 0.5
"""Share of the time for the long run."""

ENDLESS = 10**9
"""Steps of the long run: more than anybody waits for."""

FIRST_STAGE_STEPS = 60
CYCLE_STEPS = 10
"""Steps of each stage of a cycle.  The leak detector takes its sample at the end of a stage."""

LOOK_EVERY = 10
SENTENCES = 3000
"""Sentences of the corpus, if the preset names none.  A small one is enough, and the runs start sooner."""

CLUSTERS = 4
SPARSITY = 0.3
"""Sparsity, if the preset asks for none.  It is reached in the first PRUNED_AT steps of a stage."""

PRUNED_AT = 4
REGROW = ("activity", "gradient")
"""The criterion by which connections come back, in the first stage and in the last."""

TOLD_EVERY_S = 30.0


@dataclass
class Phase:
    """The long run or the cycles, with a leak detector, and the counts of runs, steps and events of each kind so far."""

    name: str
    detector: Detector
    runs: int = 0
    steps: int = 0
    events: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def meters(self) -> list[dict[str, Any]]:
        """The meters, each as `--json` shows it."""
        return [
            {"name": f"{self.name}: {meter.name}"} | meter.model_dump(exclude={"name"}) for meter in self.detector.latest.meters
        ]


class Until(Callback):
    """Ends the run when the time of the phase is up, and prints the detector's verdict now and then."""

    def __init__(self, phase: Phase, end: float, console: Console) -> None:
        self._phase, self._end, self._console = phase, end, console
        self._told = time.monotonic()

    def after_step(self, state: TrainingState) -> None:
        self._phase.steps += 1
        if time.monotonic() >= self._end:
            state.request_stop("the soak's time is up")

    def on_event(self, event: AnyEvent) -> None:
        self._phase.events[event.kind] += 1
        if isinstance(event, LeaksJudged) and time.monotonic() - self._told >= TOLD_EVERY_S:
            self._told = time.monotonic()
            left = formats.duration(max(0.0, self._end - self._told))
            line = f"{self._phase.name}: {formats.count(self._phase.steps)} steps, {event.samples} samples, {event.verdict}"
            self._console.print(f"{line}; {left} left", markup=False)


def run(hours: float, preset: str, assignments: list[str], chaos: bool, out: Path, trace: bool, as_json: bool) -> None:
    """Runs the soak, prints the verdict, and writes soak.json and soak.png to `out`.

    Raises Stop before anything starts if something is wrong with the options.  At the end it raises Stop with exit code 4 for a
    leak, 1 for errors, and 130 if the soak was interrupted and had found no leak.
    """
    meter_curves.check(out)
    config = configure.load(preset, None, assignments).config
    if chaos:
        logging.getLogger("app.wire.server").setLevel(logging.ERROR)  # refusing nonsense is what it should do all the while
    start, seconds = time.monotonic(), 3600 * hours
    console = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)
    gc.collect()
    gc.freeze()  # what is imported stays
    with tempfile.TemporaryDirectory(prefix="lattice-tui-soak-", ignore_cleanup_errors=True) as folder:
        long, cycles = configs(config, _corpus(Path(folder), config.run.seed))
        prepare_device(long)
        runs_dir = Path(folder) / "runs"
        load = Load(runs_dir, chaos, config.run.seed)
        phases = [
            Phase("long", Detector(others={"screen": load.screen_pid}, trace=trace)),
            Phase("cycles", Detector(trace=trace)),
        ]
        interrupted = False
        with contextlib.ExitStack() as stack:
            stack.enter_context(loaded(load))
            for phase in phases:
                stack.callback(phase.detector.close)
            try:
                _soak(phases[0], long, preset, runs_dir, start + LONG_SHARE * seconds, console)
                while time.monotonic() < start + seconds and not phases[0].failures + phases[1].failures:
                    _soak(phases[1], cycles, preset, runs_dir, start + seconds, console, every=CYCLE_STEPS)
            except KeyboardInterrupt:
                interrupted = True
    errors = [*load.errors, *phases[0].failures, *phases[1].failures]
    report = summary(phases, errors, load.acts, time.monotonic() - start, preset, chaos)
    _write(out, report, phases)
    if as_json:
        print(json.dumps(report))
    else:
        _show(report, out)
    _leave(report, interrupted)


def configs(config: RunConfig, corpus: str) -> tuple[RunConfig, RunConfig]:
    """The configs of the long run and of a cycle.

    Both have the preset's last stage after a smaller one, with everything switched on that can be.
    """
    data = config.model_dump()
    last = data["stages"][-1]
    first = data["stages"][0] if len(data["stages"]) > 1 else _smaller(last, config.text.grid)
    for name, stage, regrow in zip(("first", "last"), (first, last), REGROW, strict=True):
        x, y, z = stage["shape"]
        clusters = stage["clustering"]["clusters"] or min(CLUSTERS, x * y * z // 8)
        stage["clustering"] |= {"clusters": clusters}
        stage |= {"name": name, "until_loss": None, "until_plateau": None}
        stage["waves"] = 0 if config.plasticity.rule == "three_factor" else 2
        stage["sparsity"] = stage["sparsity"] or SPARSITY
        stage["rewiring"] = stage["rewiring"] | {"regrow": regrow, "prune_at": PRUNED_AT}
    data["connections"]["learning"] = "hybrid"
    data["decode"] |= {"every": LOOK_EVERY}
    data["checkpoint"] |= {"every": 40}
    data["optimizer"]["warmup_steps"] = min(config.optimizer.warmup_steps, CYCLE_STEPS)
    data["data"]["train"] = config.data.train or corpus
    data["data"]["held_out"] = max(config.data.held_out, 0.05)

    def of(*steps: int, rewired: int, clustered: int) -> RunConfig:
        every = {"rewiring": rewired, "clustering": clustered}
        stages = [
            stage | {"steps": count} | {part: stage[part] | {"every": often} for part, often in every.items()}
            for stage, count in zip((first, last), steps, strict=True)
        ]
        return RunConfig.model_validate(data | {"stages": stages})

    half = CYCLE_STEPS // 2
    return of(FIRST_STAGE_STEPS, ENDLESS, rewired=20, clustered=40), of(CYCLE_STEPS, CYCLE_STEPS, rewired=half, clustered=half)


def _smaller(stage: dict[str, Any], grid: int) -> dict[str, Any]:
    """The stage at half its width.  The distance between the faces, and with it the reach, stays the same."""
    x, y, z = stage["shape"]
    shape = (max(grid, x // 2), max(grid, y // 2), z)
    strides = stage["strides"] | {
        axis: tuple(stride for stride in stage["strides"][axis] if stride < size)
        for axis, size in zip("xy", shape[:2], strict=True)
    }
    return {**stage, "shape": shape, "strides": strides, "clustering": dict(stage["clustering"])}


def _corpus(folder: Path, seed: int) -> str:
    path = folder / "sentences.txt"
    path.write_text("\n".join(generate(SENTENCES, seed=seed)) + "\n", encoding="utf-8")
    return str(path)


def _soak(
    phase: Phase, config: RunConfig, preset: str, runs_dir: Path, end: float, console: Console, every: int = LOOK_EVERY
) -> None:
    """Does one run.  Raises KeyboardInterrupt if a signal ended it."""
    monitor = LeakMonitor(phase.detector, every)
    phase.runs += 1
    try:
        outcome = engine.start(config, preset, runs_dir, [Until(phase, end, console)], monitor)
    except Stop:
        raise
    except Exception as error:  # noqa: BLE001 to find one is what a soak is for, and must not cost what was measured so far
        traceback.print_exc()
        phase.failures.append(f"a run died of {type(error).__name__}: {error}")
        return
    # A day of runs would fill the disk, and whoever lists them would hold ever more.
    shutil.rmtree(outcome.folder.path, ignore_errors=True)
    if outcome.code in (ExitCode.INTERRUPTED, ExitCode.TERMINATED):
        raise KeyboardInterrupt
    if outcome.code:
        phase.failures.append(f"{outcome.folder.name} failed: {outcome.reason}")


def summary(
    phases: list[Phase], errors: list[str], acts: dict[str, int], duration_s: float, preset: str, chaos: bool
) -> dict[str, Any]:
    """The object of `--json`."""
    meters = [meter for phase in phases for meter in phase.meters()]
    verdict = leaks.worst([phase.detector.latest.verdict for phase in phases])
    counts = {
        phase.name: {"runs": phase.runs, "steps": phase.steps, "samples": phase.detector.latest.samples}
        | {"events": dict(phase.events)}
        for phase in phases
    }
    told = {"preset": preset, "chaos": chaos, "machine": machine(), "phases": counts, "acts": acts, "errors": errors}
    return {"verdict": verdict, "meters": meters, "duration_s": round(duration_s, 1)} | told


def _write(out: Path, report: dict[str, Any], phases: list[Phase]) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "soak.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        meter_curves.draw(out / "soak.png", report, {phase.name: phase.detector.window for phase in phases})
    except OSError as error:
        raise Stop(ExitCode.FAILED, f"{error.filename or out} can't be written: {error.strerror or error}") from error


def _show(report: dict[str, Any], out: Path) -> None:
    table = Table("meter", "now", "growth", "per step", "at least", "verdict", box=None, pad_edge=False)
    for column in table.columns[1:5]:
        column.justify = "right"
    for meter in report["meters"]:
        said = formats.bytes_ if meter["unit"] == "bytes" else lambda count: f"{count:.4g}"
        numbers = (said(meter[key]) for key in ("value", "growth", "slope", "low"))
        who = f"{meter['verdict']}: {printable(meter['suspect'])}" if meter["suspect"] else meter["verdict"]
        table.add_row(meter["name"], *numbers, who)
    console = Console(highlight=False, emoji=False)
    console.width = max(console.width, 110)
    console.print(table)
    done = ", ".join(
        f"{name} {formats.count(each['steps'])} steps in {each['runs']} runs, {each['samples']} samples"
        for name, each in report["phases"].items()
    )
    console.print(
        f"{formats.duration(report['duration_s'])}: {done}; {sum(report['acts'].values())} acts from outside", markup=False
    )
    for error in report["errors"]:
        console.print(f"error: {printable(error)}", markup=False)
    console.print(f"verdict: {report['verdict'].upper()}; {printable(str(out / 'soak.png'))}, soak.json", markup=False)


def _leave(report: dict[str, Any], interrupted: bool) -> None:
    if report["verdict"] == "leak":
        names = ", ".join(meter["name"] for meter in report["meters"] if meter["verdict"] == "leak")
        raise Stop(ExitCode.LEAK, f"a leak was found: {names}")
    if report["errors"]:
        raise Stop(ExitCode.FAILED, f"no leak, but {len(report['errors'])} errors; the first: {report['errors'][0]}")
    if interrupted:
        raise Stop(ExitCode.INTERRUPTED, "interrupted; this is the verdict so far")
