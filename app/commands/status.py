"""`status`: shows the state of one run.  Torch-free."""

from __future__ import annotations

import json
import tomllib
from typing import Any

from app import formats
from app.exit_codes import ExitCode, Stop
from app.finding import find_run
from app.options import AsJson, RunName, RunsDir
from monitors.runs import RunFolder, RunFolderError, state_of
from monitors.text_safety import printable


def status(run: RunName = "last", runs_dir: RunsDir = None, as_json: AsJson = False) -> None:
    """Prints the state of a run.  Raises Stop if there is no such run, or if it can't be read."""
    folder = find_run(runs_dir, run)
    try:
        fields, info = _status(folder), folder.read_info()
    except RunFolderError as error:
        raise Stop(ExitCode.FAILED, str(error)) from error
    if as_json:
        print(json.dumps(fields))
        return
    where = f"stage {printable(stage_title(folder, info.stage))}, step {formats.count(info.step)}"
    print(f"run {printable(folder.name)} ({printable(info.preset)}): {fields['state']}, {where}")
    score = formats.judged(info.measure, info.bleu, info.exact)
    print(f"loss {formats.loss(info.loss) if info.loss is not None else '-'}, {score}")
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
    if fields["state"] == "copied":
        print(f"copied from a run that process {info.pid} trains in another folder")
    if fields["state"] in ("crashed", "copied") or info.state == "stopped" or has_more:
        print(f"to go on: lattice-tui train --resume {printable(folder.name)}")


def _status(folder: RunFolder) -> dict[str, Any]:
    info = folder.read_info()
    names = ("stage", "step", "loss", "measure", "bleu", "exact", "elapsed_s", "cpu_s", "saving_s", "peak_bytes")
    return {"run": folder.name, "state": state_of(folder)} | {name: getattr(info, name) for name in names}


def status_json(folder: RunFolder) -> str:
    """The JSON object that `status --json` prints for a run."""
    return json.dumps(_status(folder))


def stage_title(folder: RunFolder, stage: int) -> str:
    """Index and name of a run's stage, such as "1 grow".  If its config can't be read, the index alone."""
    try:
        # The config is not validated: that takes longer, and only a name is wanted.
        return f"{stage} {tomllib.loads(folder.read_config())['stages'][stage]['name']}"
    except (OSError, ValueError, KeyError, IndexError, TypeError, RecursionError):
        return str(stage)
