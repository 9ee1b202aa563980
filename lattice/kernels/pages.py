"""Large tensors on the CPU whose memory is used again: mapped on 2-MB pages, kept when a tensor dies, handed out to the next.

malloc maps what is larger than 32 MiB anew every time and gives it back at once.  Each page of it then has to be found and
zeroed by the system at the first touch: at 13.5 million cells, a quarter of a training step's processor time.  States,
gradients and plasticity's sums come and go alike in every step, so here they are mapped in the first one only.

Torch's own switch (THP_MEM_ALLOC_ENABLE) is not used: it also moves the allocations of a few megabytes, which malloc would
otherwise reuse without any fault, and made a training tick of 16x16x16 cells 1.5 times slower.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import mmap
import threading
import weakref

import torch

PAGE = 2 * 1024 * 1024
LARGE = 16 * 1024 * 1024
"""Bytes from which memory is kept here.  malloc always maps fresh memory from 32 MiB on, and gives back what is free at the
end of its heap from 64 MiB on, which a few tensors of 20 MB are; those of 6 MB it keeps in the cache better than this does."""

SPARE = 1.125
"""How many times larger than asked for a mapping may be that is used again; the rest of it is of no use meanwhile."""


class Mappings:
    """Anonymous memory in whole pages of 2 MB, each lent to one tensor (and its views) at a time.

    What is idle is given back to the system before more is mapped, so that lent and idle together are hardly more than what
    was once lent at the same time.
    """

    def __init__(self) -> None:
        self._idle: list[mmap.mmap] = []
        self._lock = threading.Lock()

    @property
    def idle_bytes(self) -> int:
        return sum(len(mapping) for mapping in list(self._idle))

    def take(self, count: int) -> torch.Tensor:
        """uint8 [count], contents undefined.  Raises MemoryError where the system gives no more."""
        with self._lock:
            mapping = self._found(count) or self._mapped(count)
        lent = (ctypes.c_char * len(mapping)).from_buffer(mapping)
        # The tensor's storage holds `lent`, and nothing else does: it dies with the last view.  Appending takes no lock,
        # for that can happen at any time.
        weakref.finalize(lent, self._idle.append, mapping).atexit = False
        return torch.frombuffer(lent, dtype=torch.uint8, count=count)

    def _found(self, count: int) -> mmap.mmap | None:
        fitting = [mapping for mapping in self._idle if count <= len(mapping) <= SPARE * count]
        if not fitting:
            return None
        mapping = min(reversed(fitting), key=len)  # the latest of the smallest: a cache may still hold it
        self._idle.remove(mapping)
        return mapping

    def _mapped(self, count: int) -> mmap.mmap:
        size = -(-count // PAGE) * PAGE
        given_back = 0
        while self._idle and given_back < size:
            given_back += len(self._idle.pop(0))  # unmapped with its last reference
        try:
            mapping = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise MemoryError(f"the system has no {size / 1e9:.1f} GB of memory left: {error.strerror}") from error
        with contextlib.suppress(AttributeError, OSError):  # advice: a system that can't follow it changes nothing
            mapping.madvise(mmap.MADV_HUGEPAGE)
        return mapping

    def release(self) -> None:
        """Gives everything idle back to the system."""
        with self._lock:
            self._idle.clear()


MAPPINGS = Mappings()
"""The process's own."""


def empty(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, device: torch.device | None = None) -> torch.Tensor:
    """As torch.empty, of reused memory where it is large and on the CPU."""
    count = math.prod(shape) * dtype.itemsize
    if (device is not None and device.type != "cpu") or count < LARGE:
        return torch.empty(shape, dtype=dtype, device=device)
    return MAPPINGS.take(count).view(dtype).view(shape)


def zeros(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, device: torch.device | None = None) -> torch.Tensor:
    """As torch.zeros, of reused memory where it is large and on the CPU."""
    return empty(shape, dtype, device).zero_()
