"""`train`: trains a run in the foreground, and ends with a summary that says what to type next.

With --detach, the engine runs in a process of its own.
"""

from __future__ import annotations

import contextlib
import gc
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app import configure, formats
from app.exit_codes import ExitCode, Stop
from app.options import (
    AsJson,
    Assignments,
    ConfigFile,
    Data,
    Detach,
    Device,
    LogFormat,
    MemoryBudget,
    RunsDir,
    Steps,
    Task,
    Valid,
)
from monitors.runs import RunFolder
from monitors.runs import runs_dir as place
from monitors.text_safety import printable
from presets.layers import load, preset_names
from presets.schema import RunConfig
from presets.task_name import is_task

if TYPE_CHECKING:
    from rich.table import Table

    from app.run_process.engine import RunOutcome
    from lattice.training.callbacks import Callback
    from monitors.events import Decoded


RESUMES_WITH = ("--resume", "--data", "--valid")
"""The options of a run that is resumed: its name, and where its text is now."""


@dataclass(frozen=True)
class TrainRequest:
    """What `train` was asked for: a new run from a preset, or the run `resume` to be continued, whose text may have moved."""

    preset: str | None = None
    config: Path | None = None
    assignments: tuple[str, ...] = ()
    given: configure.Given | None = None
    """The options that stand for a setting."""

    steps: int | None = None
    resume: str | None = None
    runs_dir: Path | None = None

    def options(self) -> dict[str, object]:
        """The options that were given, by name, except for --runs-dir and --set."""
        named = {"--preset": self.preset, "--config": self.config, "--steps": self.steps, "--resume": self.resume}
        return {name: value for name, value in {**named, **(self.given or {})}.items() if value is not None}

    def check(self) -> RunConfig | None:
        """The config of a new run; None for one that is resumed.

        Raises Stop if the options do not go together, or if the config is wrong.
        """
        if self.resume is None:
            loaded = configure.load(self.preset or "baseline", self.config, list(self.assignments), self.given)
            return configure.with_steps(loaded.config, self.steps)
        foreign = [name for name in self.options() if name not in RESUMES_WITH] + ["--set"] * bool(self.assignments)
        if foreign:
            raise Stop(
                ExitCode.USAGE,
                f"--resume continues a run as it was started; leave out {', '.join(foreign)} (`lattice-tui fork` begins a new "
                "run from it with other settings)",
            )
        return None


def train(
    preset: Annotated[str | None, typer.Option("--preset", help="A shipped preset. Default: baseline.")] = None,
    config: ConfigFile = None,
    data: Data = None,
    valid: Valid = None,
    task: Task = None,
    assignments: Assignments = [],
    steps: Steps = None,
    device: Device = None,
    memory_budget: MemoryBudget = None,
    resume: Annotated[str | None, typer.Option("--resume", help="Continue this run from its newest checkpoint.")] = None,
    detach: Detach = False,
    runs_dir: RunsDir = None,
    log_format: LogFormat = "text",
    as_json: AsJson = False,
) -> None:
    """Trains, or starts training.  Raises Stop if the run can't begin, and at its end if its exit code is not 0."""
    given = {"--data": data, "--valid": valid, "--task": task, "--device": device, "--memory-budget": memory_budget}
    request = TrainRequest(preset, config, tuple(assignments), given, steps, resume, runs_dir)
    if detach:
        start_detached(request, as_json)
    else:
        run(request, log_format, as_json)


def run(request: TrainRequest, log_format: str, as_json: bool) -> None:
    """Trains in this process and prints the outcome.

    Raises Stop if the run can't begin, and at its end if its exit code is not 0.
    """
    config = request.check()

    import torch  # noqa: F401 - the engine is needed from here on; whatever can be refused without it has been refused

    from app.finding import find_run, run_config
    from app.run_process import engine
    from presets.layers import ALIASES

    gc.collect()
    gc.freeze()  # imported objects stay for good: garbage collection and the census of tensors need not look at them
    if config is None:
        assert request.resume is not None, "check() gives a config to everything else"
        folder = find_run(request.runs_dir, request.resume)
        config = configure.resumed(run_config(folder), request.given or {}, folder.name)
        with talk(config, log_format) as callback:
            outcome = engine.resume(folder, config, [callback])
    else:
        preset = request.preset or "baseline"
        with talk(config, log_format) as callback:
            outcome = engine.start(config, ALIASES.get(preset, preset), place(request.runs_dir), [callback])
    report(outcome, request.runs_dir, log_format, as_json)


def start_detached(request: TrainRequest, as_json: bool) -> None:
    """Starts the engine in a session of its own, and prints the run's name once it is up.  Raises Stop if it can't begin."""
    from app.run_process.launch import launch

    request.check()
    arguments = [f"{name}={value}" for name, value in request.options().items()]
    arguments += [f"--set={assignment}" for assignment in request.assignments]
    announce(launch(arguments, place(request.runs_dir)), as_json)


def announce(folder: RunFolder, as_json: bool) -> None:
    """Prints the name of a run whose engine was started in a process of its own."""
    from app.commands.status import status_json

    print(status_json(folder) if as_json else printable(folder.name))
    if (info := folder.read_info()).state == "finished":
        print(finished(folder.name, info.step), file=sys.stderr)


