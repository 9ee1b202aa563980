"""The choice of a tick kernel: what was asked for, or the fastest that runs here."""

from __future__ import annotations

import torch

from lattice.kernels.building import compiler
from lattice.kernels.compiled import CompiledKernel
from lattice.kernels.kernel import Kernel, KernelUnavailable
from lattice.kernels.native import PRECISIONS, NativeKernel
from lattice.kernels.triton_kernel import TritonKernel
from presets.topology import Topology

IMPLEMENTATIONS = ("auto", "native", "triton", "compiled", "reference")

ONE_RULE = "runs a rule that all cells share, not one for each cell (rule.scope = cell)"


def choose(
    implementation: str,
    topology: Topology,
    channels: int,
    device: torch.device,
    dtype: torch.dtype,
    hidden: int | None = None,
    per_cell: bool = False,
) -> tuple[Kernel | None, str]:
    """The kernel of an implementation (None for the reference), and one line that says what runs and why.

    `hidden` are the hidden numbers of the shared rule, 0 if it is linear, None if there is none.  `per_cell` says that each
    cell has a rule of its own.
    Raises KernelUnavailable if a named implementation can't run here; `auto` falls back to another one instead.
    """
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"implementation: {implementation!r} is not one of {', '.join(IMPLEMENTATIONS)}")
    native_fits = device.type == "cpu" and dtype in PRECISIONS
    if implementation == "native" and not native_fits:
        raise KernelUnavailable(f"the native kernel runs fp32 and bf16 on the CPU, not {str(dtype)[6:]} on {device.type}")
    if implementation == "triton" and device.type != "cuda":
        raise KernelUnavailable(f"the triton kernel runs on a CUDA GPU, not on {device.type}")
    if per_cell and implementation in ("triton", "compiled"):
        raise KernelUnavailable(f"the {implementation} kernel {ONE_RULE}")
    reasons = []
    if implementation == "native" or (implementation == "auto" and native_fits):
        try:
            kernel = NativeKernel(topology, channels, dtype, hidden, per_cell)
            command, remark = compiler()
            taken = f", built by {command}, because {remark}" if remark else ""
            return kernel, f"tick kernel: native (C, {PRECISIONS[dtype]}){taken}"
        except KernelUnavailable as error:
            if implementation == "native":
                raise
            reasons.append(str(error))
    if per_cell and implementation == "auto":
        reasons.append(f"each other kernel {ONE_RULE}")
        implementation = "reference"
    if implementation == "triton" or (implementation == "auto" and device.type == "cuda"):
        try:
            return TritonKernel(topology, channels, device, dtype, hidden), f"tick kernel: triton ({str(dtype)[6:]} states)"
        except KernelUnavailable as error:
            if implementation == "triton":
                raise
            reasons.append(str(error))
    if implementation in ("compiled", "auto"):
        try:
            slower = "slower and larger on a GPU" if device.type == "cuda" else "slower"
            because = f", {slower}, because {'; '.join(reasons)}" if reasons else ""
            return CompiledKernel(topology, channels, device, dtype, hidden), f"tick kernel: compiled (torch.compile){because}"
        except KernelUnavailable as error:
            if implementation == "compiled":
                raise
            reasons.append(str(error))
    because = f" because {'; '.join(reasons)}" if reasons else ""
    return None, f"tick kernel: reference (plain torch, slower){because}"
