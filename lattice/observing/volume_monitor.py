"""The volume monitor: writes two fields of the lattice's cells to the run folder, so that a screen can show slices of them.

The field `activity` is what a look of the decode monitor measures anyway (TextLattice.change).  The field `cluster` has the
label of each cell, if the lattice has clusters.  A large lattice is thinned out, on its device (monitors.volumes has the
bounds).
"""

from __future__ import annotations

from pathlib import Path

import torch

from lattice.training.callbacks import Callback
from lattice.training.state import TrainingState
from monitors.events import VolumeSaved
from monitors.volumes import CellField, Volume, Volumes, strides

SCALE_QUANTILE = 0.99
"""This quantile of the activity gets the highest level, and so do all cells above it.

Otherwise a few very active cells would darken all others.
"""

LAST_LABEL = 255
"""Labels from this one on are all written as this one, since a label has one byte."""


class VolumeMonitor(Callback):
    """The callback that saves a volume into `folder` at every look of the decode monitor.  Emits VolumeSaved.

    If that fails, training goes on, and Warned is emitted once, until a volume is saved again.
    """

    def __init__(self, folder: Path) -> None:
        self._volumes = Volumes(folder)
        self._has_warned = False

    def move(self, folder: Path) -> None:
        """Saves into another folder from now on, because the run folder was moved."""
        self._volumes = Volumes(folder)

    def after_look(self, state: TrainingState, change: torch.Tensor | None) -> None:
        if change is None:
            return
        lattice = state.lattice
        try:
            volume = volume_of(change, lattice.labels if lattice.clusters else None, **state.here)
            path, size = self._volumes.save(volume)
        except (OSError, ValueError) as error:
            if not self._has_warned:
                self._has_warned = True
                state.warn(f"no volume of the lattice saved: {error}")
            return
        self._has_warned = False
        names = tuple(field.name for field in volume.fields)
        file = f"{path.parent.name}/{path.name}"
        state.tell(VolumeSaved(file=file, fields=names, shape=volume.shape, bytes=size, **state.here))


def volume_of(change: torch.Tensor, labels: torch.Tensor | None, step: int, stage: int) -> Volume:
    """The volume of `change` [X, Y, Z], and of `labels` [X, Y, Z] if there are any, thinned out by monitors.volumes.strides.

    Raises ValueError if a change is not finite.
    """
    size_x, size_y, size_z = change.shape
    lattice = size_x, size_y, size_z
    x, y, z = strides(lattice)
    activity = change[::x, ::y, ::z]
    if not torch.isfinite(activity).all():
        raise ValueError("the activity of some cells is not finite")
    flat = activity.flatten()
    scale = flat.kthvalue(max(1, round(SCALE_QUANTILE * flat.numel()))).values.item() or flat.max().item()
    levels = (activity / (scale or 1.0)).clamp(max=1) * 255
    fields = [CellField("activity", _bytes(levels.round()), scale)]
    if labels is not None:
        fields.append(CellField("cluster", _bytes(labels[::x, ::y, ::z].clamp(max=LAST_LABEL))))
    shown = activity.shape
    return Volume(step, stage, (shown[0], shown[1], shown[2]), lattice, tuple(fields))


def _bytes(values: torch.Tensor) -> bytes:
    return values.to(torch.uint8).cpu().contiguous().numpy().tobytes()
