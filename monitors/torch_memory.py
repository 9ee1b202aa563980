"""What torch's allocator holds on a CUDA device, in bytes.  The one module of this package that imports torch.

`allocated` is what live tensors take, `reserved` adds what the allocator keeps for the next ones: compare a memory plan with
the peak of the first, a budget with the second.  On the CPU torch keeps no count; see monitors.gauges for the process.
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
    """Bytes of the device that are taken, as the driver counts them: of all processes, contexts and kernels included."""
    if not _is_cuda(device):
        return _ABSENT
    free, total = torch.cuda.mem_get_info(device)
    return total - free


def tensors() -> Counter[str]:
    """Tensors alive that Python knows of, by dtype, shape and device; those set aside by gc.freeze are not counted."""
    found = [each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]
    return Counter(f"{str(each.dtype).removeprefix('torch.')} {list(each.shape)} {each.device}" for each in found)


def uuid(device: torch.device | str) -> str | Absent:
    """The GPU's UUID as CUDA tells it, of a MIG instance the instance's; NVML's is longer by a prefix such as `GPU-`."""
    return str(torch.cuda.get_device_properties(device).uuid) if _is_cuda(device) else _ABSENT


def reset_peak(device: torch.device | str) -> None:
    """Starts a new peak at what is allocated now; nothing to do where there is no CUDA device."""
    if _is_cuda(device):
        torch.cuda.reset_peak_memory_stats(device)


_ABSENT = Absent("no CUDA device")


def _is_cuda(device: torch.device | str) -> bool:
    device = torch.device(device)
    # Asked here because torch answers 0 bytes, and no error, for a CUDA device that is not there.
    return device.type == "cuda" and torch.cuda.device_count() > (device.index or 0)
