"""The fast tick through torch.compile: any device, fp32, bf16 or fp16 states, with a hand-written backward.

One forward and one backward are compiled per shape.  Both compute in fp32 and round once at the end.  Local neighbours are
slices of one padded buffer, distant ones are clipped slices padded with zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from lattice.kernels.kernel import Gradients, KernelUnavailable, Parameters, RuleNumbers, Transposed, affine
from lattice.kernels.reference import neighbour
from presets.rule_size import rule_size
from presets.topology import LOCAL_OFFSETS, Offset, Topology

_MAX_FUSED_READS = 64
"""Most reads that Inductor fuses into one kernel.  It cuts a longer sum into several kernels with full-size intermediate
results; the message has 26 reads and more."""


def _local(values: torch.Tensor, offsets: list[Offset], periodic: bool) -> list[torch.Tensor]:
    """For each local offset the values [B, X, Y, C, Z] at i + offset, as slices of one padded copy."""
    _, x, y, _, z = values.shape
    if periodic:
        values = torch.cat([values[:, -1:], values, values[:, :1]], 1)
        values = torch.cat([values[:, :, -1:], values, values[:, :, :1]], 2)
        padded = F.pad(values, (1, 1))
    else:
        padded = F.pad(values, (1, 1, 0, 0, 1, 1, 1, 1))
    return [padded[:, 1 + dx : 1 + dx + x, 1 + dy : 1 + dy + y, :, 1 + dz : 1 + dz + z] for dx, dy, dz in offsets]


def _read(values: torch.Tensor, topology: Topology, sign: int) -> list[torch.Tensor]:
    """For each offset o_k the values at i + sign * o_k, in the topology's order."""
    periodic = topology.boundary == "periodic"
    flipped = [(sign * dx, sign * dy, sign * dz) for dx, dy, dz in topology.offsets]
    near, far = flipped[: len(LOCAL_OFFSETS)], flipped[len(LOCAL_OFFSETS) :]
    return _local(values, near, periodic) + [neighbour(values, offset, periodic) for offset in far]


def _message(s: torch.Tensor, weights: torch.Tensor, extra: torch.Tensor | None, topology: Topology) -> torch.Tensor:
    total = extra if extra is not None else torch.zeros_like(s)
    for weight, read in zip(weights, _read(s, topology, +1), strict=True):
        total = total + weight[:, :, None] * read
    return total


