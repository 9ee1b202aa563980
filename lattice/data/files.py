"""Opens files of text, compressed or not, and says of a file that is no UTF-8 text what it is instead."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import json
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from lattice.data.pair import DataError
from presets.text_files import FORMATS, Format, ending, is_packed

GLANCE = 4096
"""Bytes at the beginning of a file that show what it is."""

_OPENERS: dict[bytes, Callable[[Path], object]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
_ARCHIVES = {b"PK\x03\x04": "a zip archive", b"\x28\xb5\x2f\xfd": "compressed by zstd", b"7z\xbc\xaf": "a 7z archive"}


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Opens a file for reading, and unpacks what gzip, bzip2 or xz packed.

    Raises DataError if it can't be read, here and within the `with` block.
    """
    if not path.is_file():
        raise DataError(f"{path}: not a regular file")
    try:
        with path.open("rb") as file:
            start = file.read(8)
        opener = next((opener for magic, opener in _OPENERS.items() if start.startswith(magic)), None)
        for magic, what in _ARCHIVES.items():
            if start.startswith(magic):
                raise DataError(f"{path}: is {what}, which is not read; unpack it, or pack the text with gzip")
        if opener is None and is_packed(path) and start:
            raise DataError(f"{path}: is not packed as its ending says; take {path.suffix} off its name if it is text")
        with cast(BinaryIO, opener(path)) if opener else path.open("rb") as stream:
            yield stream
    except (gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{path}: is damaged or cut off ({error}); it can't be unpacked") from error
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror or error}") from error


def format_of(path: Path) -> Format:
    """The format of a file, by its ending; by its content if the ending says nothing.

    Raises DataError if the file can't be read, if it is no UTF-8 text, or if it is JSON by the name of plain text.
    """
    named = FORMATS.get(ending(path))
    if named == "parquet":
        return named
    with opened(path) as file:
        start = file.read(GLANCE)
        first = (start.lstrip(b"\xef\xbb\xbf \t\r\n") + file.readline()).partition(b"\n")[0]
    if wrong := _what_else(start):
        raise DataError(f"{path}: line 1 {wrong}")
    if named is not None and named != "plain":
        return named
    if not _is_pair(first):
        return "plain"
    if named is None:
        return "json"
    raise DataError(
        f"{path}: line 1 is a JSON object with a source, and the file's name says plain text; name it {path.stem}.jsonl to "
        "have its pairs read"
    )


def _what_else(start: bytes) -> str:
    """What a file that starts so is instead of UTF-8 text; empty if it may be that."""
    half = max(1, len(start) // 2)
    zeros = start[::2].count(0) / half, start[1::2].count(0) / half
    if start.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return "is not UTF-8 but UTF-32; convert the file (iconv -f UTF-32 -t UTF-8 FILE > NEW)"
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "is not UTF-8 but UTF-16; convert the file (iconv -f UTF-16 -t UTF-8 FILE > NEW)"
    if start.startswith((b"\0\5\x16\7", b"\0\5\x16\0")):
        return "is not text: this is what macOS keeps beside a file; take the file of this name without ._"
    if start.startswith(b"%PDF-"):
        return "is the beginning of a PDF, not text; save its text (pdftotext FILE NEW)"
    order = "BE" if zeros[0] > zeros[1] else "LE"
    text = start[: len(start) // 2 * 2].decode(f"utf-16-{order}", "replace")
    if max(zeros) > 0.3 and min(zeros) < 0.1 and all(character.isprintable() or character.isspace() for character in text):
        return f"is not UTF-8 but looks like UTF-16{order}; convert the file (iconv -f UTF-16{order} -t UTF-8 FILE > NEW)"
    return ""


def _is_pair(line: bytes) -> bool:
    if not line.startswith(b"{"):
        return False
    try:
        return "source" in json.loads(line)
    except (ValueError, TypeError, RecursionError):
        return False


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a file with their numbers and line ends, without a byte order mark.

    Raises DataError if one holds a zero byte, is not UTF-8, or if no line ends but by CR.
    """
    number = 0
    try:
        with opened(path) as file:
            for number, raw in enumerate(file, 1):
                if b"\0" in raw:
                    raise DataError(f"{path}: line {number} holds a zero byte; this is not a text file")
                if number == 1 and not raw.endswith(b"\n") and b"\r" in raw.strip(b"\r"):
                    raise DataError(
                        f"{path}: line 1 and all others end by CR alone, as lines of old Macs do; convert the file "
                        "(tr '\\r' '\\n' < FILE > NEW)"
                    )
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: line {number} is not UTF-8 ({error.reason}); convert the file to UTF-8") from error
