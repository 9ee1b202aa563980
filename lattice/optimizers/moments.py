"""The state of an optimizer as named tensors: for checkpoints, and for connections that are rewired.

A tensor's name is the parameter's name, a slash and its own name, as in `lattice.weights/exp_avg`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from lattice.kernels.sparse import Pattern
from lattice.kernels.sparse import moved as moved_weights
from lattice.optimizers.partwise import PartWise, State

if TYPE_CHECKING:
    from lattice.model.lattice3d import Lattice
    from lattice.model.text_lattice import TextLattice

CONNECTIONS = "lattice.weights/"
"""The names of all tensors that belong to connections begin with this."""


def named(optimizer: PartWise, model: TextLattice) -> State:
    """The optimizer's tensors by name; they are not copied."""
    names: dict[torch.Tensor, str] = {p: name for name, p in model.named_parameters()}
    return {f"{names[p]}/{key}": value for p, state in optimizer.state.items() for key, value in state.items()}


def load(optimizer: PartWise, model: TextLattice, tensors: State) -> None:
    """Copies tensors into the optimizer, for parameters of which it keeps tensors of the same names, shapes and dtypes."""
    names = {p: name for name, p in model.named_parameters()}
    for group in optimizer.param_groups:
        for p in group["params"]:
            expected = _layout(optimizer, group["part"], p)
            found = {key: value for key in expected if (value := tensors.get(f"{names[p]}/{key}")) is not None}
            if {key: (value.shape, value.dtype) for key, value in found.items()} == expected:
                optimizer.state[p] = {key: value.clone().to(p.device) for key, value in found.items()}


def grown(optimizer: PartWise, tensors: State, old: Lattice | None, new: Lattice | None) -> State:
    """The named tensors for the model of the next stage.

    If the topology stays the same, tensors of connections follow their connections to the new pattern.  If not, they are left
    out.  All others are returned as they are.
    """
    if old is None or new is None:
        return tensors
    own = {name.removeprefix(CONNECTIONS): value for name, value in tensors.items() if name.startswith(CONNECTIONS)}
    rest = {name: value for name, value in tensors.items() if not name.startswith(CONNECTIONS)}
    if old.topology == new.topology:
        kept = _moved(optimizer, own, old.weights.shape, lambda of: moved_weights(of, old.pattern, new.pattern))
        rest |= {CONNECTIONS + name: value for name, value in kept.items()}
    return rest


def rewire(optimizer: PartWise, weights: torch.Tensor, shape: torch.Size, old: Pattern | None, new: Pattern | None) -> None:
    """Moves the moments of `weights`, which had this shape, from one pattern to another, or lets them start anew."""
    if state := optimizer.state.get(weights):
        optimizer.state[weights] = _moved(optimizer, state, shape, lambda of: moved_weights(of, old, new))


def _layout(optimizer: PartWise, part: str, p: torch.Tensor) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Shape and dtype of each tensor that the optimizer keeps for a parameter of a part."""
    empty = torch.empty_like(p, device="meta")
    if part in optimizer.rules:
        state = optimizer.rules[part].start(empty)
    else:
        state = {"step": torch.empty(()), "exp_avg": empty, "exp_avg_sq": empty}
    return {name: (tensor.shape, tensor.dtype) for name, tensor in state.items()}


def _moved(optimizer: PartWise, state: State, shape: torch.Size, move: Callable[[torch.Tensor], torch.Tensor]) -> State:
    """The state of connections that had this shape, after `move` has taken it to another pattern; empty if it starts anew."""
    if not state:
        return {}
    if rule := optimizer.rules.get("connections"):
        return rule.moved(state, shape, move)
    return {name: value if name == "step" else move(value) for name, value in state.items()}
