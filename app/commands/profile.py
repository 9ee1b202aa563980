"""`profile`: trains a few steps in a process of their own, and compares what they took with the plan.

If the config reads in time, the last step takes the longest sentences, for which the plan is made.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Annotated, Any

import typer

from app import child, configure, formats, planning
from app.exit_codes import ExitCode, Stop
from app.options import AsJson, Assignments, ConfigFile, Data, Device, MemoryBudget, Preset
from presets.layers import to_toml
from presets.plan import StagePlan
from presets.schema import RunConfig


def profile(
    preset: Preset = "baseline",
    config_file: ConfigFile = None,
    data: Data = None,
    assignments: Assignments = [],
    stage: Annotated[int, typer.Option("--stage", min=0, help="Which of the preset's stages.")] = 0,
    steps: Annotated[int, typer.Option("--steps", min=2, help="Training steps to measure.")] = 3,
    device: Device = None,
    memory_budget: MemoryBudget = None,
    as_json: AsJson = False,
) -> None:
    """Measures and prints.  Raises Stop if the config is wrong, or if the measured process fails."""
    given = {"--data": data, "--device": device, "--memory-budget": memory_budget}
    config = _one_stage(configure.load(preset, config_file, assignments, given).config, stage)
    planned = planning.learned_here(config)[0]
    found = _in_a_process(config, steps)
    shown = {"stage": planned.name} | planned.as_json() | found
    if as_json:
        print(json.dumps(shown, allow_nan=False))
    else:
        _print(planned, found, config)


def _one_stage(config: RunConfig, stage: int) -> RunConfig:
    if stage >= len(config.stages):
        raise Stop(ExitCode.USAGE, f"--stage: {stage} is not there; the last one is {len(config.stages) - 1}")
    alone: dict[str, object] = {"stages": (config.stages[stage],)}
    if config.optimizer.warmup_steps >= config.stages[stage].steps:
        alone["optimizer"] = config.optimizer.model_copy(update={"warmup_steps": 0})
    return config.model_copy(update=alone)


def _in_a_process(config: RunConfig, steps: int) -> dict[str, Any]:
    command = child.command("app.run_process.profiled", str(steps))
    done = subprocess.run(command, input=to_toml(config), capture_output=True, text=True, env=child.environment(), check=False)
    if done.returncode == 0:
        sys.stderr.write(done.stderr)
        return json.loads(done.stdout)
    if done.returncode < 0:
        raise Stop(ExitCode.FAILED, f"the measured process was ended by signal {-done.returncode}: memory may have run out")
    words = [line.removeprefix("lattice-tui: ") for line in done.stderr.strip().splitlines()[-20:]]
    code = ExitCode(done.returncode) if done.returncode in set(ExitCode) else ExitCode.FAILED
    raise Stop(code, "\n".join(words) or f"the measured process ended with {done.returncode}")


def _print(planned: StagePlan, found: dict[str, Any], config: RunConfig) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("", f"{planned.name}\n{formats.shape(planned.shape)}", title="Plan and measurement")
    for component, size in planned.components.items():
        table.add_row(component.replace("_", " "), formats.bytes_(size) if size else "-")
    table.add_section()
    table.add_row("planned", formats.bytes_(planned.total_bytes))
    peak = found["peak_bytes"]
    if planned.lesson:
        error = planned.lesson.peak_bytes / peak - 1
        learned = f"{formats.bytes_(planned.lesson.peak_bytes)} ({error:+.1%} of the measured)"
        table.add_row(f"learned from {planned.lesson.runs} stages measured here", learned)
    table.add_row("measured peak", f"{formats.bytes_(peak)} (plan {planned.total_bytes / peak - 1:+.1%})")
    Console(highlight=False, emoji=False).print(table)
    print(
        f"step {1000 * found['step_s']:.0f} ms, {1000 * found['step_cpu_s']:.0f} ms of CPU (medians of {found['steps']}), "
        f"micro-batch {found['micro_batch']} of {found['batch']}, "
        + (f"segments of {found['checkpoint_ticks']} ticks" if found["checkpoint_ticks"] else "all states kept")
    )
    if config.text.reading == "time" and config.lattice.arm == "lattice":
        took = f"has {found['longest_tokens']} tokens and takes {found['longest_ticks']} ticks"
        planned_for = f"{config.longest_ticks(config.stages[0])}, for text.max_tokens = {config.text.max_tokens}"
        print(f"the longest sentence of these steps {took}; planned are {planned_for}")
    print(f"remembered in {found['remembered']}" if found["remembered"] else "not remembered: there is no home folder")
