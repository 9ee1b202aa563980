"""What this process and this machine use: host memory, processor time, GPU memory as the driver counts it.

A reading that does not exist is an `Absent` with its reason: falsy, never a zero and never an exception, so that a screen can
say why it shows nothing.  All calls into the driver's library go through `query`.
"""

from __future__ import annotations

import functools
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import psutil

T = TypeVar("T")


@dataclass(frozen=True)
class Absent:
    """No reading, and why."""

    reason: str

    def __bool__(self) -> bool:
        return False


@dataclass(frozen=True)
class HostMemory:
    """Resident bytes of this process; bytes the machine could still give without swapping; bytes it has."""

    rss_bytes: int
    available_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class GpuMemory:
    """One GPU of the machine, by the driver's index (which CUDA_VISIBLE_DEVICES does not change); all processes together."""

    index: int
    name: str
    used_bytes: int
    free_bytes: int
    total_bytes: int


def host_memory() -> HostMemory | Absent:
    try:
        machine = psutil.virtual_memory()
        return HostMemory(psutil.Process().memory_info().rss, machine.available, machine.total)
    except (psutil.Error, OSError) as error:
        return Absent(f"host memory can't be read: {error}")


def peak_rss_bytes() -> int:
    """Most bytes this process ever had resident.  On Linux a program inherits the peak of the process that started it."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # KiB on Linux, bytes on macOS


def cpu_seconds() -> float:
    """Processor seconds of all threads of this process, user and system, without its children."""
    return time.process_time()


def gpu_memory() -> list[GpuMemory] | Absent:
    """Every GPU of the machine, or Absent with the first reason why one can't be read."""
    count = query(lambda nvml: nvml.nvmlDeviceGetCount())
    if isinstance(count, Absent):
        return count
    if count == 0:
        return Absent("no NVIDIA GPU")
    readings: list[GpuMemory] = []
    for index in range(count):
        reading = _gpu(index)
        if isinstance(reading, Absent):
            return Absent(f"GPU {index}: {reading.reason}")
        readings.append(reading)
    return readings


def query(read: Callable[[Any], T]) -> T | Absent:
    """Calls `read` with the NVML library, loaded and initialised; whatever goes wrong there becomes an Absent."""
    try:
        import pynvml
    except ImportError:
        return Absent("nvidia-ml-py is not installed")
    try:
        return read(_nvml())
    except (pynvml.NVMLError, AttributeError) as error:  # AttributeError: an nvidia-ml-py older than the symbol
        return Absent(str(error))


@functools.cache
def _nvml() -> Any:
    """The library, initialised once: doing that for every reading can wake the driver each time.  A failure is not kept."""
    import pynvml

    pynvml.nvmlInit()
    return pynvml


def _gpu(index: int) -> GpuMemory | Absent:
    handle = query(lambda nvml: nvml.nvmlDeviceGetHandleByIndex(index))
    if isinstance(handle, Absent):
        return handle
    name = query(lambda nvml: nvml.nvmlDeviceGetName(handle))
    # Version 2 leaves the driver's own reserve out of `used`; older drivers and libraries know version 1 only.
    memory = query(lambda nvml: nvml.nvmlDeviceGetMemoryInfo(handle, nvml.nvmlMemory_v2))
    if isinstance(memory, Absent):
        memory = query(lambda nvml: nvml.nvmlDeviceGetMemoryInfo(handle))
    if isinstance(memory, Absent):
        return memory
    return GpuMemory(index, name or f"GPU {index}", memory.used, memory.free, memory.total)
