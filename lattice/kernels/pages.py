"""Memory for large tensors on the CPU, on pages of 2 MB: kept when a tensor dies, and handed to the next one.

malloc maps every block above 32 MiB anew, and gives it back at once.  The system then has to find and zero each of its pages
when it is first touched.  At 13.5 million cells that took a quarter of a training step's processor time.  States, gradients
and plasticity's sums are needed alike in every step, so here they are mapped in the first step only.

Torch has a switch of its own for large pages (THP_MEM_ALLOC_ENABLE), which is not used.  It also changes allocations of a few
megabytes, which malloc reuses without any page fault, and made a training tick of 16x16x16 cells 1.5 times slower.
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
"""Smallest tensor in bytes whose memory is kept here.  From 32 MiB on, malloc always maps fresh memory; and once 64 MiB are
free at the end of its heap, it gives them back, which a few tensors of 20 MB reach.  Tensors of 6 MB it keeps in the
processor's cache better than this module does."""

SPARE = 1.125
"""How many times larger than needed a reused mapping may be; the rest of it is wasted meanwhile."""


class Mappings:
    """Blocks of anonymous memory in whole pages of 2 MB, each lent to one tensor (and its views) at a time.

    Idle blocks are given back to the system before new ones are mapped.  So lent and idle blocks together are hardly more than
    the most that was ever lent at once.
    """

    def __init__(self) -> None:
        self._idle: list[mmap.mmap] = []
        self._lock = threading.Lock()

    @property
    def idle_bytes(self) -> int:
        return sum(len(mapping) for mapping in list(self._idle))

    def take(self, count: int) -> torch.Tensor:
        """A tensor [count] of uint8 with undefined contents.  Raises MemoryError if the system has no more memory."""
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
        """Gives all idle blocks back to the system."""
        with self._lock:
            self._idle.clear()


MAPPINGS = Mappings()
"""The blocks of this process."""


def empty(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, device: torch.device | None = None) -> torch.Tensor:
    """Like torch.empty, but in reused memory if the tensor is large and on the CPU."""
    count = math.prod(shape) * dtype.itemsize
    if (device is not None and device.type != "cpu") or count < LARGE:
        return torch.empty(shape, dtype=dtype, device=device)
    return MAPPINGS.take(count).view(dtype).view(shape)


def zeros(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, device: torch.device | None = None) -> torch.Tensor:
    """Like torch.zeros, but in reused memory if the tensor is large and on the CPU."""
    return empty(shape, dtype, device).zero_()
