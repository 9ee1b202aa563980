"""Gauges of this process and this machine: host memory, processor time, and what the driver says of the GPUs.

If there is no reading, the result is an `Absent` with the reason.  It is falsy, and never a zero or an exception, so that a
screen can say why it shows nothing.  All calls into the driver's library go through `query`.
"""

from __future__ import annotations

import functools
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import psutil

from presets.allowance import memory_limit

T = TypeVar("T")


@dataclass(frozen=True)
class Absent:
    """There is no reading, for this reason."""

    reason: str

    def __bool__(self) -> Literal[False]:
        return False


@dataclass(frozen=True)
class HostMemory:
    """Resident bytes of this process, bytes that the machine has left without swapping, and bytes that it has in all.

    If a container or job may hold less than the machine has, the latter two are those of the container.
    """

    rss_bytes: int
    available_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class GpuMemory:
    """The memory of a GPU as the driver counts it, for all processes together."""

    used_bytes: int
    free_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class Gpu:
    """One GPU of the machine, by the driver's index, which CUDA_VISIBLE_DEVICES does not change.

    `busy` is the share (0..1) of the last moments in which a kernel ran.  Power is in watts, temperature in degrees Celsius.
    Each reading is taken by itself: one that fails says why, and the others are still there.
    """

    index: int
    name: str
    uuid: str | Absent
    memory: GpuMemory | Absent
    busy: float | Absent
    power_w: float | Absent
    power_limit_w: float | Absent
    temperature_c: float | Absent


def host_memory() -> HostMemory | Absent:
    try:
        machine, limit = psutil.virtual_memory(), memory_limit()
        available, total = machine.available, machine.total
        if limit is not None:
            available, total = min(available, limit.free_bytes), min(total, limit.limit_bytes)
        return HostMemory(psutil.Process().memory_info().rss, available, total)
    except (psutil.Error, OSError) as error:
        return Absent(f"host memory can't be read: {error}")


def peak_rss_bytes() -> int:
    """The most bytes that this process ever had resident."""
    try:
        # Of this program alone; what getrusage tells begins with the peak of the process that started it.
        with open("/proc/self/status", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))
    except (OSError, StopIteration, ValueError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024  # KiB elsewhere


def cpu_seconds() -> float:
    """Processor seconds (user and system) of all threads of this process, without its child processes."""
    return time.process_time()


def gpus() -> list[Gpu] | Absent:
    """All GPUs of the machine, or why they can't be listed."""
    count = query(lambda nvml: nvml.nvmlDeviceGetCount())
    if isinstance(count, Absent):
        return count
    if count == 0:
        return Absent("no NVIDIA GPU")
    return [_gpu(index) for index in range(count)]


def same_gpu(one: str, other: str) -> bool:
    """Whether two UUIDs name the same GPU.  NVML writes `GPU-` (or `MIG-` for an instance) in front, CUDA does not."""
    bare = [uuid.lower().removeprefix("gpu-").removeprefix("mig-") for uuid in (one, other)]
    return bare[0] == bare[1] != ""


def query(read: Callable[[Any], T]) -> T | Absent:
    """Calls `read` with the NVML library, loaded and initialised.  Every error there becomes an Absent."""
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
    """The library, initialised once, since initialising it can wake the driver each time.  A failure is not cached."""
    import pynvml

    pynvml.nvmlInit()
    return pynvml


def _gpu(index: int) -> Gpu:
    handle = query(lambda nvml: nvml.nvmlDeviceGetHandleByIndex(index))
    if isinstance(handle, Absent):
        return Gpu(index, f"GPU {index}", handle, handle, handle, handle, handle, handle)
    is_split = query(lambda nvml: nvml.nvmlDeviceGetMigMode(handle)[0] == 1)

    def read(one: Callable[[Any], T]) -> T | Absent:
        reading = query(one)
        if isinstance(reading, Absent) and is_split:  # then the driver tells most of the instances only
            return Absent(f"{reading.reason}; it is split into MIG instances")
        return reading

    # Version 2 leaves the driver's own reserve out of `used`; older drivers and libraries know version 1 only.
    memory = read(lambda nvml: nvml.nvmlDeviceGetMemoryInfo(handle, nvml.nvmlMemory_v2))
    if isinstance(memory, Absent):
        memory = read(lambda nvml: nvml.nvmlDeviceGetMemoryInfo(handle))
    return Gpu(
        index=index,
        name=query(lambda nvml: nvml.nvmlDeviceGetName(handle)) or f"GPU {index}",
        uuid=read(lambda nvml: nvml.nvmlDeviceGetUUID(handle)),
        memory=memory if isinstance(memory, Absent) else GpuMemory(memory.used, memory.free, memory.total),
        busy=read(lambda nvml: nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100),
        power_w=read(lambda nvml: nvml.nvmlDeviceGetPowerUsage(handle) / 1000),
        power_limit_w=read(lambda nvml: nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000),
        temperature_c=read(lambda nvml: float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))),
    )
