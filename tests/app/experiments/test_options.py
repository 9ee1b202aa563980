"""The decorator that makes a command of shared options and its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from app.experiments.shared_options import ExperimentOptions, experiment

Depth = Annotated[int, typer.Option("--depth", help="How deep.")]


@pytest.fixture
def say():
    """`say("dig", ...)`: the result of a command line, and what its function was called with, if it was."""
    app, called = typer.Typer(rich_markup_mode=None), []

    @experiment(app, "dig", ExperimentOptions(seeds=7), own_before="arms", left_out=("target",))
    def dig(options: ExperimentOptions, depth: Depth = 3) -> None:
        """Digs."""
        called.append((options, depth))

    @experiment(app, "rest", ExperimentOptions())
    def rest(options: ExperimentOptions) -> None:
        called.append((options, None))

    def run(*words: str):
        called.clear()
        return CliRunner().invoke(app, words), called[-1] if called else None

    return run


def test_options_that_are_not_given_have_the_commands_defaults(say):
    assert say("dig")[1] == (ExperimentOptions(seeds=7), 3)
    assert say("rest")[1] == (ExperimentOptions(), None)


def test_shared_and_own_options_reach_the_function(say):
    words = ("dig", "--depth", "9", "--to-end", "--set", "a.b=1", "--set", "c.d=2", "--out", "runs.jsonl")
    assert say(*words)[1] == (
        ExperimentOptions(seeds=7, to_end=True, assignments=["a.b=1", "c.d=2"], out=Path("runs.jsonl")),
        9,
    )


def test_help_has_the_own_options_in_their_place(say):
    lines = [line.split()[0] for line in say("dig", "--help")[0].output.splitlines() if line.startswith("  --")]
    assert lines[lines.index("--depth") - 1 : lines.index("--depth") + 2] == ["--to-end", "--depth", "--arms"]
    assert "Digs." in say("dig", "--help")[0].output


def test_an_option_that_is_left_out_is_refused(say):
    told, called = say("dig", "--target", "2")
    assert told.exit_code == 2 and called is None
    assert say("rest", "--target", "2")[1][0].target == 2
