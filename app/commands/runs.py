"""`runs`: lists all runs.  Torch-free."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app import formats
from app.commands.status import stage_title
from app.exit_codes import ExitCode, Stop
from app.options import AsJson, RunsDir
from monitors.runs import RunFolder, RunFolderError, damaged_runs, list_runs
from monitors.runs import runs_dir as place
from monitors.text_safety import printable


def runs(runs_dir: RunsDir = None, as_json: AsJson = False) -> None:
    """Prints all runs, newest first, then the folders that can't be read, with the reason.

    Raises Stop if the runs folder can't be read.
    """
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
    table = Table("run", "state", "stage", "step", "score", "created", box=None, pad_edge=False)
    table.columns[0].no_wrap = True
    for row in rows:
        stage = stage_title(RunFolder(Path(row["path"])), row["stage"])
        score = formats.judged(row["measure"], row["bleu"], row["exact"])
        cells = (row["run"], row["state"], stage, str(row["step"]), score, formats.moment(row["created"]))
        table.add_row(*(escape(printable(cell)) for cell in cells))
    for path, _ in damaged:
        table.add_row(escape(printable(path.name)), "damaged", "-", "-", "-", "-")
    Console(highlight=False, emoji=False).print(table)
    for _, reason in damaged:
        print(printable(reason))
