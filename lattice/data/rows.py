"""The rows of a file of text: plain lines, JSON lines or a JSON list, columns by TAB or comma, and parquet.

Columns are source and target.  A first line that names a column `source` says where they are, among any others.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lattice.data.files import format_of, lines
from lattice.data.pair import DataError
from presets.text_files import ending

LIKE = '{"source": "...", "target": "..."}'


@dataclass(frozen=True)
class TextRow:
    """What stands in one line, such as `at` = "line 3": a source, a target if there is one, or what is wrong with the line."""

    at: str
    source: object = None
    target: object = None
    wrong: str = ""


def rows(path: Path, task: str) -> Iterator[TextRow]:
    """The rows of a file for a `data.task`, without blank ones.  Raises DataError if the file can't be read as what it is."""
    match format_of(path):
        case "plain":
            for number, text in lines(path):
                if text.strip():
                    yield TextRow(f"line {number}", text)
        case "json":
            yield from _json_list(path) if ending(path) == ".json" and _is_list(path) else _json_lines(path)
        case "tsv":
            yield from _tab_separated(path, task)
        case "csv":
            yield from _comma_separated(path, task)
        case "parquet":
            yield from _parquet(path)


def _json_lines(path: Path) -> Iterator[TextRow]:
    for number, text in lines(path):
        if text.strip():
            try:
                yield _item(f"line {number}", json.loads(text))
            except (ValueError, RecursionError):  # ValueError: a number of 5000 digits, too
                yield _item(f"line {number}", None)


def _is_list(path: Path) -> bool:
    return next((text.lstrip()[0] for _, text in lines(path) if text.strip()), "") == "["


def _json_list(path: Path) -> Iterator[TextRow]:
    try:
        items = json.loads("".join(text for _, text in lines(path)))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not a JSON list of objects like {LIKE} ({error})") from error
    yield from (_item(f"item {number}", item) for number, item in enumerate(items, 1))


def _item(at: str, item: object) -> TextRow:
    if not isinstance(item, dict) or "source" not in item:
        return TextRow(at, wrong=f"is not a JSON object like {LIKE}")
    return TextRow(at, item["source"], item.get("target"))


def _tab_separated(path: Path, task: str) -> Iterator[TextRow]:
    named: _Columns | None = None
    filled = ((number, text.strip("\r\n").split("\t")) for number, text in lines(path) if text.strip())
    for index, (number, cells) in enumerate(filled):
        at = f"line {number}"
        if index == 0 and (named := _Columns.named(cells)):
            continue
        if named:
            yield named.row(at, cells)
        elif task == "pairs" and any(cell.strip() for cell in cells[2:]):
            wrong = (
                f"has {len(cells)} columns, and the task pairs takes source TAB target; leave the others out, or name the "
                "columns in a first line: source, target and others, with TABs between them"
            )
            yield TextRow(at, wrong=wrong)
        else:
            yield TextRow(at, cells[0], cells[1] if len(cells) > 1 else None)


def _comma_separated(path: Path, task: str) -> Iterator[TextRow]:
    head = next((text for _, text in lines(path) if text.strip()), "")
    # Spreadsheets write a semicolon where a comma stands in numbers.
    split = {mark: _Columns.named(next(csv.reader([head], delimiter=mark), [])) for mark in ",;\t"}
    delimiter = next((mark for mark, found in split.items() if found), ",")
    reader = csv.reader((text for _, text in lines(path)), delimiter=delimiter, strict=True)
    named = split[delimiter]
    try:
        for index, cells in enumerate(cells for cells in reader if any(map(str.strip, cells))):
            at = f"line {reader.line_num}"
            if named and index == 0:
                continue
            if named:
                yield named.row(at, cells)
            elif len(cells) == 1 or (task == "pairs" and len(cells) == 2):
                yield TextRow(at, cells[0], cells[1] if len(cells) == 2 else None)
            else:
                raise DataError(
                    f"{path}: {at} has {len(cells)} columns, and no first line says which is the source; begin the file with "
                    "such a line (source,target), and put text that has commas between double quotes"
                )
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num} is not CSV: {error}") from error


@dataclass(frozen=True)
class _Columns:
    """Where source and target stand in a line; `target` is None if there is no such column."""

    source: int
    target: int | None

    @classmethod
    def named(cls, names: Sequence[str]) -> _Columns | None:
        """By the names of the columns; None if none is `source`."""
        clean = [name.strip().casefold() for name in names]
        if "source" not in clean:
            return None
        return cls(clean.index("source"), clean.index("target") if "target" in clean else None)

    def row(self, at: str, cells: Sequence[str]) -> TextRow:
        if len(cells) <= max(self.source, self.target or 0):
            return TextRow(at, wrong=f"has {len(cells)} columns, fewer than the first line names")
        return TextRow(at, cells[self.source], None if self.target is None else cells[self.target])


def _parquet(path: Path) -> Iterator[TextRow]:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError:
        raise DataError(f"{path}: reading parquet takes pyarrow, which is not installed (pip install pyarrow)") from None
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if "source" not in names:
                raise DataError(f"{path}: has the columns {', '.join(names)}, and none is named source")
            wanted = [name for name in ("source", "target") if name in names]
            number = 0
            for batch in file.iter_batches(columns=wanted):
                for item in batch.to_pylist():
                    number += 1
                    yield TextRow(f"row {number}", item["source"], item.get("target"))
    except (arrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: is not a parquet file that can be read ({error})") from error
