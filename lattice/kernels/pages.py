"""Large new tensors on 2-MB pages: filling a fresh gigabyte on 4-kB ones is a quarter of a million page faults.

Torch's own switch (THP_MEM_ALLOC_ENABLE) is not used: it also moves the allocations of a few megabytes, which malloc would
otherwise reuse without any fault, and made a training tick of 16x16x16 cells 1.5 times slower.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

import torch

PAGE = 2 * 1024 * 1024
LARGE = 32 * 1024 * 1024
"""Bytes from which malloc always maps fresh memory (glibc's largest threshold)."""

MADV_HUGEPAGE = 14


@functools.lru_cache
def _madvise() -> Callable | None:
    try:
        function = ctypes.CDLL(None).madvise
    except (OSError, AttributeError, TypeError):  # no such call on this system
        return None
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return function


def on_huge_pages(fresh: torch.Tensor) -> torch.Tensor:
    """`fresh`, contiguous and not yet written to, with its whole 2-MB pages asked for as such where it is large and on the
    CPU.  It's advice: a system that can't follow it changes nothing."""
    advise = _madvise() if fresh.device.type == "cpu" and fresh.nbytes >= LARGE else None
    if advise is not None:
        start = -(-fresh.data_ptr() // PAGE) * PAGE
        end = (fresh.data_ptr() + fresh.nbytes) // PAGE * PAGE
        advise(start, end - start, MADV_HUGEPAGE)
    return fresh
