"""Readings of a process for the leak detector, and counts of its descriptors and threads by kind.

Taking a reading keeps no memory.  What can't be read on this system is left out: the C heap without glibc, descriptors without
/proc.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import re
import sys
import threading
import tracemalloc
from collections import Counter
from collections.abc import Callable

import psutil


def readings(pid: int | None = None) -> dict[str, float]:
    """The readings of monitors.leaks.METERS for this process, or for another one by its pid; then only `rss` and `uss`.

    The memory that tracemalloc needs is not counted.  A process that has ended has no readings.
    """
    found: dict[str, float] = {}
    try:
        process = psutil.Process(pid)
        memory = process.memory_full_info()
        found |= {"rss": memory.rss, "uss": memory.uss}
        if pid is None:
            found |= {"descriptors": process.num_fds(), "threads": process.num_threads()}
    except (psutil.Error, OSError, AttributeError):  # AttributeError: platforms without uss or descriptors
        pass
    if pid is None:
        found["python objects"] = sys.getallocatedblocks()
        if (heap := _heap()) is not None:
            found["heap"] = heap
        own = tracemalloc.get_tracemalloc_memory() if tracemalloc.is_tracing() else 0
        found |= {name: found[name] - own for name in ("rss", "uss", "heap") if name in found}
    return found


def descriptors() -> Counter[str]:
    """Open descriptors by kind: `socket`, `pipe`, or a path with `#` for each number."""
    kinds: Counter[str] = Counter()
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # the listing's own
                kinds[_without_numbers(re.sub(r":\[\d+\]$", "", os.readlink(f"/proc/self/fd/{name}")))] += 1
    return kinds


def threads() -> Counter[str]:
    """Python's threads by name, with `#` for each number.  Threads of C libraries have no name here."""
    return Counter(_without_numbers(thread.name) for thread in threading.enumerate())


def _without_numbers(name: str) -> str:
    return re.sub(r"\d+", "#", name)


class _Mallinfo2(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = tuple((name, ctypes.c_size_t) for name in _names.split())


@functools.cache
def _mallinfo2() -> Callable[[], _Mallinfo2] | None:
    try:
        call = ctypes.CDLL(None).mallinfo2  # glibc 2.33
    except (OSError, AttributeError):
        return None
    call.restype = _Mallinfo2
    return call


def _heap() -> int | None:
    """Bytes in use in the C heap: allocated and not freed, in all arenas and in mappings of their own."""
    call = _mallinfo2()
    if call is None:
        return None
    info = call()
    return info.uordblks + info.hblkhd
