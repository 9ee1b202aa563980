"""What stages of runs really took on this machine, one line of JSON each, so that later plans can learn from it.

The file is the user's: `$XDG_STATE_HOME/lattice-tui/measured.jsonl`, beside the runs.  A line that can't be understood (torn by
a full disk, written by a newer version, edited) is passed over; at most MOST lines are kept, the newest.
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
from monitors.runs import atomic_write, runs_dir

MOST = 500
"""Lines kept; about 600 bytes each."""

MOST_BYTES = 4_000_000
"""Of the file that are read."""


@dataclass(frozen=True)
class Measured:
    """One stage of one process.

    `features` are the plan's (presets.plan.StagePlan.features), `peak_bytes` the most memory held: of the process on the CPU,
    of live tensors on a GPU; `step_s` the median step in seconds of wall-clock time, `steps` how many it is the median of.
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
    def from_json(cls, fields: object) -> Measured:
        """Raises ValueError where it is no such record."""
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


def place() -> Path:
    """Where the measurements of this user lie."""
    return runs_dir(None).parent / "measured.jsonl"


def machine_key(device: str) -> str:
    """What a measurement holds for: processor, cores and torch version, and the GPU's name where it is one."""
    return f"{machine()}, {device}"


def read(path: Path, key: str) -> tuple[list[Measured], str]:
    """The records of one machine, oldest first, and in one line what was passed over, "" if nothing was.  Never raises."""
    found, passed = [], 0
    try:
        for line in _lines(path):
            try:
                record = Measured.from_json(json.loads(line))
            except (ValueError, RecursionError):
                passed += 1
                continue
            if record.machine == key:
                found.append(record)
    except OSError as error:
        return [], f"{path} can't be read: {error.strerror or error}"
    return found, f"{path}: {passed} line(s) passed over that are no measurement" if passed else ""


def add(path: Path, record: Measured) -> None:
    """Appends, and drops the oldest lines beyond MOST.  Processes take turns.  Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    line = json.dumps(record.as_json(), allow_nan=False).encode()
    with _turn(path.with_suffix(".lock")):
        lines = [*_lines(path), line][-MOST:]
        atomic_write(path, b"\n".join(lines) + b"\n", sync=False)


def _lines(path: Path) -> list[bytes]:
    """Of the file's end; none where there is no file."""
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
