"""Carrying a trained model into the next stage's shape, and clearing what does not fit.

Faces go to faces: each per-cell field is interpolated trilinearly from the old shape to the new.  Distances grow too: the
i-th stride of an axis becomes the i-th stride of the new stage.  Offsets the old lattice did not have keep their fresh
start.  Ports, encoder and decoder do not depend on the shape and carry over as they are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from lattice.model.lattice3d import Lattice
from lattice.model.text_lattice import TextLattice
from lattice.plasticity.plasticity import Plasticity
from presets.topology import LOCAL_OFFSETS, Offset, Topology


def resample(fields: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    """fields [N, X, Y, Z] -> [N, *shape], trilinear, corners on corners."""
    if tuple(fields.shape[1:]) == shape:
        return fields.clone()
    # An axis of a single cell has no corners to align; interpolate repeats that cell, and aligns the other axes all the same.
    return F.interpolate(fields[None], size=shape, mode="trilinear", align_corners=True)[0]


def nearest(field: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    """field [X, Y, Z] -> [*shape], each cell taking the value of the old cell nearest to it, corners on corners."""
    for axis, (old, new) in enumerate(zip(field.shape, shape, strict=True)):
        at = torch.arange(new, device=field.device)
        # In whole numbers, so that halves round the same way everywhere.
        field = field.index_select(axis, (2 * at * (old - 1) + new - 1) // (2 * max(1, new - 1)))
    return field


def matching_offsets(old: Topology, new: Topology) -> dict[int, int]:
    """Index of each new offset -> index of the old one it descends from; new ones without a forebear are left out."""
    known = {offset: k for k, offset in enumerate(old.offsets)}
    matches = {k: known[offset] for k, offset in enumerate(LOCAL_OFFSETS)}
    for axis in range(3):
        for before, after in zip(sorted(old.strides[axis]), sorted(new.strides[axis]), strict=False):
            for sign in (-1, 1):
                matches[new.offsets.index(_along(axis, sign * after))] = known[_along(axis, sign * before)]
    return matches


def _along(axis: int, distance: int) -> Offset:
    offset = [0, 0, 0]
    offset[axis] = distance
    return (offset[0], offset[1], offset[2])


@torch.no_grad()
def carry_over(old: TextLattice, new: TextLattice) -> None:
    """Copies encoder, decoder and ports, and interpolates the lattice, in place into `new`, whose lattice is dense.

    A pattern of the old shape means nothing in the new one: the stage prunes anew to its own sparsity.
    """
    for part in ("encoder", "decoder", "input_port", "output_port"):
        if hasattr(old, part):
            getattr(new, part).load_state_dict(getattr(old, part).state_dict())
    if old.lattice is not None and new.lattice is not None:
        _carry_lattice(old.lattice, new.lattice)


def _carry_lattice(old: Lattice, new: Lattice) -> None:
    shape = new.topology.shape
    for part in range(new.cells.shape[0]):
        fields = old.cells[part].permute(2, 0, 1, 3)  # [C, X, Y, Z]
        new.cells[part] = resample(fields, shape).permute(1, 2, 0, 3)
    weights = old.dense()
    for k, before in matching_offsets(old.topology, new.topology).items():
        new.weights[k] = resample(weights[before : before + 1], shape)[0]
    if new.gain is not None and old.gain is not None:
        new.gain.copy_(resample(old.gain.permute(2, 0, 1, 3), shape).permute(1, 2, 0, 3))
    if new.clusters and old.clusters:
        new.mean_state.copy_(resample(old.mean_state.permute(3, 0, 1, 2), shape).permute(1, 2, 3, 0))
        if new.clusters == old.clusters:
            new.labels.copy_(nearest(old.labels, shape))
            new.centroids.copy_(old.centroids)
    if old.plasticity is not None and new.plasticity is not None:
        _carry_plasticity(old.plasticity, new.plasticity)


def _carry_plasticity(old: Plasticity, new: Plasticity) -> None:
    """Thresholds of firing are relative to their stage's, so that homeostasis goes on from where it was."""
    shape = new.topology.shape
    for name in ("theta", "firing"):
        getattr(new, name).copy_(resample(getattr(old, name)[None], shape)[0])
    new.threshold.copy_(resample(old.threshold[None] / old.start, shape)[0] * new.start)
