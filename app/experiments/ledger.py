"""The results file has a JSON line for every finished run, so that an interrupted experiment continues where it stopped."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from app.exit_codes import ExitCode, Stop
from app.new_files import check_file

OPENING = b'{"key": '
"""How every line begins."""


class Finished(Protocol):
    """A dataclass with the numbers of a finished run."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def arm(self) -> str: ...

    @property
    def seed(self) -> int: ...


Run = TypeVar("Run", bound=Finished)


class Ledger(Generic[Run]):
    """Finished runs by (arm, seed, key).  The key is a hash of everything that decides the numbers of a run."""

    def __init__(self, path: Path | None, of_row: Callable[[Mapping[str, Any]], Run]) -> None:
        """Without a path, results are kept in memory only.  `of_row` makes a run of a row of the file.

        Raises Stop if the file has other lines than results of this kind, or can't be written.
        """
        self._path, self._of_row = path, of_row
        self._found: dict[tuple[str, int, str], Run] = {}
        if path is not None:
            self._read(path)

    def _read(self, path: Path) -> None:
        check_file("--out", path)
        try:
            with open(path, "a+b") as file:  # also finds out now whether results can be written
                file.seek(0)
                *lines, torn = file.read().split(b"\n")
                for number, line in enumerate(lines, 1):
                    self._remember(path, number, line)
                if not OPENING.startswith(torn[: len(OPENING)]):
                    raise _foreign(path, len(lines) + 1)
                # An interrupted write leaves half a line: its run is done again.
                file.truncate(sum(len(line) + 1 for line in lines))
        except OSError as error:
            raise Stop(ExitCode.FAILED, f"--out {path}: {error.strerror or error}") from error

    def _remember(self, path: Path, number: int, line: bytes) -> None:
        try:
            row = json.loads(line)
            outcome = self._of_row(row)
            self._found[outcome.arm, outcome.seed, row["key"]] = outcome
        except (ValueError, TypeError, KeyError, AttributeError):
            raise _foreign(path, number) from None

    def find(self, arm: str, seed: int, key: str) -> Run | None:
        return self._found.get((arm, seed, key))

    def add(self, key: str, outcome: Run, about: Mapping[str, object]) -> None:
        """Adds a run, also to the file.  `about` (experiment, settings, ...) is for readers of the file.

        Raises Stop if the file can't be written.
        """
        self._found[outcome.arm, outcome.seed, key] = outcome
        if self._path is None:
            return
        line = json.dumps({"key": key, **about, **dataclasses.asdict(outcome)}, allow_nan=False) + "\n"
        try:
            with open(self._path, "ab") as file:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise Stop(ExitCode.FAILED, f"--out {self._path}: {error.strerror or error}") from error


def _foreign(path: Path, number: int) -> Stop:
    told = f"line {number} is no result of such an experiment; name a new file or one of its results"
    return Stop(ExitCode.USAGE, f"--out {path}: {told}")