def _gates(
    s: torch.Tensor, m: torch.Tensor, cells: torch.Tensor, rule: torch.Tensor | None, hidden: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(z, h) of docs/lattice.md, both [B, X, Y, C, Z].  `rule` are the numbers of the shared rule, if there is one."""
    u_z, u_h = cells[0] * s + cells[1] * m + cells[2], cells[3] * s + cells[4] * m + cells[5]
    if rule is not None:
        met_z, met_h = RuleNumbers(rule, hidden)(torch.cat([s, m], 3)).chunk(2, 3)
        u_z, u_h = u_z + met_z, u_h + met_h
    return torch.sigmoid(u_z), torch.tanh(u_h)


def _rule_backward(
    grad: torch.Tensor, inputs: torch.Tensor, rule: torch.Tensor, hidden: int, learns: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(gradient of the inputs [B, X, Y, 2C, Z], that of the rule's numbers [N] if it learns) from that of R(inputs)."""
    layers, parts = RuleNumbers(rule, hidden).layers(inputs.shape[3]), []
    if hidden:
        between = torch.relu(affine(inputs, *layers[0]))
        if learns:
            parts = _products(grad, between)
        grad = torch.einsum("oi,bxyoz->bxyiz", layers[1][0], grad) * (between > 0)
    if learns:
        parts = _products(grad, inputs) + parts
    return torch.einsum("oi,bxyoz->bxyiz", layers[0][0], grad), torch.cat(parts) if learns else None


def _products(grad: torch.Tensor, inputs: torch.Tensor) -> list[torch.Tensor]:
    """The gradients of W, flat, and b from that of W x + b and from x."""
    return [torch.einsum("bxyoz,bxyiz->oi", grad, inputs).flatten(), grad.sum((0, 1, 2, 4))]


def _forward(
    state: torch.Tensor,
    weights: torch.Tensor,
    cells: torch.Tensor,
    extra: torch.Tensor | None,
    drive: torch.Tensor | None,
    rule: torch.Tensor | None,
    topology: Topology,
    epsilon: float,
    hidden: int,
) -> torch.Tensor:
    s = state.float()
    m = _message(s, weights, extra, topology)
    m = m * torch.rsqrt(m.square().mean(3, keepdim=True) + epsilon)
    z, h = _gates(s, m, cells, rule, hidden)
    out = s + z * (h - s)
    if drive is not None:
        # Rounded before the drive is added, as the reference does between two ticks.
        out = out.to(state.dtype)
        out = torch.cat([out[..., :1] + drive[..., None], out[..., 1:]], -1)
    return out.to(state.dtype)


def _backward(
    grad_out: torch.Tensor,
    state: torch.Tensor,
    weights: torch.Tensor,
    cells: torch.Tensor,
    extra: torch.Tensor | None,
    rule: torch.Tensor | None,
    topology: Topology,
    epsilon: float,
    hidden: int,
    rule_learns: bool,
    total_cells: list[torch.Tensor],
    total_weights: list[torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Gradients of state and message [B, X, Y, C, Z], and of the rule's numbers [N] if it learns, from that of the next state.

    Adds the gradients of parameters in place to the totals, lists of [X, Y, C, Z] and [X, Y, Z]; the second list is empty if
    connections do not learn.  So no tick needs a gradient of its own for every parameter.
    """
    s, grad = state.float(), grad_out.float()
    m = _message(s, weights, extra, topology)
    factor = torch.rsqrt(m.square().mean(3, keepdim=True) + epsilon)
    m = m * factor
    z, h = _gates(s, m, cells, rule, hidden)
    dz = grad * (h - s) * z * (1 - z)
    dh = grad * z * (1 - h * h)
    parts = (dz * s, dz * m, dz, dh * s, dh * m, dh)
    for total, part in zip(total_cells, parts, strict=True):
        total += part.sum(0)
    grad_m = dz * cells[1] + dh * cells[4]
    grad_s = grad * (1 - z) + dz * cells[0] + dh * cells[3]
    grad_rule = None
    if rule is not None:
        met, grad_rule = _rule_backward(torch.cat([dz, dh], 3), torch.cat([s, m], 3), rule, hidden, rule_learns)
        met_s, met_m = met.chunk(2, 3)
        grad_s, grad_m = grad_s + met_s, grad_m + met_m
    grad_m = factor * (grad_m - m * (grad_m * m).mean(3, keepdim=True))
    # The transpose: the cell at i - o_k reads this one with its own weight, so shift the product weight * gradient.
    for k, offset in enumerate(topology.offsets):
        back = (-offset[0], -offset[1], -offset[2])
        grad_s = grad_s + neighbour(weights[k][:, :, None] * grad_m, back, topology.boundary == "periodic")
    if total_weights:
        for total, read in zip(total_weights, _read(s, topology, +1), strict=True):
            total += (grad_m * read).sum((0, 3))
    return grad_s, grad_m, grad_rule


class CompiledKernel:
    """Runs ticks of one topology on any device, with states in fp32, bf16 or fp16.  See Kernel."""

    name = "compiled"
    sparse = False

    def __init__(
        self, topology: Topology, channels: int, device: torch.device, dtype: torch.dtype, hidden: int | None = None
    ) -> None:
        self._topology, self._device, self._dtype, self._hidden = topology, device, dtype, hidden
        # Every lattice shape is a specialisation of its own; what an earlier stage compiled is of no use to this one.
        torch._dynamo.reset()
        # One shape a batch size, with and without drive: past torch's limit of eight it would go on uncompiled and say nothing.
        torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
        options: dict[str, str | int | bool | Callable[..., Any]] = {
            "realize_reads_threshold": _MAX_FUSED_READS,
            "realize_acc_reads_threshold": _MAX_FUSED_READS,
        }
        self._forward = torch.compile(_forward, dynamic=False, options=options)
        self._backward = torch.compile(_backward, dynamic=False, options=options)
        self._probe(channels)

    def _probe(self, channels: int) -> None:
        """Compiles for a 3x3x3 lattice, to know before training starts whether the compiler works on this machine."""
        topology = Topology((3, 3, 3))
        state = torch.zeros(1, 3, 3, channels, 3, dtype=self._dtype, device=self._device)
        weights = torch.zeros(len(topology.offsets), 3, 3, 3, device=self._device)
        cells = torch.zeros(6, 3, 3, channels, 3, device=self._device)
        rule = None if self._hidden is None else torch.zeros(rule_size(channels, self._hidden), device=self._device)
        try:
            self._forward(state, weights, cells, None, None, rule, topology, 1e-3, self._hidden or 0)
        except Exception as error:
            line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise KernelUnavailable(f"torch.compile does not work here ({line})") from error

    def _rule(self, parameters: Parameters) -> tuple[torch.Tensor | None, int]:
        """The numbers of the shared rule and their hidden numbers, as the compiled functions take them."""
        rule = parameters.rule
        assert (None if rule is None else rule.hidden) == self._hidden, "the kernel was made for another shared rule"
        return (None, 0) if rule is None else (rule.numbers.detach(), rule.hidden)

    def empty_state(self, shape: tuple[int, ...], zero: bool = False) -> torch.Tensor:
        make = torch.zeros if zero else torch.empty
        return make(shape, dtype=self._dtype, device=self._device)

    def forward(
        self, state: torch.Tensor, parameters: Parameters, extra: torch.Tensor | None, drive: torch.Tensor | None
    ) -> torch.Tensor:
        assert parameters.pattern is None, "dense connections only"
        weights, cells, (rule, hidden) = parameters.weights, parameters.cells, self._rule(parameters)
        return self._forward(state, weights, cells, extra, drive, rule, self._topology, parameters.epsilon, hidden)

    def transposed(self, parameters: Parameters) -> None:
        return None

    def backward(
        self,
        grad_out: torch.Tensor,
        state: torch.Tensor,
        parameters: Parameters,
        extra: torch.Tensor | None,
        gradients: Gradients,
        fresh: bool = False,
        transposed: Transposed | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert parameters.pattern is None, "dense connections only"
        total_weights = [] if gradients.weights is None else list(gradients.weights)
        if fresh:
            for total in (gradients.cells, *total_weights):
                total.zero_()
        weights, cells, (rule, hidden) = parameters.weights, parameters.cells, self._rule(parameters)
        grad_state, grad_message, grad_rule = self._backward(
            grad_out, state, weights, cells, extra, rule, self._topology, parameters.epsilon, hidden,
            gradients.rule is not None, list(gradients.cells), total_weights,
        )  # fmt: skip
        if gradients.rule is not None and grad_rule is not None:
            gradients.rule.add_(grad_rule)
        if gradients.drive is not None:
            gradients.drive.add_(grad_state[..., 0])
        return grad_state, grad_message
