"""What takes after its neighbours, that nothing else changes, and what stays lost."""

from __future__ import annotations

import itertools

import pytest
import torch

from lattice.healing.regrowth import regrow, revive, smooth
from lattice.healing.wounding import cell_fields, wound
from presets.wound import parse

DEEP = ('stages=[{name="only", shape=[5,6,8], ticks=9, steps=3, strides={z=[3]}%s}]', "connections.noise=0.3")
PLAIN, SPARSE = (DEEP[0] % "", DEEP[1]), (DEEP[0] % ", sparsity=0.5", DEEP[1])
PERIODIC = (*PLAIN, "lattice.boundary=periodic")
KINDS = pytest.mark.parametrize("settings", [PLAIN, SPARSE, PERIODIC], ids=["plain", "sparse", "periodic"])


def built(bench, settings: tuple[str, ...]):
    return bench(*settings).trainer.state.lattice


def connections(lattice) -> dict[tuple[int, int, int, int], tuple[int, int, int, int]]:
    """(offset, x, y, z) of all connections that there are, with the place of each in the tensor of weights."""
    (x, y, z), found = lattice.topology.shape, {}
    for i, j, k in itertools.product(range(x), range(y), range(z)):
        kept = range(len(lattice.topology.offsets)) if lattice.index is None else lattice.index[:, i, j, k // 16].tolist()
        for slot, number in enumerate(kept):
            dx, dy, dz = lattice.topology.offsets[number]
            a, b, c = i + dx, j + dy, k + dz
            if lattice.topology.boundary == "periodic":
                a, b = a % x, b % y
            if 0 <= a < x and 0 <= b < y and 0 <= c < z:
                found[number, i, j, k] = (slot, i, j, k)
    return found


def siblings(lattice, all_of_them, number: int, i: int, j: int, k: int) -> list[tuple[int, int, int, int]]:
    """Places of the connections of the same offset to the cell itself and its neighbours."""
    x, y, _ = lattice.topology.shape
    near = ((i + a, j + b, k + c) for a, b, c in itertools.product((-1, 0, 1), repeat=3))
    if lattice.topology.boundary == "periodic":
        near = ((a % x, b % y, c) for a, b, c in near)
    return [all_of_them[number, *cell] for cell in near if (number, *cell) in all_of_them]


@KINDS
def test_a_lost_connection_takes_the_mean_of_its_living_siblings_and_all_others_stay_bit_for_bit(bench, settings):
    lattice = built(bench, settings)
    wound(lattice, parse("connections:0.4"), torch.Generator().manual_seed(5))
    lost, before, there = lattice.lost.clone(), lattice.weights.detach().clone(), connections(lattice)
    assert regrow(lattice) == int(lost.sum()) and lattice.lost is None
    after = lattice.weights.detach()
    assert torch.equal(after[~lost], before[~lost])
    checked = 0
    for (number, *cell), place in there.items():
        alive = [before[near] for near in siblings(lattice, there, number, *cell) if not lost[near]]
        if lost[place] and alive:
            torch.testing.assert_close(after[place], torch.stack(alive).mean())
            checked += 1
    assert checked > 0.9 * int(lost.sum())


def test_a_hole_closes_from_its_rim_inwards(bench):
    lattice = built(bench, PLAIN)
    for number, weights in enumerate(lattice.weights.data):
        weights.fill_(number + 1.0)
    whole = lattice.weights.detach().clone()
    lost = wound(lattice, parse("block:5"), torch.Generator().manual_seed(5))
    assert regrow(lattice) == lost.count
    there = torch.zeros_like(whole, dtype=torch.bool)
    there[tuple(torch.tensor(list(connections(lattice).values())).T)] = True
    torch.testing.assert_close(lattice.weights.detach()[there], whole[there])


@pytest.mark.parametrize("settings", [PLAIN, SPARSE], ids=["plain", "sparse"])
def test_what_has_no_living_sibling_anywhere_stays_lost(bench, settings):
    lattice = built(bench, settings)
    gone = torch.zeros_like(lattice.weights, dtype=torch.bool)
    for (number, *_), place in connections(lattice).items():
        gone[place] = number < 2 or place[1] == 0
    weights = lattice.weights.data.masked_fill_(gone, 0.0).clone()
    only_there = {n for n, *_ in connections(lattice)} - {
        n for (n, *_), place in connections(lattice).items() if not gone[place]
    }
    lattice.lose(gone.clone())
    count = regrow(lattice)
    expected = torch.zeros_like(gone)
    for (number, *_), place in connections(lattice).items():
        expected[place] = number < 2 or number in only_there
    assert torch.equal(lattice.lost, expected) and count == int((gone & ~expected).sum()) > 0
    assert torch.equal(lattice.weights.data[expected], weights[expected])


def test_a_whole_lattice_stays_as_it_is(bench):
    lattice = built(bench, PLAIN)
    before = {name: tensor.clone() for name, tensor in lattice.state_dict().items()}
    assert regrow(lattice) == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in lattice.state_dict().items())


@KINDS
def test_smoothing_gives_every_connection_the_mean_of_its_neighbourhood(bench, settings):
    lattice = built(bench, settings)
    before, there = lattice.weights.detach().clone(), connections(lattice)
    smooth(lattice)
    after = lattice.weights.detach()
    places = torch.zeros_like(before, dtype=torch.bool)
    for (number, *cell), place in there.items():
        places[place] = True
        near = torch.stack([before[other] for other in siblings(lattice, there, number, *cell)])
        torch.testing.assert_close(after[place], near.mean(), rtol=1e-4, atol=1e-5)
    assert torch.equal(after[~places], before[~places])


def test_a_dead_cell_takes_the_parameters_of_its_living_neighbours(bench):
    state = bench(*PLAIN, "rule.kind=linear", "rule.scope=cell", "lattice.port_channels=4").trainer.state
    lattice = state.lattice
    for number, field in enumerate(cell_fields(lattice)):
        field.fill_(number + 0.5)
    lattice.cells.data[:, 2:5, 2:5, :, 2:5] = 0.0  # its middle has dead neighbours alone
    for parameter in lattice.rule.parameters():
        parameter.data[2:5, 2:5, ..., 2:5] = 0.0
    assert revive(lattice) == 27
    for number, field in enumerate(cell_fields(lattice)):
        torch.testing.assert_close(field, torch.full_like(field, number + 0.5))
    assert revive(lattice) == 0
