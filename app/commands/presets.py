"""`presets`: lists the shipped presets, and shows the settings of one.  Torch-free."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from app import configure, formats, planning
from app.options import AsJson, Assignments, ConfigFile
from monitors.text_safety import printable
from presets import layers

presets_app = typer.Typer(invoke_without_command=True, rich_markup_mode=None)


@presets_app.callback()
def presets(context: typer.Context, as_json: AsJson = False) -> None:
    """List the shipped presets."""
    if context.invoked_subcommand is None:
        list_presets(as_json)


@presets_app.command("show")
def presets_show(
    name: Annotated[str, typer.Argument(help="A preset.")],
    config: ConfigFile = None,
    assignments: Assignments = [],
    as_json: AsJson = False,
) -> None:
    """Print every setting, its value, where the value came from and what it does."""
    show_preset(name, config, assignments, as_json)


def list_presets(as_json: bool) -> None:
    """Prints the shipped presets with their size, memory and purpose."""
    loaded = {name: layers.load(name).config for name in layers.preset_names()}
    aliases = {name: [alias for alias, target in layers.ALIASES.items() if target == name] for name in loaded}
    rows: list[dict[str, Any]] = []
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


def show_preset(name: str, config: Path | None, assignments: list[str], as_json: bool) -> None:
    """Prints every setting with its value, origin and meaning.  Raises Stop if the preset or the config is wrong."""
    loaded = configure.load(name, config, assignments)
    rows = layers.flatten(loaded.config)
    if as_json:
        settings = {path: {"value": value, "origin": loaded.origin(path)} for path, (value, _) in rows.items()}
        print(json.dumps({"preset": name, "settings": settings}))
        return
    for path, (value, meaning) in rows.items():
        shown = json.dumps(value, ensure_ascii=False) if value is not None else "-"
        print(f"{path} = {printable(shown)}   ({printable(loaded.origin(path))})\n    {meaning}")
