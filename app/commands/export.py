"""`export`: writes the events of a run as CSV tables, one per kind of event, or as TensorBoard files.

CSV has every event with every field.  A missing number is an empty cell.  A field with parts (samples, sizes) is JSON in its
cell.  TensorBoard files have the numbers that make curves.  The package `tensorboard` writes them; it is imported when needed.
The log is read line by line.  A file appears under its name only when it is complete.  Torch-free.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import sys
import tempfile
import typing
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO

import typer

from app import formats
from app.exit_codes import ExitCode, Stop
from app.finding import find_run
from app.options import AsJson, RunName, RunsDir
from monitors.event_log import each_event
from monitors.events import AnyEvent, BadStep, Clustered, Decoded, MemorySampled, Plastic, Rewired, Saved, Trained
from monitors.runs import RunFolder, RunFolderError
from monitors.text_safety import printable

KINDS = {kind.model_fields["kind"].default: kind for kind in typing.get_args(AnyEvent)}
"""Event types by the name of their kind."""

CURVES = (Trained, Decoded, Saved, BadStep, MemorySampled, Clustered, Plastic, Rewired)
"""The types of events whose numbers make curves."""


@dataclass(frozen=True)
class Written:
    """A file that was written: how many events of each kind it has (`rows`), and whether it replaced another file."""

    path: Path
    rows: dict[str, int]
    replaced: bool = False


def export(
    run: RunName = "last",
    form: Annotated[
        Literal["csv", "tensorboard"],
        typer.Option("--format", help="csv: every event, a table a kind; tensorboard: the numbers of its curves."),
    ] = "csv",
    what: Annotated[
        str | None, typer.Option("--what", help="Only this kind of event, such as trained, as one CSV table (stdout).")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the files (default: RUN-csv here); with --what, the file.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there; says which.")] = False,
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
) -> None:
    """Writes the files and prints their names, or prints one table to stdout.

    Raises Stop if options do not go together, if files would be replaced without --force, or if reading or writing fails.
    """
    if what is not None and what not in KINDS:
        raise Stop(ExitCode.USAGE, f"--what: {what!r} is no kind of event; there are {', '.join(KINDS)}")
    if what is not None and form != "csv":
        raise Stop(ExitCode.USAGE, "--what picks one CSV table; leave it out for TensorBoard files, which hold all curves")
    if what is not None and out is None and as_json:
        raise Stop(ExitCode.USAGE, "--what without --out prints the table itself; give --out with --json, or leave --json out")
    unread = Counter[str]()
    folder = find_run(runs_dir, run)
    try:
        events = _read(folder, unread)
        if what is None:
            files = _folder(out or Path(f"{folder.name}-{form}"), form, events, force)
        elif out is not None:
            files = [_one_table(out, what, events, force)]
        else:
            _table(sys.stdout, what, events, safe=sys.stdout.isatty())
            files = []
    except BrokenPipeError:
        raise
    except (RunFolderError, OSError) as error:
        raise Stop(ExitCode.FAILED, f"{run} can't be exported: {error}") from error
    for file in files:
        if file.replaced:
            print(f"replaced {printable(str(file.path))}", file=sys.stderr)
    if unread["lines"]:
        print(f"note: {unread['lines']} lines of the log can't be read and are left out", file=sys.stderr)
    if as_json:
        listed = [{"path": str(file.path), "rows": file.rows, "replaced": file.replaced} for file in files]
        print(json.dumps({"run": folder.name, "format": form, "files": listed, "unread": unread["lines"]}))
        return
    for file in files:
        rows = ", ".join(f"{formats.count(count)} {kind}" for kind, count in file.rows.items())
        print(f"{printable(str(file.path))}  ({rows})")
    if not files and what is None:
        print(f"run {printable(folder.name)} has no events to export yet", file=sys.stderr)


def _read(folder: RunFolder, unread: Counter[str]) -> Iterator[AnyEvent]:
    for event in each_event(folder.events_jsonl):
        if event is None:
            unread["lines"] += 1
        else:
            yield event


# CSV


def columns(kind: str) -> list[str]:
    """The columns of the table of a kind of event: all fields but `kind`, in the order of the event."""
    return [name for name in KINDS[kind].model_fields if name != "kind"]


def cell(value: Any) -> Any:
    """The content of a cell: nothing for None, JSON for a field with parts or a truth value, else the value."""
    if value is None or (isinstance(value, str | int | float) and not isinstance(value, bool)):
        return value
    return json.dumps(value, ensure_ascii=False)


def _row(event: AnyEvent) -> list[Any]:
    fields = event.model_dump(mode="json", exclude={"kind"})
    return [cell(value) for value in fields.values()]


def _table(stream: TextIO, kind: str, events: Iterator[AnyEvent], safe: bool = False) -> int:
    """Writes a table of the events of one kind.  Returns how many there are.

    `safe` is for a terminal: it keeps control characters in quoted text from having an effect.
    """
    writer, count = csv.writer(stream, lineterminator="\n"), 0
    writer.writerow(columns(kind))
    for event in events:
        if event.kind == kind:
            row = _row(event)
            writer.writerow([printable(value) if safe and isinstance(value, str) else value for value in row])
            count += 1
    return count


def _one_table(out: Path, kind: str, events: Iterator[AnyEvent], force: bool) -> Written:
    there = os.path.lexists(out)
    if there and not force:
        raise Stop(ExitCode.USAGE, f"--out: {out} is there already; --force replaces it")
    with _beside(out) as folder:
        with (folder / "table").open("w", encoding="utf-8", newline="") as stream:
            count = _table(stream, kind, events)
        os.replace(folder / "table", out)
    return Written(out, {kind: count}, there)


def _csv_files(folder: Path, events: Iterator[AnyEvent]) -> dict[str, dict[str, int]]:
    """Writes one file per kind of event that occurs.  Returns, by file name, the kind and its number of events."""
    rows: Counter[str] = Counter()
    with contextlib.ExitStack() as stack:
        writers: dict[str, Any] = {}
        for event in events:
            kind = event.kind
            if kind not in writers:
                stream = stack.enter_context((folder / f"{kind}.csv").open("w", encoding="utf-8", newline=""))
                writers[kind] = csv.writer(stream, lineterminator="\n")
                writers[kind].writerow(columns(kind))
            writers[kind].writerow(_row(event))
            rows[kind] += 1
    return {f"{kind}.csv": {kind: count} for kind, count in rows.items()}


# TensorBoard


def scalars(event: AnyEvent) -> Iterator[tuple[str, float]]:
    """Yields the numbers of an event with their tags, such as ("trained/loss", 2.31); nothing if it makes no curve."""
    if not isinstance(event, CURVES):
        return
    for name in columns(event.kind):
        value = getattr(event, name)
        if name not in ("time", "step", "stage") and isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{event.kind}/{name}", float(value)


def _tensorboard_files(folder: Path, events: Iterator[AnyEvent]) -> dict[str, dict[str, int]]:
    """Writes one file for TensorBoard.  Returns, by its name, the kinds of events and their numbers.

    Raises Stop if the package `tensorboard` is not installed.
    """
    try:
        from tensorboard.summary import Writer
    except ImportError as error:
        raise Stop(
            ExitCode.USAGE,
            "--format tensorboard needs the package tensorboard; pip install 'lattice-tui[tensorboard]' brings it",
        ) from error
    rows: Counter[str] = Counter()
    writer = Writer(str(folder))
    try:
        for event in events:
            for tag, value in scalars(event):
                writer.add_scalar(tag, value, event.step, wall_time=event.time)
            rows[event.kind] += isinstance(event, CURVES)
    finally:
        writer.close()
    return {path.name: {kind: count for kind, count in rows.items() if count} for path in folder.iterdir()}


# Where files go


def _folder(out: Path, form: str, events: Iterator[AnyEvent], force: bool) -> list[Written]:
    """Writes the files into a temporary folder beside `out`, then moves them to `out`.  Raises Stop if that may not be."""
    if os.path.lexists(out) and not out.is_dir():
        raise Stop(ExitCode.USAGE, f"--out: {out} is not a folder; with --what one table can go to a file")
    if out.is_dir() and any(out.iterdir()) and not force:
        raise Stop(ExitCode.USAGE, f"--out: {out} is there already and not empty; --force replaces files of the same name")
    with _beside(out) as folder:
        written = (_csv_files if form == "csv" else _tensorboard_files)(folder, events)
        if not any(written.values()):
            return []
        out.mkdir(exist_ok=True)
        files = []
        for name, rows in written.items():
            files.append(Written(out / name, rows, (out / name).exists()))
            os.replace(folder / name, out / name)
        return files


@contextlib.contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """A temporary folder on the file system of `out`, deleted at the end of the `with` block."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
