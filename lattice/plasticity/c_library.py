"""The C code of plasticity: how it is compiled, and how it is told which connections there are."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources

import torch

from lattice.kernels.building import compiled_or_none
from lattice.kernels.native import pointer
from lattice.kernels.sparse import TILE, Pattern
from presets.topology import Topology


class ConnectionGeometry(ctypes.Structure):
    """As in connections.h.  It points into the pattern, and must not outlive it."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batch", "size_x", "size_y", "size_z", "kept")),
        *((name, ctypes.c_void_p) for name in ("dx", "dy", "dz", "index")),
        ("periodic", ctypes.c_int32),
    ]

    def __init__(self, topology: Topology, kept: int, pattern: Pattern | None, batch: int = 1) -> None:
        self._steps = [(ctypes.c_int32 * len(topology.offsets))(*axis) for axis in zip(*topology.offsets, strict=True)]
        index = pointer(pattern.index, torch.uint8) if pattern is not None else None
        super().__init__(
            batch, *topology.shape, kept, *map(ctypes.addressof, self._steps), index, topology.boundary == "periodic"
        )


_switched_off = False


@contextmanager
def plain() -> Iterator[None]:
    """Within this context plasticity runs in plain torch and not in C, to compare the two."""
    global _switched_off
    before, _switched_off = _switched_off, True
    try:
        yield
    finally:
        _switched_off = before


def library(main: str, *defines: str) -> ctypes.CDLL | None:
    """The library that `main`, a file of this folder, compiles to with these defines; None if it can't be built."""
    return None if _switched_off else _built(main, *defines)


@functools.cache
def _built(main: str, *defines: str) -> ctypes.CDLL | None:
    here = resources.files("lattice.plasticity")
    sources = {"vectors.h": resources.files("lattice.kernels").joinpath("vectors.h").read_text(encoding="utf-8")}
    sources |= {name: here.joinpath(name).read_text(encoding="utf-8") for name in ("connections.h", main)}
    return compiled_or_none(main, sources, f"-DTILE={TILE}", *defines, what="plasticity")
