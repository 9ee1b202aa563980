"""Volumes: per-cell fields of a lattice, saved next to a run's log, from which a screen cuts slices.

    RUN/volumes/step-00000050.volume = one line of JSON, then zlib: the fields one after the other, a byte per cell, z fastest

If a lattice has more than MOST_ALONG cells along an axis, it is thinned by a stride, so that a volume takes at most a quarter
of a megabyte per field.  The folder keeps the newest MOST_FILES files within MOST_BYTES.  Reading needs neither torch nor
numpy, and trusts no file: if it is not a volume, the result is an Absent that says why.
"""

from __future__ import annotations

import contextlib
import os
import re
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from monitors.fields import ONLY_KEYS_CACHED
from monitors.gauges import Absent
from monitors.plain_files import atomic_write, give_to_owner, open_plain, remove_torn

MOST_ALONG = 64
"""Most cells that are kept along each axis."""

MOST_FIELDS = 8
MOST_FILES = 200
MOST_BYTES = 64_000_000
"""Most bytes of all volumes of a run together."""

MOST_FILE_BYTES = 4_000_000
"""Most bytes of one volume; larger files are not read."""

_NAME = re.compile(r"step-([0-9]{8,12})\.volume")
_Along = Annotated[int, Field(ge=1, le=MOST_ALONG)]
_Count = Annotated[int, Field(ge=0)]
_Cells = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class CellField:
    """A field with a byte per cell, [x, y, z], z fastest.  A measured value is `byte / 255 * scale`; labels have no scale."""

    name: str
    values: bytes = field(repr=False)
    scale: float | None = None


@dataclass(frozen=True)
class Volume:
    """Fields of a lattice of shape `lattice` after optimizer step `step`, thinned by `strides` to `shape`."""

    step: int
    stage: int
    shape: tuple[int, int, int]
    lattice: tuple[int, int, int]
    fields: tuple[CellField, ...]

    @property
    def strides(self) -> tuple[int, int, int]:
        return strides(self.lattice)

    def named(self, name: str) -> CellField | None:
        return next((one for one in self.fields if one.name == name), None)

    def cut(self, name: str, axis: int, index: int) -> list[bytes]:
        """The layer `index` of a field across `axis` (0 x, 1 y, 2 z), as rows of bytes.

        Across x: rows y, columns z.  Across y: rows x, columns z.  Across z: rows x, columns y.  Raises KeyError if there is no
        such field.
        """
        found = self.named(name)
        if found is None:
            raise KeyError(name)
        (x, y, z), values = self.shape, found.values
        if axis == 0:
            return [values[(index * y + row) * z :][:z] for row in range(y)]
        if axis == 1:
            return [values[(row * y + index) * z :][:z] for row in range(x)]
        return [values[row * y * z + index : (row + 1) * y * z : z] for row in range(x)]


