"""Reads pairs from a file or a folder of text, and says what it does not read.

There is one sentence per line.  For the task `pairs`, a line has a source and a target (lattice.data.rows).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from lattice.data.pair import DataError, Pair
from lattice.data.rows import TextRow, rows
from presets.text_files import ENDINGS, FORMATS, ending, files_below, is_text

NAMED = 10
"""Most files or lines that a message names; the rest is counted."""

LONG = 10_000
"""Characters of a sentence that is told of by name, since hardly anything of it can be learned."""

_MIXED = (".json", ".csv", ".parquet")
"""Formats of much that is no text to learn from.  In a folder such files are passed over if they have no sources."""

_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
"""Lone surrogates, which a JSON escape can write and UTF-8 can't."""


def read_pairs(path: Path, task: str, notes: list[str] | None = None) -> Iterator[Pair]:
    """The pairs of a file, or of every file of text below a folder, in name order.

    Adds to `notes` which files are passed over, which lines are very long, and whether targets are not used.
    Raises DataError; the message names what can't be used, the first ten lines of it.
    """
    notes = [] if notes is None else notes
    if path.is_dir():
        files = _files_of(path, task, notes)
    elif path.exists():
        files = [path]
        if ending(path) not in FORMATS:
            notes.append(f"{path}: is none of {ENDINGS}; it is read by what is in it")
    else:
        raise DataError(f"{path}: no such file or folder")
    found, unused = False, False
    for file in files:
        for pair, has_target in _read_file(file, task, notes):
            found, unused = True, unused or has_target
            yield pair
    if not found:
        raise DataError(f"{path}: no sentence in it; expected one per line")
    if unused and task != "pairs":
        notes.append(f"{path}: the task is {task}, so targets are not used; --task pairs trains on them")


def _files_of(folder: Path, task: str, notes: list[str]) -> list[Path]:
    """The files of a folder that are read, by name.  Raises DataError if there is none."""
    files: list[Path] = []
    others: list[str] = []
    try:
        below = sorted(files_below(folder))
    except OSError as error:
        raise DataError(f"{folder}: can't be read: {error.strerror or error}") from error
    for file in below:
        name = str(file.relative_to(folder))
        if not is_text(file):
            others.append(name)
        elif why := _no_sources(file, task):
            others.append(f"{name} ({why})")
        else:
            files.append(file)
    passed = f"{len(others)} file{'s' * (len(others) != 1)} in it not read: {_first(others)}" if others else ""
    if not files:
        raise DataError(f"{folder}: no {ENDINGS} file in this folder{f'; {passed}' if passed else ''}")
    if passed:
        notes.append(f"{folder}: {passed}")
    return files


def _no_sources(file: Path, task: str) -> str:
    """Why a file in a folder is passed over, if it is of a format that holds other things than text, too; else empty."""
    if ending(file) not in _MIXED:
        return ""
    try:
        first = next(rows(file, task), None)
    except DataError as error:
        return str(error).removeprefix(f"{file}: ")
    return "" if first is None or not first.wrong else f"{first.at} {first.wrong}"


def _read_file(path: Path, task: str, notes: list[str]) -> Iterator[tuple[Pair, bool]]:
    """The pairs of a file, and of each whether it has a target.  Raises DataError after the last line if any is of no use."""
    if not path.is_file():
        raise DataError(f"{path}: not a regular file")
    wrong: list[str] = []
    long: list[str] = []
    count = 0
    for row in rows(path, task):
        try:
            pair = _pair(row, path, task)
        except DataError as error:
            count += 1
            wrong += [str(error)] * (len(wrong) < NAMED)
            continue
        if (length := max(len(pair.source), len(pair.target))) > LONG:
            long.append(f"{row.at} ({length:,} characters)")
        if not wrong:
            yield pair, row.target is not None
    if wrong:
        more = [f"... and {count - len(wrong):,} more such lines in {path}"] * (count > len(wrong))
        raise DataError("\n".join(wrong + more))
    if long:
        notes.append(f"{path}: only the beginning is learned of {_first(long)}; expected are sentences, one per line")


def _pair(row: TextRow, path: Path, task: str) -> Pair:
    """The pair of a row.  A target is not looked at if the task does not use it.  Raises DataError."""
    at, source = f"{path}: {row.at}", row.source
    target = row.target if task == "pairs" else source
    if row.wrong:
        raise DataError(f"{at} {row.wrong}")
    if target is None and task == "pairs":
        raise DataError(f"{at} has no target; the task pairs takes source and target, in .jsonl or in .tsv with a TAB between")
    if not isinstance(source, str) or not isinstance(target, str):
        raise DataError(f"{at}: source and target must be strings")
    if _HALF_CHARACTER.search(source + target):
        raise DataError(f"{at} holds half of a character (an escape like \\ud800 without its other half)")
    source, target = " ".join(source.split()), " ".join(target.split())
    if not source or not target:
        raise DataError(f"{at}: source or target is empty")
    return Pair(source, target)


def _first(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
