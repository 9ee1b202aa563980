"""The README names every command of the program, and no other."""

import re
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import typer
from typer.core import TyperGroup

from app.cli import app

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| (`lattice-tui .*?`.*?) \|", re.MULTILINE)
"""The first cell of a row of the table of commands.  A bar within it is written as \\|."""


def commands(group: TyperGroup, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of each command, and of each command of a group."""
    for name in group.commands:
        command = group.commands[name]
        yield from commands(command, (*before, name)) if isinstance(command, TyperGroup) else [(*before, name)]


def named() -> set[tuple[str, ...]]:
    """The words of each command that the table names: `bench tick\\|step` names two, as does `runs`, `status RUN`."""
    found: set[tuple[str, ...]] = set()
    for cell in ROW.findall(README.replace("\\|", "/")):
        for code in re.findall(r"`([a-z].*?)`", cell):
            words = code.removeprefix("lattice-tui ").split()
            if words[0] != "make":
                spoken = [word.split("/") for word in takewhile(re.compile(r"[a-z/]+").fullmatch, words)]
                found |= {(first, second) for first in spoken[0] for second in (spoken[1] if spoken[1:] else [""])}
    return {tuple(filter(None, words)) for words in found}


TREE = typer.main.get_command(app)
assert isinstance(TREE, TyperGroup)


def test_the_readme_names_every_command_and_no_other():
    there = set(commands(TREE))
    assert there - named() == set()
    assert named() - there - {command[:1] for command in there} == set()
