"""What stages of runs really took on this machine, as one line of JSON per stage, so that later plans can learn from it.

Each user has a file: `$XDG_STATE_HOME/lattice-tui/measured.jsonl`, next to the runs.  A line that can't be understood is
skipped; it may be torn by a full disk, written by a newer version, or edited.  Only the newest MOST lines are kept.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from monitors.machine import machine
from monitors.places import state_folder
from monitors.plain_files import atomic_write

MOST = 500
"""Most lines that are kept; each has about 600 bytes."""

MOST_BYTES = 4_000_000
"""Most bytes that are read, from the file's end."""


@dataclass(frozen=True)
class StageRecord:
    """One stage of one process, as it was measured.

    `features` are those of the plan (presets.plan.StagePlan.features).  `peak_bytes` is the most memory in use: of the process
    on the CPU, of live tensors on a GPU.  `step_s` is the median wall-clock time of `steps` steps, in seconds.
    """

    machine: str
    features: Mapping[str, float]
    peak_bytes: int
    step_s: float
    steps: int
    at: float
    """Unix seconds."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: object) -> StageRecord:
        """The record in a parsed JSON object.  Raises ValueError if it is none."""
        if not isinstance(fields, dict) or set(fields) != set(cls.__dataclass_fields__):
            raise ValueError("is no record of a measured stage")
        features, numbers = fields["features"], [fields[name] for name in ("peak_bytes", "step_s", "steps", "at")]
        if not isinstance(fields["machine"], str) or not isinstance(features, dict):
            raise ValueError("machine or features are of another kind")
        if not all(_is_amount(value) for value in (*features.values(), *numbers)) or not all(numbers):
            raise ValueError("holds what is no amount")
        return cls(**fields)


def _is_amount(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def place() -> Path | None:
    """The path of this user's file of measurements; None for a user without a home folder."""
    folder = state_folder()
    return folder / "measured.jsonl" if folder is not None else None


def machine_key(device: str) -> str:
    """The machine that a measurement is valid for: processor, cores, torch version, and the name of the device."""
    return f"{machine()}, {device}"


def read(path: Path, key: str) -> tuple[list[StageRecord], str]:
    """The records of one machine, oldest first, and one line that says what was skipped, "" if nothing was.  Never raises."""
    found, passed = [], 0
    try:
        for line in _lines(path):
            try:
                record = StageRecord.from_json(json.loads(line))
            except (ValueError, RecursionError):
                passed += 1
                continue
            if record.machine == key:
                found.append(record)
    except OSError as error:
        return [], f"{path} can't be read: {error.strerror or error}"
    return found, f"{path}: {passed} line(s) passed over that are no measurement" if passed else ""


def add(path: Path, record: StageRecord) -> None:
    """Appends a record, and drops the oldest lines beyond MOST.  Processes take turns.  Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    line = json.dumps(record.as_json(), allow_nan=False).encode()
    with _turn(path.with_suffix(".lock")):
        lines = [*_lines(path), line][-MOST:]
        atomic_write(path, b"\n".join(lines) + b"\n", sync=False)


def _lines(path: Path) -> list[bytes]:
    """The lines at the end of the file; none if there is no file."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - MOST_BYTES))
            return [line for line in file.read(MOST_BYTES).split(b"\n") if line.strip()]
    except FileNotFoundError:
        return []


@contextlib.contextmanager
def _turn(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
