"""The tick in plain torch, against which every fast kernel is tested: any device and dtype, differentiable by autograd."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from lattice.kernels.kernel import RuleNumbers
from presets.topology import Offset, Topology


def neighbour(state: torch.Tensor, offset: Offset, periodic: bool) -> torch.Tensor:
    """The state of cell i + offset, for every cell i: [B, X, Y, C, Z], zero outside.  x and y wrap if `periodic`."""
    dx, dy, dz = offset
    if periodic:
        state = torch.roll(state, (-dx, -dy), (1, 2))
        dx = dy = 0
    _, x, y, _, z = state.shape
    if abs(dx) >= x or abs(dy) >= y or abs(dz) >= z:
        return torch.zeros_like(state)
    inside = state[:, max(dx, 0) : x + min(dx, 0), max(dy, 0) : y + min(dy, 0), :, max(dz, 0) : z + min(dz, 0)]
    return F.pad(inside, (max(-dz, 0), max(dz, 0), 0, 0, max(-dy, 0), max(dy, 0), max(-dx, 0), max(dx, 0)))


def message(state: torch.Tensor, weights: torch.Tensor, topology: Topology) -> torch.Tensor:
    """The message to every cell, sum_k w_k[i] * s[i + o_k]: state [B, X, Y, C, Z], weights [K, X, Y, Z] -> [B, X, Y, C, Z]."""
    periodic = topology.boundary == "periodic"
    total = torch.zeros_like(state)
    for weight, offset in zip(weights, topology.offsets, strict=True):
        total = total + weight[:, :, None] * neighbour(state, offset, periodic)
    return total


def gate_inputs(
    state: torch.Tensor, weights: torch.Tensor, topology: Topology, epsilon: float, extra: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """What a cell's gates see, in the dtype of the parameters: its state and its normalised message, both [B, X, Y, C, Z]."""
    s = state.to(weights.dtype)
    m = message(s, weights, topology)
    if extra is not None:
        m = m + extra
    return s, m * torch.rsqrt(m.square().mean(dim=3, keepdim=True) + epsilon)


def tick(
    state: torch.Tensor,
    weights: torch.Tensor,
    cells: torch.Tensor,
    topology: Topology,
    epsilon: float,
    extra: torch.Tensor | None = None,
    rule: RuleNumbers | None = None,
) -> torch.Tensor:
    """The next state after one tick of the gated cell (docs/lattice.md): [B, X, Y, C, Z], of the same dtype.

    weights [K, X, Y, Z]; cells [6, X, Y, C, Z] = a_z, b_z, c_z, a_h, b_h, c_h.  extra [B, X, Y, C, Z], the functional tier, is
    added to the message before it is normalised.  The shared `rule` adds to what the gates are made of.  Computes in the dtype
    of the parameters (fp32).
    """
    s, m = gate_inputs(state, weights, topology, epsilon, extra)
    a_z, b_z, c_z, a_h, b_h, c_h = cells
    u_z, u_h = a_z * s + b_z * m + c_z, a_h * s + b_h * m + c_h
    if rule is not None:
        met_z, met_h = rule(torch.cat([s, m], dim=3)).chunk(2, dim=3)
        u_z, u_h = u_z + met_z, u_h + met_h
    z, h = torch.sigmoid(u_z), torch.tanh(u_h)
    return (s + z * (h - s)).to(state.dtype)
