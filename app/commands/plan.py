"""`plan`: shows the memory that a run will take, before anything is allocated.  Torch-free."""

from __future__ import annotations

import json

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app import configure, formats, planning
from app.exit_codes import ExitCode, Stop
from app.options import AsJson, Assignments, ConfigFile, Preset
from presets.components import KERNELS
from presets.plan import StagePlan, explain


def plan(
    preset: Preset = "baseline", config: ConfigFile = None, assignments: Assignments = [], as_json: AsJson = False
) -> None:
    """Prints the memory plan of every stage, and what measured runs predict.

    Raises Stop if the config is wrong; and with exit code 3, after the table, if a stage does not fit its budget.
    """
    stages = planning.learned_here(configure.load(preset, config, assignments).config)
    if as_json:
        print(json.dumps({"stages": [stage.as_json() for stage in stages]}))
    else:
        _print_plan(stages)
    if too_big := [explain(stage) for stage in stages if not stage.fits]:
        raise Stop(ExitCode.NO_DEVICE, "\n".join(too_big))


def _print_plan(stages: tuple[StagePlan, ...]) -> None:
    table = Table("", *(f"{escape(stage.name)}\n{formats.shape(stage.shape)}" for stage in stages), title="Memory plan")
    for component in stages[0].components:
        cells = [stage.components.get(component, 0) for stage in stages]
        table.add_row(component.replace("_", " "), *(formats.bytes_(size) if size else "-" for size in cells))
    table.add_section()
    table.add_row("total", *(formats.bytes_(stage.total_bytes) for stage in stages))
    if lessons := [stage.lesson for stage in stages if stage.lesson]:
        learned = (formats.bytes_(stage.lesson.peak_bytes) if stage.lesson else "-" for stage in stages)
        table.add_row(f"learned from {lessons[0].runs} stages measured here", *learned)
    table.add_row("budget", *(formats.bytes_(stage.budget_bytes) for stage in stages))
    table.add_row("fits", *("yes" if stage.fits else "no" for stage in stages))
    table.add_row("micro-batch x accumulation", *(f"{stage.micro_batch} x {stage.accumulation}" for stage in stages))
    segments = (f"{stage.checkpoint_ticks} ticks" if stage.checkpoint_ticks else "all states kept" for stage in stages)
    table.add_row("segments", *segments)
    table.add_row("reach", *(f"{stage.reach:.0%}" for stage in stages))
    Console(highlight=False, emoji=False).print(table)
    for kernel in dict.fromkeys(stage.kernel for stage in stages):
        print(f"assumed kernel: {KERNELS[kernel]}")
