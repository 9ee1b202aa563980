"""What changes a lattice between steps, beside the optimizer and plasticity: every training that is told of it must hang it."""

from __future__ import annotations

from lattice.training.callbacks import Callback
from lattice.training.recluster import Recluster
from lattice.training.rewiring import Rewiring


def shaping() -> list[Callback]:
    """In this order, before what decodes or saves: that must see the labels and connections that the next step will use."""
    return [Recluster(), Rewiring()]
