"""The command line: its entry point, and the commands that start, watch and steer a run; others stand in app.*_commands.

Commands import what they need when they run: `--help` and wrong usage never wait for torch.

stdout carries results (tables, or one JSON object with --json), stderr everything else.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from app.commands.bench import bench_app
from app.commands.options import (
    AsJson,
    Assignments,
    ConfigFile,
    Data,
    Detach,
    Device,
    Fps,
    LogFormat,
    MemoryBudget,
    Plain,
    Preset,
    ReadOnly,
    RunName,
    RunsDir,
    Steps,
    Task,
    Valid,
)
from app.commands.presets import presets_app
from app.commands.run_commands import run_app
from app.exit_codes import ExitCode, Stop
from app.experiments.commands import experiment_app
from app.version import VERSION
from monitors.text_safety import printable

app = typer.Typer(
    name="lattice-tui",
    help="Grow a 3-D cellular lattice into a text model, and watch it learn.",
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(run_app)
app.add_typer(bench_app, name="bench")
app.add_typer(experiment_app, name="experiment")
app.add_typer(presets_app, name="presets", invoke_without_command=True)


def main() -> None:
    """Entry point: one sentence and the right exit code for every expected failure."""
    # Threads that wait should sleep, not spin: beside other work, spinning made a step several times slower.  OpenMP reads
    # this once, when torch loads it.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # Pydantic would read the metadata of every installed package, for plugins that nothing here uses.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    try:
        try:
            app()
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # here, where it can still be said that nobody reads any more
    except Stop as stop:
        # Messages quote file names and settings from outside; several problems stand on a line each.
        print("\n".join(map(printable, f"lattice-tui: {stop}".split("\n"))), file=sys.stderr)
        sys.exit(int(stop.code))
    except BrokenPipeError:
        _leave_the_pipe()
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # typer has seen it first, and made it an exit with 1
            _leave_the_pipe()
        raise


def _leave_the_pipe() -> NoReturn:
    """The reader left (`| head -1`): no words, and the code of a program that SIGPIPE ends.  What is buffered goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    sys.exit(int(ExitCode.PIPE))


@app.callback(invoke_without_command=True)
def home(
    context: typer.Context,
    show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    runs_dir: RunsDir = None,
    fps: Fps = None,
    read_only: ReadOnly = False,
    plain: Plain = False,
) -> None:
    """Without a command: the home screen, presets and runs to start, attach to and watch."""
    if show_version:
        print(f"lattice-tui {VERSION}")
        raise typer.Exit()
    if context.invoked_subcommand is None:
        from app.commands import interface as command

        command.home(runs_dir, fps, read_only, plain)


@app.command()
def attach(
    run: RunName = "last",
    runs_dir: RunsDir = None,
    fps: Fps = None,
    read_only: ReadOnly = False,
    plain: Plain = False,
) -> None:
    """Watch and steer a live run, or go through a finished one, also in a folder copied from elsewhere."""
    from app.commands import interface as command

    command.attach(run, runs_dir, fps, read_only, plain)


@app.command()
def screenshot(
    run: RunName = "last",
    out: Annotated[Path, typer.Option("--out", help="The picture, an SVG file.")] = Path("lattice-tui.svg"),
    size: Annotated[str, typer.Option("--size", help="Columns x rows.")] = "160x50",
    home: Annotated[bool, typer.Option("--home", help="The home screen instead of a run's.")] = False,
    runs_dir: RunsDir = None,
) -> None:
    """Draw a run's screen, or the home screen, into an SVG file."""
    from app.commands import interface as command

    command.screenshot(None if home else run, out, size, runs_dir)


@app.command()
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
    """Train a lattice, from a preset or where a run left off."""
    from app.commands import train as command

    given = {"--data": data, "--valid": valid, "--task": task, "--device": device, "--memory-budget": memory_budget}
    request = command.Request(preset, config, tuple(assignments), given, steps, resume, runs_dir)
    if detach:
        command.detach(request, as_json)
    else:
        command.run(request, log_format, as_json)


@app.command()
def fork(
    run: Annotated[
        str, typer.Argument(metavar="RUN[@STEP]", help="A run, from its newest checkpoint, that of a step, or @best.")
    ],
    assignments: Assignments = [],
    steps: Annotated[
        int | None,
        typer.Option("--steps", min=1, help="Optimizer steps of the whole run, those before the fork included."),
    ] = None,
    data: Data = None,
    valid: Valid = None,
    task: Task = None,
    device: Device = None,
    memory_budget: MemoryBudget = None,
    detach: Detach = False,
    runs_dir: RunsDir = None,
    log_format: LogFormat = "text",
    as_json: AsJson = False,
) -> None:
    """Begin a new run from a checkpoint of another, with its past and some settings changed."""
    from app.run_process import fork as command

    given = {"--data": data, "--valid": valid, "--task": task, "--device": device, "--memory-budget": memory_budget}
    changes = command.Changes(tuple(assignments), given, steps)
    command.run(run, changes, detach, runs_dir, log_format, as_json)


@app.command()
def control(
    run: RunName,
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="COMMAND...",
            help="set a.b=c | stage next|hold|release|goto N | pause | resume | decode | checkpoint | stop",
        ),
    ],
    timeout: Annotated[
        float, typer.Option("--timeout", min=0.1, help="Seconds to wait for the end of a training step.")
    ] = 60.0,
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
) -> None:
    """Change a live run; prints the step after which the change holds."""
    from app.commands import control as command

    command.run(run, words, runs_dir, timeout, as_json)


@app.command()
def soak(
    hours: Annotated[float, typer.Option("--hours", min=0.001, help="How long; 0.17 is ten minutes, 24 a day.")],
    preset: Preset = "baseline",
    assignments: Assignments = [],
    chaos: Annotated[
        bool, typer.Option("--chaos", help="Viewers come and go; commands edit, pause, prune, save; some send nonsense.")
    ] = False,
    out: Annotated[Path, typer.Option("--out", help="Folder for soak.json and soak.png.")] = Path("soak"),
    trace: Annotated[
        bool, typer.Option("--trace", help="Trace Python's allocations from the start: slower, names suspects sooner.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train under load and look for leaks; exit code 4 where one is found. Ctrl-C gives the verdict so far."""
    from app.soak import soak as command

    command.run(hours, preset, assignments, chaos, out, trace, as_json)


@app.command()
def plan(
    preset: Preset = "baseline", config: ConfigFile = None, assignments: Assignments = [], as_json: AsJson = False
) -> None:
    """Show the memory a run will take, part by part, before anything is allocated."""
    from app.commands import listing as command

    command.plan_table(preset, config, assignments, as_json)


@app.command()
def profile(
    preset: Preset = "baseline",
    config: ConfigFile = None,
    data: Data = None,
    assignments: Assignments = [],
    stage: Annotated[int, typer.Option("--stage", min=0, help="Which of the preset's stages.")] = 0,
    steps: Annotated[int, typer.Option("--steps", min=2, help="Training steps to measure.")] = 3,
    device: Device = None,
    memory_budget: MemoryBudget = None,
    as_json: AsJson = False,
) -> None:
    """Train a few steps in a process of its own; print what they took beside the plan, and remember it for later plans."""
    from app.commands import profile as command

    given = {"--data": data, "--device": device, "--memory-budget": memory_budget}
    command.run((preset, config, assignments, given), stage, steps, as_json)


if __name__ == "__main__":
    main()