def finished(run: str, step: int) -> str:
    """The message for a run that has nothing left to train."""
    return printable(f"run {run} is finished after {formats.count(step)} steps; `lattice-tui fork {run} --steps N` trains on")


@contextlib.contextmanager
def talk(config: RunConfig, log_format: str) -> Iterator[Callback]:
    """The callback that prints what a run in the foreground does while it trains: `log_format` is "text" or "json"."""
    from app.run_process.headless import JsonLines, Lines, WhileHeard

    if log_format == "json":
        yield WhileHeard(JsonLines(), 1)
        return
    with contextlib.closing(Lines(config)) as lines:
        yield WhileHeard(lines, 2)


def report(outcome: RunOutcome, runs_dir: Path | None, log_format: str, as_json: bool) -> None:
    """Prints how the run ended.  Raises Stop if its exit code is not 0."""
    if not outcome.trained:
        print(finished(outcome.folder.name, outcome.folder.read_info().step), file=sys.stderr)
    if not outcome.folder.run_json.exists():
        raise Stop(ExitCode.FAILED, f"run {outcome.folder.name}: {outcome.reason}")
    if as_json:
        from app.commands.status import status_json

        print(status_json(outcome.folder))
    elif log_format == "text":
        _summary(outcome, runs_dir)
    if outcome.code:
        raise Stop(outcome.code, f"run {outcome.folder.name}: {outcome.reason}")


def _said(final: Decoded) -> Table:
    """What the lattice said to held-out sentences; beside the right answers, if these are not the sentences themselves."""
    from rich.table import Table

    asks = final.has_questions
    title = "Held-out questions and their answers" if asks else "Held-out sentences, through the lattice and back"
    columns = ("unseen question", "right answer") if asks else ("unseen sentence",)
    table = Table(*columns, "what the lattice said", title=title, show_lines=asks)
    for sample in final.samples:
        texts = (sample.source,) * asks + (sample.reference, sample.said)
        table.add_row(*(printable(text).replace("[", r"\[") for text in texts))
    return table


def _scores(final: Decoded) -> str:
    chrf = f"chrF {formats.score(final.chrf)}"
    if final.measure == "exact":
        return f"{final.exact:.1%} exact answers to {final.count} unseen questions ({chrf})"
    others = f"{chrf}, {final.exact:.0%} exact; {final.signature}"
    return f"BLEU {formats.score(final.bleu)} on {final.count} unseen sentences ({others})"


def _examples(config: RunConfig, final: Decoded | None) -> tuple[str, str]:
    """What may be typed after `decode RUN` and after `evaluate RUN --data`, quoted for a shell."""
    option = "--after-each-word " if config.text.reading == "time" else ""
    task = next(filter(is_task, (config.data.valid, config.data.train)), None)
    data = "FILE" if task is None else shlex.quote(task)
    if task is None or final is None:
        return f'{option}"your sentence"', data
    return option + shlex.quote(min((sample.source for sample in final.samples), key=len)), data


def arms_of_run(config: RunConfig, preset: str, folder: RunFolder) -> str:
    """The command that compares this run's lattice with what it could do without; empty where it would tell little.

    It is for bundled tasks and for lattices that read in time, since on other text a wire does as well.
    """
    if config.lattice.arm != "lattice" or not (config.text.reading == "time" or is_task(config.data.train)):
        return ""
    shipped = preset in preset_names() and config == load(preset).config
    source = f"--preset {preset}" if shipped else f"--config {shlex.quote(str(folder.config_toml))}"
    return printable(f"lattice-tui experiment arms {source}")


def _summary(outcome: RunOutcome, runs_dir: Path | None) -> None:
    from rich.console import Console

    from app.finding import run_config
    from lattice.training import checkpoint

    console, info = Console(highlight=False, emoji=False), outcome.folder.read_info()
    where = printable(f" --runs-dir {shlex.quote(str(runs_dir))}") if runs_dir else ""
    if outcome.final is not None:
        console.print(_said(outcome.final))
        console.print(_scores(outcome.final), markup=False, soft_wrap=True)
    speed = info.elapsed_s / info.step if info.step else 0.0
    console.print(
        f"{formats.count(info.step)} steps in {formats.duration(info.elapsed_s)} ({1000 * speed:.0f} ms a step, "
        f"{formats.duration(info.cpu_s)} of CPU), peak memory {formats.bytes_(info.peak_bytes)}",
        markup=False,
    )
    console.print(f"run folder: {printable(str(outcome.folder.path))}", markup=False, soft_wrap=True)
    name = printable(outcome.folder.name)
    if outcome.code == ExitCode.OK:
        config = run_config(outcome.folder)
        text, data = _examples(config, outcome.final)
        console.print(f"next:  lattice-tui decode {name} {text}{where}", markup=False, soft_wrap=True)
        line = f"       lattice-tui evaluate {name} --data {data} --control shuffled{where}"
        console.print(line, markup=False, soft_wrap=True)
        if arms := arms_of_run(config, info.preset, outcome.folder):
            console.print(f"       {arms}   # what the lattice adds", markup=False, soft_wrap=True)
    elif checkpoint.steps(outcome.folder.checkpoints):
        console.print(f"next:  lattice-tui train --resume {name}{where}", markup=False, soft_wrap=True)
