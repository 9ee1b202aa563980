"""Which way connections lead, by depth."""

from __future__ import annotations

import pytest
import torch

from lattice.structure.direction import forward_shares
from presets.topology import Topology


def test_the_share_counts_what_comes_from_nearer_the_input_and_nothing_over_a_wall():
    topology = Topology((3, 3, 8))
    weights = torch.zeros(len(topology.offsets), 3, 3, 8)
    for number, (dx, dy, dz) in enumerate(topology.offsets):
        if dx == dy == 0:
            weights[number] = -3.0 if dz < 0 else 1.0  # a cell reads the one at dz
    assert forward_shares(weights, topology) == pytest.approx([3 / 5, 3 / 4, 3 / 4, 6 / 7])
    assert forward_shares(torch.zeros_like(weights), topology) == [0, 0, 0, 0]
    only = torch.zeros_like(weights)
    only[[o[2] for o in topology.offsets].index(-1), :, :, 0] = 5.0  # leads over the wall
    assert forward_shares(only, topology)[0] == 0


def test_a_shallow_lattice_has_parts_without_cells():
    topology = Topology((3, 3, 2))
    assert forward_shares(torch.ones(26, 3, 3, 2), topology) == pytest.approx([0, 0, 0, 9 / 17], abs=1)
