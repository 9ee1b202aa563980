"""The fast tick on the CPU: `tick.c`, compiled at first use by the machine's own C compiler and called through ctypes.

Against `torch.compile` it trades generality (fp32 only) for a batch inside the kernel: the weights of a 16-cell tile are
loaded once for all samples and channels.  It compiles in about a second, once per machine and channel count.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from importlib import resources
from pathlib import Path

import torch

from presets.topology import Topology

MAX_OFFSETS = 128
"""Connections a cell may have; as in tick.c, whose buffers are this long."""

SLACK = 16
"""Zeroed floats before and after each state buffer, so that a 16-lane load beside a row stays inside the allocation."""

FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fopenmp", "-shared", "-fPIC", "-Wno-psabi")


class KernelUnavailable(RuntimeError):
    """The native kernel can't be built here; the message says why in one sentence."""


class _Geometry(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batch", "size_x", "size_y", "size_z", "offsets")),
        *((name, ctypes.c_void_p) for name in ("dx", "dy", "dz")),
        ("periodic", ctypes.c_int32),
    ]


def cache_dir() -> Path:
    """Where compiled kernels are kept: `$XDG_CACHE_HOME/lattice-tui/kernels`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "lattice-tui" / "kernels"


@functools.lru_cache
def library(channels: int) -> ctypes.CDLL:
    """The compiled kernel for this channel count.  Raises KernelUnavailable where it can't be built or loaded."""
    source = resources.files("lattice.kernels").joinpath("tick.c").read_text()
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise KernelUnavailable("no C compiler found (set CC or install gcc)")
    arguments = [*compiler.split(), *FLAGS, f"-DCHANNELS={channels}"]
    # -march=native makes the binary fit one processor only: a home folder shared by several must not mix them up.
    key = hashlib.sha256("\0".join([source, *arguments, _processor()]).encode()).hexdigest()[:16]
    path = cache_dir() / f"tick-{key}.so"
    try:
        try:
            return ctypes.CDLL(str(path))
        except OSError:  # not built yet, or spoilt by a power cut
            _compile(source, arguments, path)
            return ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError) as error:
        detail = getattr(error, "stderr", None) or str(error)
        raise KernelUnavailable(f"{compiler} could not build the tick kernel: {detail.strip().splitlines()[-1]}") from error


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    except OSError:
        return platform.processor() + platform.node()


def _compile(source: str, arguments: list[str], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        code, binary = Path(folder, "tick.c"), Path(folder, "tick.so")
        code.write_text(source)
        subprocess.run([*arguments, str(code), "-o", str(binary)], check=True, capture_output=True, text=True, timeout=120)
        ctypes.CDLL(str(binary))  # what can't be loaded must not be kept
        os.replace(binary, path)  # atomic: another process may be building the same one


def state_buffer(shape: tuple[int, ...], zero: bool = False) -> torch.Tensor:
    """An fp32 tensor [B, X, Y, C, Z] with SLACK zeroed floats on both sides of its storage; contents zero or undefined."""
    count = 1
    for size in shape:
        count *= size
    storage = torch.zeros(count + 2 * SLACK) if zero else torch.empty(count + 2 * SLACK)
    storage[:SLACK] = 0
    storage[-SLACK:] = 0
    return storage[SLACK:-SLACK].view(shape)


class NativeKernel:
    """Runs ticks of one topology.  Tensors are fp32, contiguous, on the CPU; states come from `state_buffer`."""

    name = "native"

    def __init__(self, topology: Topology, channels: int) -> None:
        if len(topology.offsets) > MAX_OFFSETS:
            raise KernelUnavailable(f"the native kernel takes {MAX_OFFSETS} offsets at most, not {len(topology.offsets)}")
        self._library = library(channels)
        self._topology = topology
        self._steps = [(ctypes.c_int32 * len(topology.offsets))(*axis) for axis in zip(*topology.offsets, strict=True)]

    empty_state = staticmethod(state_buffer)

    def forward(
        self,
        state: torch.Tensor,
        weights: torch.Tensor,
        cells: torch.Tensor,
        extra: torch.Tensor | None,
        drive: torch.Tensor | None,
        epsilon: float,
    ) -> torch.Tensor:
        """The next state [B, X, Y, C, Z]; `drive` [B, X, Y, C], if given, is added to its input face."""
        out = state_buffer(state.shape)
        self._call("tick_forward", state, state, weights, cells, extra, drive, ctypes.c_float(epsilon), out)
        return out

    def backward(
        self,
        grad_out: torch.Tensor,
        state: torch.Tensor,
        weights: torch.Tensor,
        cells: torch.Tensor,
        extra: torch.Tensor | None,
        epsilon: float,
        grad_cells: torch.Tensor,
        grad_weights: torch.Tensor | None,
        grad_drive: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(grad_state, grad_message), both [B, X, Y, C, Z]; adds to the three parameter gradients in place."""
        grad_message, grad_state = state_buffer(state.shape), state_buffer(state.shape)
        self._call(
            "tick_backward_cells", state, state, weights, cells, extra, grad_out, ctypes.c_float(epsilon),
            grad_message, grad_state, grad_cells, grad_weights,
        )  # fmt: skip
        self._call("tick_backward_state", state, weights, grad_message, grad_state, grad_drive)
        return grad_state, grad_message

    def _call(self, function: str, state: torch.Tensor, *arguments: torch.Tensor | ctypes.c_float | None) -> None:
        batch, x, y, _, z = state.shape
        offsets = len(self._topology.offsets)
        geometry = _Geometry(
            batch, x, y, z, offsets, *(ctypes.addressof(s) for s in self._steps), self._topology.boundary == "periodic"
        )
        pointers = []
        for argument in arguments:
            if isinstance(argument, torch.Tensor):
                assert argument.is_contiguous() and argument.dtype == torch.float32, (function, argument.shape)
                pointers.append(ctypes.c_void_p(argument.data_ptr()))
            else:
                pointers.append(argument)
        getattr(self._library, function)(ctypes.byref(geometry), *pointers)
