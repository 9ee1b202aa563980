"""Growth: carries a trained model over into the shape of the next stage.

Every field of the cells is interpolated trilinearly from the old shape to the new one, so faces go to faces.  Distances grow,
too: the i-th stride of an axis becomes the i-th stride of the new stage.  Offsets that the old lattice did not have keep their
fresh start.  Ports, encoder, decoder, the shared rule and a recurrent network in the lattice's
place do not depend on the shape, and carry over as they are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from lattice.model.cell_rule import CellRule
from lattice.model.lattice3d import Lattice
from lattice.model.text_lattice import TextLattice
from lattice.plasticity.plasticity import Plasticity
from presets.topology import LOCAL_OFFSETS, Offset, Topology


def resample(fields: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    """Interpolates fields [N, X, Y, Z] trilinearly to [N, *shape].  Corners go to corners."""
    if tuple(fields.shape[1:]) == shape:
        return fields.clone()
    # An axis of one cell has no corners to align.  F.interpolate repeats that cell, and still aligns the other axes.
    return F.interpolate(fields[None], size=shape, mode="trilinear", align_corners=True)[0]


def nearest(field: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    """Resamples a field [X, Y, Z] to `shape`: each cell takes the value of the nearest old cell.  Corners go to corners."""
    for axis, (old, new) in enumerate(zip(field.shape, shape, strict=True)):
        at = torch.arange(new, device=field.device)
        # Integer arithmetic, so that halves are rounded in the same way everywhere.
        field = field.index_select(axis, (2 * at * (old - 1) + new - 1) // (2 * max(1, new - 1)))
    return field


def matching_offsets(old: Topology, new: Topology) -> dict[int, int]:
    """Maps the index of each new offset to the index of the old offset that it takes over from.

    New offsets without an old one are left out.
    """
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
    """Copies encoder, decoder, ports, shared rule and recurrent network into `new`, and interpolates the lattice.

    The lattice of `new` must be dense.

    The pattern of a pruned lattice is not carried over, since it means nothing in another shape.  The new stage prunes anew.
    """
    for part in ("encoder", "decoder", "input_port", "output_port", "recurrent"):
        if (module := getattr(old, part, None)) is not None:
            getattr(new, part).load_state_dict(module.state_dict())
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
    if new.rule is not None and old.rule is not None:
        _carry_rule(old.rule, new.rule, shape)
    if new.gain is not None and old.gain is not None:
        new.gain.copy_(resample(old.gain.permute(2, 0, 1, 3), shape).permute(1, 2, 0, 3))
    if new.clusters and old.clusters:
        new.mean_state.copy_(resample(old.mean_state.permute(3, 0, 1, 2), shape).permute(1, 2, 3, 0))
        if new.clusters == old.clusters:
            new.labels.copy_(nearest(old.labels, shape))
            new.centroids.copy_(old.centroids)
    if old.plasticity is not None and new.plasticity is not None:
        _carry_plasticity(old.plasticity, new.plasticity)


def _carry_rule(old: CellRule, new: CellRule, shape: tuple[int, int, int]) -> None:
    """Copies the rule that all cells share.  If each cell has its own, a new cell takes that of the nearest old one.

    The mean of two rules is none: hidden numbers of two cells have nothing to do with each other.
    """
    for before, after in zip(old.parameters(), new.parameters(), strict=True):
        if old.per_cell:
            x, y, z = before.shape[0], before.shape[1], before.shape[-1]
            places = nearest(torch.arange(x * y * z, device=before.device).view(x, y, z), shape).flatten()
            before = before.movedim(-1, 2).flatten(0, 2)[places].unflatten(0, shape).movedim(2, -1)
        after.copy_(before)


def _carry_plasticity(old: Plasticity, new: Plasticity) -> None:
    """Carries over thresholds and rates.  Firing thresholds keep their ratio to their stage's, so homeostasis just goes on."""
    shape = new.topology.shape
    for name in ("theta", "firing"):
        getattr(new, name).copy_(resample(getattr(old, name)[None], shape)[0])
    new.threshold.copy_(resample(old.threshold[None] / old.start, shape)[0] * new.start)
