"""Tables of what is there: runs, presets, settings, memory plans.  Torch-free."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app import configure, formats, planning
from app.exit_codes import ExitCode, Stop
from monitors.runs import NoSuchRun, RunFolder, RunFolderError, damaged_runs, list_runs, state_of
from monitors.runs import runs_dir as place
from monitors.text_safety import printable
from presets import layers
from presets.plan import KERNELS, StagePlan, explain


def _console() -> Console:
    return Console(highlight=False, soft_wrap=False)


def runs(runs_dir: Path | None, as_json: bool) -> None:
    """All runs, newest first, then the folders that can't be read, with the reason.  Raises Stop where none can be listed."""
    try:
        rows, damaged = list_runs(place(runs_dir)), damaged_runs(place(runs_dir))
    except RunFolderError as error:
        raise Stop(ExitCode.FAILED, str(error)) from error
    if as_json:
        unread = [{"run": path.name, "path": str(path), "reason": reason} for path, reason in damaged]
        print(json.dumps({"runs": rows, "damaged": unread}))
        return
    if not rows and not damaged:
        print(f"no runs in {place(runs_dir)}; `lattice-tui train --preset baseline` makes one")
        return
    table = Table("run", "state", "stage", "step", "BLEU", "created", box=None, pad_edge=False)
    table.columns[0].no_wrap = True
    for row in rows:
        stage = stage_title(RunFolder(Path(row["path"])), row["stage"])
        cells = (row["run"], row["state"], stage, str(row["step"]), formats.score(row["bleu"]), formats.moment(row["created"]))
        table.add_row(*(escape(printable(cell)) for cell in cells))
    for path, _ in damaged:
        table.add_row(escape(printable(path.name)), "damaged", "-", "-", "-", "-")
    _console().print(table)
    for _, reason in damaged:
        print(printable(reason))


def stage_title(folder: RunFolder, stage: int) -> str:
    """Index and name of a run's stage, such as "1 grow"; the index alone where its config can't be read."""
    try:
        # Not validated: that takes longer, and a list of runs is only read.
        return f"{stage} {tomllib.loads(folder.read_config())['stages'][stage]['name']}"
    except (OSError, ValueError, KeyError, IndexError, TypeError, RecursionError):
        return str(stage)


def _status(folder: RunFolder) -> dict[str, Any]:
    info = folder.read_info()
    names = ("stage", "step", "loss", "bleu", "elapsed_s", "cpu_s", "saving_s", "peak_bytes")
    return {"run": info.run, "state": state_of(folder)} | {name: getattr(info, name) for name in names}


def status_json(folder: RunFolder) -> str:
    """`status --json` of a run."""
    return json.dumps(_status(folder))


def status(run: str, runs_dir: Path | None, as_json: bool) -> None:
    """How one run stands.  Raises Stop."""
    try:
        folder = RunFolder.find(place(runs_dir), run)
        fields, info = _status(folder), folder.read_info()
    except NoSuchRun as error:
        raise Stop(ExitCode.NO_SUCH_RUN, str(error)) from error
    except RunFolderError as error:
        raise Stop(ExitCode.FAILED, str(error)) from error
    if as_json:
        print(json.dumps(fields))
        return
    where = f"stage {printable(stage_title(folder, info.stage))}, step {formats.count(info.step)}"
    print(f"run {printable(info.run)} ({printable(info.preset)}): {fields['state']}, {where}")
    print(f"loss {formats.loss(info.loss) if info.loss is not None else '-'}, BLEU {formats.score(info.bleu)}")
    print(
        f"trained for {formats.duration(info.elapsed_s)} ({formats.duration(info.cpu_s)} of CPU), "
        f"peak memory {formats.bytes_(info.peak_bytes)}"
    )
    if info.saving_s and info.elapsed_s:
        print(f"saving checkpoints took {formats.duration(info.saving_s)} of it ({info.saving_s / info.elapsed_s:.1%})")
    if info.reason:
        print(printable(info.reason))
    if info.parent:
        print(f"forked from {printable(info.parent)}")
    print(f"folder: {printable(str(folder.path))}")
    has_more = fields["state"] == "failed" and any(folder.checkpoints.glob("step-*"))
    if fields["state"] == "crashed" or info.state == "stopped" or has_more:
        print(f"to go on: lattice-tui train --resume {printable(info.run)}")


def presets(as_json: bool) -> None:
    """The shipped presets with their size, memory and purpose."""
    loaded = {name: layers.load(name).config for name in layers.preset_names()}
    aliases = {name: [alias for alias, target in layers.ALIASES.items() if target == name] for name in loaded}
    rows = []
    for name, config in loaded.items():
        stages = planning.here(config)
        largest = max(stages, key=lambda stage: stage.total_bytes)
        rows.append(
            {
                "preset": name,
                "aliases": aliases[name],
                "purpose": config.purpose,
                "shapes": [list(stage.shape) for stage in stages],
                "steps": config.total_steps,
                "total_bytes": largest.total_bytes,
                "fits": all(stage.fits for stage in stages),
            }
        )
    if as_json:
        print(json.dumps({"presets": rows}))
        return
    for row in rows:
        names = " = ".join([row["preset"], *row["aliases"]])
        shapes = " > ".join(formats.shape(shape) for shape in row["shapes"])
        fits = "" if row["fits"] else ", more than its budget"
        print(f"{names}\n    {row['purpose']}")
        print(f"    {shapes} cells, {formats.count(row['steps'])} steps, {formats.bytes_(row['total_bytes'])}{fits}")


def presets_show(name: str, config: Path | None, assignments: list[str], as_json: bool) -> None:
    """Every setting with its value, origin and meaning.  Raises Stop."""
    loaded = configure.load(name, config, assignments)
    rows = layers.flatten(loaded.config)
    if as_json:
        settings = {path: {"value": value, "origin": loaded.origin(path)} for path, (value, _) in rows.items()}
        print(json.dumps({"preset": name, "settings": settings}))
        return
    for path, (value, meaning) in rows.items():
        shown = json.dumps(value, ensure_ascii=False) if value is not None else "-"
        print(f"{path} = {printable(shown)}   ({printable(loaded.origin(path))})\n    {meaning}")


def plan_table(preset: str, config: Path | None, assignments: list[str], as_json: bool) -> None:
    """The memory plan of every stage, and what runs taught beside it.

    Raises Stop, with exit code 3 after the table where a stage does not fit its budget.
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
        told = (formats.bytes_(stage.lesson.peak_bytes) if stage.lesson else "-" for stage in stages)
        table.add_row(f"learned from {lessons[0].runs} stages measured here", *told)
    table.add_row("budget", *(formats.bytes_(stage.budget_bytes) for stage in stages))
    table.add_row("fits", *("yes" if stage.fits else "no" for stage in stages))
    table.add_row("micro-batch x accumulation", *(f"{stage.micro_batch} x {stage.accumulation}" for stage in stages))
    segments = (f"{stage.checkpoint_ticks} ticks" if stage.checkpoint_ticks else "all states kept" for stage in stages)
    table.add_row("segments", *segments)
    table.add_row("reach", *(f"{stage.reach:.0%}" for stage in stages))
    _console().print(table)
    for kernel in dict.fromkeys(stage.kernel for stage in stages):
        print(f"assumed kernel: {KERNELS[kernel]}")
