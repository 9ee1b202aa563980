"""The memory of torch's allocator on a CUDA device, in bytes.  Only this module of the package imports torch.

`allocated` is the memory of live tensors; its peak compares to a memory plan.  `reserved` includes what the allocator keeps for
later tensors; it compares to a budget.  On the CPU, torch has no such counts; monitors.gauges measures the process.
"""

from __future__ import annotations

import gc
from collections import Counter

import torch

from monitors import gauges
from monitors.gauges import Absent


def allocated(device: torch.device | str) -> int | Absent:
    """Bytes of live tensors."""
    return torch.cuda.memory_allocated(device) if _is_cuda(device) else _ABSENT


def reserved(device: torch.device | str) -> int | Absent:
    """Bytes that the allocator holds, live tensors included."""
    return torch.cuda.memory_reserved(device) if _is_cuda(device) else _ABSENT


def peak(device: torch.device | str) -> int | Absent:
    """Most bytes of live tensors since the process began or since `reset_peak`."""
    return torch.cuda.max_memory_allocated(device) if _is_cuda(device) else _ABSENT


def most_held(device: torch.device) -> int:
    """Most bytes that training on this device has held so far, as a memory plan counts them: live tensors, or on the CPU all
    of the process."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else gauges.peak_rss_bytes()


def most_reserved(device: torch.device) -> int:
    """Most bytes that it has taken from others, as a budget counts them: what the allocator held, or on the CPU the process."""
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else gauges.peak_rss_bytes()


def driver_used(device: torch.device | str) -> int | Absent:
    """Bytes in use on the device, as the driver counts them: of all processes, with contexts and kernels."""
    if not _is_cuda(device):
        return _ABSENT
    free, total = torch.cuda.mem_get_info(device)
    return total - free


def tensors() -> Counter[str]:
    """Live tensors that Python knows, by dtype, shape and device.  Tensors that gc.freeze has set aside are not counted."""
    found = [each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]
    return Counter(f"{str(each.dtype).removeprefix('torch.')} {list(each.shape)} {each.device}" for each in found)


def uuid(device: torch.device | str) -> str | Absent:
    """The UUID of the GPU or of its MIG instance, as CUDA gives it.  NVML's has a prefix such as `GPU-`."""
    return str(torch.cuda.get_device_properties(device).uuid) if _is_cuda(device) else _ABSENT


def reset_peak(device: torch.device | str) -> None:
    """Starts a new peak at what is allocated now.  Does nothing if there is no CUDA device."""
    if _is_cuda(device):
        torch.cuda.reset_peak_memory_stats(device)


_ABSENT = Absent("no CUDA device")


def _is_cuda(device: torch.device | str) -> bool:
    device = torch.device(device)
    # Asked here because torch answers 0 bytes, and no error, for a CUDA device that is not there.
    return device.type == "cuda" and torch.cuda.device_count() > (device.index or 0)
