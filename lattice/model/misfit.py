"""Says which settings must differ if a checkpoint's tensors do not fit the model that a config makes."""

from __future__ import annotations

from collections.abc import Mapping

import torch

SET_BY = {
    "lattice.rule.": "rule.kind, rule.hidden or rule.scope",
    "lattice.plasticity.": "connections.learning or the stage's waves",
    "lattice.gain": "the stage's clustering",
    "lattice.labels": "the stage's clustering",
    "lattice.mean_state": "the stage's clustering",
    "lattice.centroids": "the stage's clustering",
    "lattice.": "lattice.arm, lattice.channels, or the stage's shape or strides",
    "input_port.": "lattice.arm, lattice.channels, lattice.port_channels, text.reading, text.grid or text.slot_width",
    "output_port.": "lattice.arm, lattice.channels, lattice.port_channels, text.reading, text.grid or text.slot_width",
    "recurrent.": "lattice.arm, lattice.gru_width or text.slot_width",
    "": "a setting of [text]",
}
"""The settings that decide whether tensors are there and which shape they have, by the beginning of the tensors' names."""


def misfit(made: Mapping[str, torch.Tensor], saved: Mapping[str, torch.Tensor]) -> str:
    """The first tensor that differs between the model that was `made` and the one that was `saved`, and what sets it.

    Empty if all have the same shapes.
    """
    differing = (name for name in (*made, *saved) if _shape(made, name) != _shape(saved, name))
    if (name := next(differing, None)) is None:
        return ""
    settings = next(settings for beginning, settings in SET_BY.items() if name.startswith(beginning))
    return f"{name} is {_shape(saved, name)} in it and {_shape(made, name)} here; {settings} is not what it was trained with"


def _shape(tensors: Mapping[str, torch.Tensor], name: str) -> str:
    if name not in tensors:
        return "missing"
    return "x".join(map(str, tensors[name].shape)) or "one number"
