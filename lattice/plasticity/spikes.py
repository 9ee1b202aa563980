"""Spikes, which say whether a cell fires in a tick, and the traces that they leave.

A cell fires if its state changes by more than its threshold (RMS over channels).  A trace decays exponentially, and every
spike adds 1 to it.  On the CPU, and for states in fp32 or bf16, `spikes` and `traces` go over their arguments once, in C
(`spikes.c`).  `plain_spikes` and `plain_traces` are plain torch and run anywhere.
"""

from __future__ import annotations

import ctypes

import torch

from lattice.kernels.native import pointer
from lattice.plasticity import rules
from lattice.plasticity.c_library import library
from lattice.plasticity.slabs import slabs


class _Shape(ctypes.Structure):
    """As in spikes.c."""

    _fields_ = [(name, ctypes.c_int64) for name in ("batch", "columns", "channels", "depth")]


@torch.no_grad()
def spikes(now: torch.Tensor, before: torch.Tensor | None, threshold: torch.Tensor) -> torch.Tensor:
    """Which cells fire, bool [B, X, Y, Z], from two states [B, X, Y, C, Z] and thresholds [X, Y, Z].

    Without `before`, the state itself counts as the change.  A change that is not a number is no spike.
    """
    states = [now] if before is None else [now, before]
    fits = all(state.dtype == now.dtype and state.is_contiguous() for state in states)
    defines = {torch.float32: (), torch.bfloat16: ("-DBF16",)}.get(now.dtype)
    kernel = library("spikes.c", *defines) if fits and defines is not None and now.device.type == "cpu" else None
    if kernel is None:
        return plain_spikes(now, before, threshold)
    batch, x, y, channels, z = now.shape
    fired = torch.empty(batch, x, y, z, dtype=torch.bool)
    shape = _Shape(batch, x * y, channels, z)
    addresses = (pointer(now, now.dtype), pointer(before, now.dtype), pointer(threshold), pointer(fired, torch.bool))
    kernel.spikes(ctypes.byref(shape), *addresses)
    return fired


@torch.no_grad()
def plain_spikes(now: torch.Tensor, before: torch.Tensor | None, threshold: torch.Tensor) -> torch.Tensor:
    """`spikes` in plain torch, on any device and in any precision."""
    batch, x, y, _, z = now.shape
    fired = torch.empty(batch, x, y, z, dtype=torch.bool, device=now.device)
    for rows in slabs(x, now[:, 0].numel()):
        change = now[:, rows].float() if before is None else now[:, rows].float() - before[:, rows].float()
        fired[:, rows] = change.square().mean(3) > threshold[rows].square()
    return fired


@torch.no_grad()
def traces(spiking: list[torch.Tensor], tau: float, end: torch.Tensor, fired: torch.Tensor, trace: torch.Tensor) -> None:
    """Writes the spikes of T ticks to `fired`, and the traces of earlier spikes to `trace`, both [B, X, Y, T, Z].

    `spiking` are the spikes of each tick, bool [B, X, Y, Z].  trace(t) = exp(-1 / tau) * end(t), and end(t + 1) = trace(t) +
    fired(t).  `end` [B, X, Y, Z] holds end(0) at first and end(T) afterwards, which the next ticks go on with.
    """
    kernel = library("spikes.c") if end.device.type == "cpu" else None
    if kernel is None:
        return plain_traces(spiking, tau, end, fired, trace)
    batch, x, y, z = end.shape
    shape, ticks = _Shape(batch, x * y, 1, z), ctypes.c_int64(len(spiking))
    addresses = (ctypes.c_void_p * len(spiking))(*(pointer(spikes, torch.bool).value for spikes in spiking))
    decay = ctypes.c_float(rules.decay(tau))
    kernel.traces(ctypes.byref(shape), ticks, addresses, decay, *map(pointer, (end, fired, trace)))


@torch.no_grad()
def plain_traces(spiking: list[torch.Tensor], tau: float, end: torch.Tensor, fired: torch.Tensor, trace: torch.Tensor) -> None:
    """`traces` in plain torch, on any device."""
    for rows in slabs(end.shape[1], end[:, 0].numel()):
        for tick, spikes in enumerate(spiking):
            fired[:, rows, :, tick] = spikes[:, rows]
            trace[:, rows, :, tick] = rules.decayed(end[:, rows], tau)
            torch.add(trace[:, rows, :, tick], fired[:, rows, :, tick], out=end[:, rows])
