"""The parameter groups of a model, so that each part has its own learning rate, and no weight decay in the lattice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lattice.model.text_lattice import TextLattice


def groups(model: TextLattice, weight_decay: float) -> list[dict[str, Any]]:
    """The groups {params, part, weight_decay} of trained parameters, without empty ones.

    `part` is text, ports, cells, rule or connections.  A recurrent network in the lattice's place is text.
    """
    lattice = model.lattice
    own = {id(p) for p in lattice.parameters()} if lattice is not None else set()
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    connections = [p for _, p in trainable if lattice is not None and p is lattice.weights]
    rule = [p for name, p in trainable if name.startswith("lattice.rule.")]
    own -= {id(p) for p in (*connections, *rule)}
    cells = [p for _, p in trainable if id(p) in own]
    ports = [p for name, p in trainable if name.startswith(("input_port.", "output_port."))]
    text = [p for name, p in trainable if name.startswith(("encoder.", "decoder.", "recurrent."))]
    parts = [
        {"params": text, "part": "text", "weight_decay": weight_decay},
        {"params": ports, "part": "ports", "weight_decay": weight_decay},
        {"params": cells, "part": "cells", "weight_decay": 0.0},
        {"params": rule, "part": "rule", "weight_decay": 0.0},
        {"params": connections, "part": "connections", "weight_decay": 0.0},
    ]
    return [part for part in parts if part["params"]]
