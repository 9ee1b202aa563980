"""The command line of `presets`."""

from __future__ import annotations

from typing import Annotated

import typer

from app.commands.options import AsJson, Assignments, ConfigFile

presets_app = typer.Typer(help="What runs are shipped, and what they set.", rich_markup_mode=None)


@presets_app.callback()
def presets(context: typer.Context, as_json: AsJson = False) -> None:
    """List the shipped presets."""
    if context.invoked_subcommand is None:
        from app.commands import listing as command

        command.presets(as_json)


@presets_app.command("show")
def presets_show(
    name: Annotated[str, typer.Argument(help="A preset.")],
    config: ConfigFile = None,
    assignments: Assignments = [],
    as_json: AsJson = False,
) -> None:
    """Print every setting, its value, where the value came from and what it does."""
    from app.commands import listing as command

    command.presets_show(name, config, assignments, as_json)