class _FieldHeader(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    name: Annotated[str, Field(min_length=1, max_length=64)]
    scale: Annotated[FiniteFloat, Field(ge=0)] | None


class _Header(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True) | ONLY_KEYS_CACHED

    format: Literal[1] = 1
    step: _Count
    stage: _Count
    shape: tuple[_Along, _Along, _Along]
    lattice: tuple[_Cells, _Cells, _Cells]
    fields: Annotated[tuple[_FieldHeader, ...], Field(min_length=1, max_length=MOST_FIELDS)]


def strides(lattice: tuple[int, int, int]) -> tuple[int, int, int]:
    """The strides of a lattice's volume, which keeps every n-th cell along each axis."""
    x, y, z = (-(-cells // MOST_ALONG) for cells in lattice)
    return x, y, z


def encode(volume: Volume) -> bytes:
    """The content of a volume's file.  Raises ValueError if fields and shapes do not belong together."""
    header = _Header(
        step=volume.step,
        stage=volume.stage,
        shape=volume.shape,
        lattice=volume.lattice,
        fields=tuple(_FieldHeader(name=one.name, scale=one.scale) for one in volume.fields),
    )
    if trouble := _mismatch(header):
        raise ValueError(trouble)
    x, y, z = volume.shape
    for one in volume.fields:
        if len(one.values) != x * y * z:
            raise ValueError(f"field {one.name}: {len(one.values)} bytes for {x * y * z} cells")
    return header.model_dump_json().encode() + b"\n" + zlib.compress(b"".join(one.values for one in volume.fields), 1)


def decode(raw: bytes) -> Volume | Absent:
    """The volume in the content of a file, or an Absent that says what is wrong with it."""
    head, _, packed = raw.partition(b"\n")
    try:
        header = _Header.model_validate_json(head)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "header"
        return Absent(f"damaged or of another version: {where}: {first['msg']}")
    if trouble := _mismatch(header):
        return Absent(f"damaged: {trouble}")
    x, y, z = header.shape
    cells, expected = x * y * z, x * y * z * len(header.fields)
    unpacker = zlib.decompressobj()
    try:
        values = unpacker.decompress(packed, expected + 1)  # never more, whatever the file would unpack to
    except zlib.error as error:
        return Absent(f"damaged: {error}")
    if len(values) != expected or not unpacker.eof or unpacker.unused_data:
        return Absent(f"damaged: its fields are not the {expected} bytes that its header tells")
    fields = tuple(CellField(one.name, values[i * cells : (i + 1) * cells], one.scale) for i, one in enumerate(header.fields))
    return Volume(header.step, header.stage, header.shape, header.lattice, fields)


def _mismatch(header: _Header) -> str:
    """A contradiction within a header, or ""."""
    thinned = tuple(-(-cells // stride) for cells, stride in zip(header.lattice, strides(header.lattice), strict=True))
    if header.shape != thinned:
        return f"a lattice of {header.lattice} cells has volumes of {thinned}, not {header.shape}"
    if len({one.name for one in header.fields}) < len(header.fields):
        return "two fields have the same name"
    return ""


def read_volume(path: Path) -> Volume | Absent:
    """The volume in a file, or why there is none.  Only plain files of at most MOST_FILE_BYTES are read."""
    try:
        with open_plain(path) as stream:
            if (size := os.fstat(stream.fileno()).st_size) > MOST_FILE_BYTES:
                return Absent(f"{path.name} has {size} bytes, and a volume at most {MOST_FILE_BYTES}")
            raw = stream.read(MOST_FILE_BYTES)
    except OSError as error:
        return Absent(f"{path.name} can't be read: {error.strerror or error}")
    volume = decode(raw)
    return Absent(f"{path.name} is {volume.reason}") if isinstance(volume, Absent) else volume


class Volumes:
    """A run's folder of volumes, which is created with mode 0700 when the first volume is saved."""

    def __init__(self, path: Path, most_files: int = MOST_FILES, most_bytes: int = MOST_BYTES) -> None:
        self.path, self._most_files, self._most_bytes = path, most_files, most_bytes

    def save(self, volume: Volume) -> tuple[Path, int]:
        """Writes a volume as a whole, mode 0600, and removes the oldest ones that are too many; returns its path and bytes.

        It does not wait for the disk; a volume that was damaged by a loss of power is refused when it is read.  Raises
        OSError, and then leaves the existing volumes.
        """
        self.path.mkdir(mode=0o700, exist_ok=True)
        give_to_owner(self.path, self.path.parent)
        raw, path = encode(volume), self.path / f"step-{volume.step:08d}.volume"
        atomic_write(path, raw, sync=False)
        self._retire(volume.step)
        return path, len(raw)

    def take(self, other: Volumes, step: int) -> None:
        """Copies another run's volumes up to a step.  Raises OSError."""
        for at, path in other._found():
            if at <= step and isinstance(volume := read_volume(path), Volume):
                self.save(volume)

    def at(self, step: int) -> Path | None:
        """The newest volume of this step or an earlier one."""
        return next((path for found, path in reversed(self._found()) if found <= step), None)

    def oldest(self) -> int | None:
        """The step of the oldest volume."""
        return next((step for step, _ in self._found()), None)

    def rewind(self, step: int) -> None:
        """Removes volumes of later steps, which a resumed run saves again, and files that a killed process left half written.

        Raises OSError.
        """
        for found, path in self._found():
            if found > step:
                path.unlink(missing_ok=True)
        remove_torn(self.path)

    def _retire(self, newest: int) -> None:
        found = [(step, path) for step, path in self._found() if step != newest]
        sizes = {path: _size(path) for _, path in found}
        count, total = len(found) + 1, sum(sizes.values()) + _size(self.path / f"step-{newest:08d}.volume")
        for _, path in found:
            if count <= self._most_files and total <= self._most_bytes:
                return
            path.unlink(missing_ok=True)
            count, total = count - 1, total - sizes[path]

    def _found(self) -> list[tuple[int, Path]]:
        """(step, path) of each volume, oldest first; none if there is no folder or it can't be read."""
        try:
            names = os.listdir(self.path)
        except OSError:
            return []
        return sorted((int(match[1]), self.path / name) for name in names if (match := _NAME.fullmatch(name)))


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.lstat().st_size
    return 0
