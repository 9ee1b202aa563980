"""How far a kernel's tick is from the reference's, on random numbers."""

from __future__ import annotations

import torch

from lattice.kernels import reference
from lattice.kernels.kernel import NORM_EPSILON, Gradients, Kernel, Parameters, RuleNumbers, affine
from lattice.kernels.sparse import Pattern
from presets.rule_size import rule_size
from presets.topology import Topology

UNDECIDED = 1e-4
"""A hidden number of less than this before the ReLU, of numbers near 1, may have the other sign in another kernel."""


def disagreement(
    kernel: Kernel,
    topology: Topology,
    channels: int,
    batch: int,
    dtype: torch.dtype,
    device: torch.device,
    pattern: Pattern | None = None,
    functional: bool = False,
    hidden: int | None = None,
) -> float:
    """The largest error of a driven tick and of its gradients, as a share of the largest value of each tensor.

    Compared are the next state and the gradients of state, message, weights, cells, rule and drive; the result is NaN if one of
    the kernel's is.  The backward runs twice: it writes the gradients of parameters first, and then adds to them.  `functional`
    adds something to the message, as clusters do.  There is a shared rule if `hidden` is not None, and it is linear if it is 0.
    No gradient arrives at cells in which rounding may decide whether a hidden number of the rule is positive.
    """
    draw, (x, y, z) = torch.Generator().manual_seed(0), topology.shape
    kept = len(topology.offsets) if pattern is None else pattern.kept

    def drawn(*sizes: int) -> torch.Tensor:
        return torch.randn(*sizes, generator=draw).to(device)

    shape = (batch, x, y, channels, z)
    state = kernel.empty_state(shape)
    state.copy_(drawn(*shape))
    weights, cells = 0.3 * drawn(kept, x, y, z), drawn(6, x, y, channels, z)
    extras = [drawn(*shape)] if functional else []
    extra = extras[0] if functional else None
    drive, upstream = drawn(batch, x, y, channels).to(dtype), drawn(*shape).to(dtype)

    rule = None if hidden is None else RuleNumbers(0.3 * drawn(rule_size(channels, hidden)), hidden)
    numbers = [] if rule is None else [rule.numbers]

    if rule is not None and rule.hidden:
        connections = weights if pattern is None else pattern.expand(weights)
        inputs = torch.cat(reference.gate_inputs(state, connections, topology, NORM_EPSILON, extra), dim=3)
        undecided = affine(inputs, *rule.layers(2 * channels)[0]).abs() < UNDECIDED
        upstream.masked_fill_(undecided.any(dim=3, keepdim=True), 0)

    learning = [t.clone().requires_grad_() for t in (state, weights, cells, *extras, *numbers)]
    dense = learning[1] if pattern is None else pattern.expand(learning[1])
    shared = None if hidden is None else RuleNumbers(learning[-1], hidden)
    heard = learning[3] if functional else None
    after = reference.tick(learning[0], dense, learning[2], topology, NORM_EPSILON, heard, shared)
    wanted = list(torch.autograd.grad(after, learning, upstream))
    after = after.detach().clone()
    after[..., 0] += drive

    parameters = Parameters(weights, cells, pattern, rule=rule)
    found = [kernel.forward(state, parameters, extra, drive)]
    of_cells, of_weights = torch.full_like(cells, torch.nan), torch.full_like(weights, torch.nan)
    of_drive, of_rule = torch.zeros(drive.shape, device=device), None if rule is None else torch.zeros_like(rule.numbers)
    for fresh in (True, False):
        gradients = Gradients(of_cells, of_weights, of_drive, of_rule)
        of_state, of_message = kernel.backward(upstream.clone(), state, parameters, extra, gradients, fresh)
    found += [of_state, of_weights / 2, of_cells / 2, *([of_message] if functional else [])]
    found += [*([] if of_rule is None else [of_rule / 2]), of_drive / 2]
    wanted = [after, *wanted, wanted[0][..., 0]]
    errors = [
        (one.float() - other.float()).abs().max() / other.float().abs().max() for one, other in zip(found, wanted, strict=True)
    ]
    return float(torch.stack(errors).max())  # NaN if one is
