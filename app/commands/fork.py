"""`fork`: makes a new run from a checkpoint of another one, and trains it at once."""

from __future__ import annotations

from typing import Annotated

import typer

from app.commands.train import announce, report, talk
from app.finding import run_config
from app.options import (
    AsJson,
    Assignments,
    Data,
    Detach,
    Device,
    LogFormat,
    MemoryBudget,
    RunsDir,
    Task,
    Valid,
)
from monitors.runs import runs_dir as place


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
    """Makes the fork and trains it.  Raises Stop if it can't begin, and at its end if its exit code is not 0."""
    from app.run_process import engine
    from app.run_process.forking import Changes, make_fork
    from app.run_process.launch import launch

    given = {"--data": data, "--valid": valid, "--task": task, "--device": device, "--memory-budget": memory_budget}
    folder = make_fork(run, Changes(tuple(assignments), given, steps), place(runs_dir))
    if detach:
        announce(launch([f"--resume={folder.name}"], folder.path.parent), as_json)
        return
    config = run_config(folder)
    with talk(config, log_format) as callback:
        outcome = engine.resume(folder, config, [callback])
    report(outcome, runs_dir, log_format, as_json)
