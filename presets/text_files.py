"""Which files are text to learn from, by their names: the one answer for reading, for the memory plan and for the screens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

Format = Literal["plain", "json", "tsv", "csv", "parquet"]

FORMATS: dict[str, Format] = {
    ".txt": "plain", ".jsonl": "json", ".tsv": "tsv", ".csv": "csv", ".ndjson": "json", ".json": "json", ".parquet": "parquet",
}  # fmt: skip

PACKED = (".gz", ".bz2", ".xz")
"""Endings of compressed files, which follow the ending of what is in them."""

ENDINGS = f"{', '.join(FORMATS)} (also packed: {', '.join(PACKED)})"


def is_packed(path: Path) -> bool:
    return path.suffix.lower() in PACKED


def ending(path: Path) -> str:
    """The ending that tells the format, in lower case and without that of a packer: ".txt" of `A.TXT.gz`; "" if none."""
    return Path(path.stem).suffix.lower() if is_packed(path) else path.suffix.lower()


def is_text(path: Path) -> bool:
    """Whether a file of this name is read from a folder.  macOS writes its own data of a.txt into `._a.txt`."""
    return ending(path) in FORMATS and not path.name.startswith("._") and "__MACOSX" not in path.parts


def files_below(folder: Path) -> Iterator[Path]:
    """Every file below a folder, in no order.  Files that are hidden and no text are left out.  Raises OSError."""
    for path in folder.rglob("*"):
        if path.is_file() and (ending(path) in FORMATS or not path.name.startswith(".")):
            yield path
