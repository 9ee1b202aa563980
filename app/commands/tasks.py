"""`tasks`: what tasks are bundled, and their pairs as JSON lines.  Torch-free."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from app import formats
from app.exit_codes import ExitCode, Stop
from app.new_files import check_file
from app.options import AsJson
from monitors.text_safety import printable
from presets.task_name import PREFIX
from presets.task_name import split as split_name

if TYPE_CHECKING:
    from lattice.data.pair import Pair
    from lattice.data.tasks.named import NamedTask

EXACT_TO = 1_000_000
"""Largest number of distinct sentences that is told exactly."""


def tasks(
    task: Annotated[
        str | None,
        typer.Argument(metavar="[NAME[,argument=value...]]", help="A task, such as house or lift,words=4-12; without it all."),
    ] = None,
    count: Annotated[int | None, typer.Option("--count", min=1, help="Write so many pairs, as lines of JSON.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write the pairs to this .jsonl file instead of stdout.")] = None,
    split: Annotated[
        Literal["train", "test"] | None, typer.Option("--split", help="Write the pairs of this side. Default: train.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="The same as the argument seed of the task.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Lists all tasks, tells about one, or with --count, --out or --split writes its pairs.  Raises Stop."""
    writes = [name for name, value in (("--count", count), ("--out", out), ("--split", split)) if value is not None]
    if task is None:
        if wanting := [*writes, *["--seed"] * (seed is not None), *["--force"] * force]:
            raise Stop(ExitCode.USAGE, f"{wanting[0]} needs the name of a task; `lattice-tui tasks` lists them")
        _list(as_json)
        return
    counted = "held" if split == "test" else "count"
    given = {name: value for name, value in (("seed", seed), (counted, count)) if value is not None}
    found = _open(_with_arguments(PREFIX + task.removeprefix(PREFIX), given))
    if writes:
        _write(found, split or "train", out, force, as_json)
    elif force:
        raise Stop(ExitCode.USAGE, "--force replaces the file of --out; give that, too")
    else:
        _tell(found, as_json)


def _with_arguments(source: str, given: dict[str, int]) -> str:
    """The name of a task with the arguments of --seed and --count.  Raises Stop if the name has one of them already."""
    try:
        _, there = split_name(source)
    except ValueError as error:
        raise Stop(ExitCode.USAGE, str(error)) from error
    if twice := [name for name in given if name in there]:
        option = "--seed" if twice[0] == "seed" else "--count"
        raise Stop(ExitCode.USAGE, f"{option}: {twice[0]} is given twice, also in {source}; give it once")
    return ",".join([source, *(f"{name}={value}" for name, value in given.items())])


def _open(source: str) -> NamedTask:
    from lattice.data.pair import DataError
    from lattice.data.tasks.named import named

    try:
        return named(source)
    except DataError as error:
        raise Stop(ExitCode.USAGE, str(error)) from error


def _pairs(task: NamedTask, side: Literal["train", "test"]) -> Iterator[Pair]:
    from lattice.data.pair import DataError

    try:
        yield from task.pairs(side)
    except DataError as error:
        raise Stop(ExitCode.USAGE, str(error)) from error


# What they are


def _facts(found: NamedTask) -> dict[str, Any]:
    """What is told of a task, with the keys of --json.  Draws both sides, which takes about half a second."""
    from lattice.data.tasks.named import values
    from lattice.data.tasks.readers import without_reading

    task = found.task
    train, test = list(_pairs(found, "train")), list(_pairs(found, "test"))
    shortest = min(train, key=lambda pair: len(pair.source))
    reached = without_reading(train, test)
    return {
        "name": task.name,
        "asks": task.asks,
        "arguments": values(found),
        "example": {"source": shortest.source, "target": shortest.target},
        "distinct": task.all_distinct,
        "most_words": task.most_words,
        "constant": reached.constant,
        "last_words": reached.last_words,
    }


def _list(as_json: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from lattice.data.tasks.named import TASKS

    all_facts = [_facts(_open(PREFIX + name)) for name in TASKS]
    if as_json:
        print(json.dumps({"tasks": all_facts}))
        return
    console = Console(highlight=False, emoji=False)
    told = Table("task", "what it asks, and an example", box=None, pad_edge=False)
    numbers = Table("task", "constant answer", "last word", "last 2", "last 3", "distinct sentences", box=None, pad_edge=False)
    for facts in all_facts:
        told.add_row(facts["name"], f"{facts['asks']}\n{_example(facts)}")
        shares = (facts["constant"], *facts["last_words"].values())
        numbers.add_row(facts["name"], *(f"{share:.1%}" for share in shares), _many(facts["distinct"]))
    console.print(told)
    print("\nexact answers by the most frequent answer, and by the most frequent one after the same last words:")
    console.print(numbers)
    print("\n`lattice-tui tasks NAME` tells its arguments; train on it with --data task:NAME,argument=value,...")


def _tell(found: NamedTask, as_json: bool) -> None:
    facts = _facts(found)
    if as_json:
        print(json.dumps(facts))
        return
    shares = ", ".join(f"{share:.1%}" for share in facts["last_words"].values())
    print(f"{facts['name']}: {facts['asks']}")
    print(f"  {_example(facts)}")
    print(f"arguments: {', '.join(f'{name}={value}' for name, value in facts['arguments'].items())}")
    print(f"distinct sentences: {_many(facts['distinct'])}, the longest of {facts['most_words']} words")
    print(f"constant answer: {facts['constant']:.1%} exact; from the last 1, 2, 3 words: {shares}")


def _many(number: int) -> str:
    if number <= EXACT_TO:
        return formats.count(number)
    return f"more than 10^{len(str(number)) - 1}"


def _example(facts: dict[str, Any]) -> str:
    return f"{facts['example']['source']} -> {facts['example']['target']}"


# Their pairs


def _write(found: NamedTask, side: Literal["train", "test"], out: Path | None, force: bool, as_json: bool) -> None:
    """Pairs as JSON lines, to a file that appears when it is complete, or to stdout."""
    from monitors.runs import atomic_write

    lines = (json.dumps({"source": pair.source, "target": pair.target}) + "\n" for pair in _pairs(found, side))
    if out is None:
        if as_json:
            raise Stop(ExitCode.USAGE, "the pairs themselves are JSON; give --out with --json, or leave --json out")
        sys.stdout.writelines(lines)
        return
    if out.suffix.lower() != ".jsonl":
        raise Stop(ExitCode.USAGE, f"--out {out}: the pairs are JSON lines, which --data knows by .jsonl; name the file so")
    check_file("--out", out)
    there = os.path.lexists(out)
    if there and not force:
        raise Stop(ExitCode.USAGE, f"--out: {out} is there already; --force replaces it")
    try:
        atomic_write(out, (line.encode() for line in lines), mode=0o644)
    except OSError as error:
        raise Stop(ExitCode.FAILED, f"{out} can't be written: {error.strerror or error}") from error
    if there:
        print(f"replaced {printable(str(out))}", file=sys.stderr)
    count = found.count if side == "train" else found.held
    if as_json:
        print(json.dumps({"path": str(out), "task": found.task.name, "split": side, "pairs": count, "replaced": there}))
    else:
        print(f"{printable(str(out))}  ({formats.count(count)} {side} pairs)")
