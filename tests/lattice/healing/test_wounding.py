"""What each kind of wound destroys, what it leaves alone, and what it tells."""

from __future__ import annotations

import pytest
import torch

from lattice.healing.wounding import cell_fields, wound
from lattice.plasticity.products import present
from presets.wound import parse

PLAIN = ('stages=[{name="only", shape=[5,6,7], ticks=6, steps=3, strides={z=[3]}}]',)
RICH = (
    'stages=[{name="only", shape=[5,6,7], ticks=6, steps=3, strides={z=[3]}, clustering={clusters=2}}]',
    "rule.kind=linear", "rule.scope=cell", "lattice.port_channels=4", "text.reading=time", "text.lag=3", "stages.0.ticks=7",
)  # fmt: skip
SPARSE = ('stages=[{name="only", shape=[5,6,7], ticks=6, steps=3, strides={z=[3]}, sparsity=0.5}]',)


@pytest.fixture(
    params=[PLAIN, RICH, SPARSE, (*PLAIN, "lattice.boundary=periodic")], ids=["plain", "rich", "sparse", "periodic"]
)
def lattice(request, bench):
    return bench(*request.param).trainer.state.lattice


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def there(lattice) -> torch.Tensor:
    """Which connections lead to a cell, bool [kept, X, Y, Z]."""
    inside = present(lattice.topology, slice(None))
    return inside if lattice.pattern is None else lattice.pattern.take(inside)


def harmed(lattice, text: str, seed: int = 0):
    """(what was lost, weights before, cell fields before)."""
    before, fields = lattice.weights.detach().clone(), [field.clone() for field in cell_fields(lattice)]
    return wound(lattice, parse(text), stream(seed)), before, fields


def test_a_share_of_the_connections_is_gone_and_nothing_else(lattice):
    lost, before, fields = harmed(lattice, "connections:0.3")
    gone, after = lost.connections, lattice.weights.detach()
    assert not after[gone].any() and torch.equal(after[~gone], before[~gone])
    assert not (gone & ~there(lattice)).any() and lost.count == int(gone.sum())
    assert 0.25 < lost.count / int(there(lattice).sum()) < 0.35
    assert lost.cells == 0 and all(map(torch.equal, cell_fields(lattice), fields))
    assert not torch.signbit(after[gone]).any()


def test_a_dead_cell_has_no_parameters_and_no_connections(lattice):
    lost, before, fields = harmed(lattice, "cells:0.1")
    dead = (lattice.cells == 0).all(3).all(0)
    assert lost.cells == int(dead.sum()) == round(0.1 * dead.numel())
    for field, old in zip(cell_fields(lattice), fields, strict=True):
        assert not field[dead].any() and torch.equal(field[~dead], old[~dead])
    gone = lost.connections
    assert torch.equal(gone[:, dead], there(lattice)[:, dead])
    assert torch.equal(lattice.weights[~gone], before[~gone])


def test_nothing_gets_into_a_block_and_nothing_out_of_it(lattice):
    lost, before, fields = harmed(lattice, "block:3", seed=4)
    inside = torch.zeros(lattice.topology.shape)
    whole = (there(lattice) == lost.connections).all(0)  # cells all of whose connections are gone
    assert int(whole.sum()) >= 27
    corner = [int(index.min()) for index in whole.nonzero(as_tuple=True)]
    block = tuple(slice(at, at + 3) for at in corner)
    inside[block] = 1.0
    assert bool(whole[block].all())
    state = torch.where(inside.bool(), 1.0, 0.0)[None, :, :, None].expand(1, -1, -1, 4, -1).contiguous()
    from lattice.plasticity.products import message

    assert not message(state, lattice.dense(), lattice.topology, slice(None)).any()  # what the block says
    heard = message(1 - state, lattice.dense(), lattice.topology, slice(None))
    assert not heard[0, :, :, 0][inside.bool()].any()  # what it hears
    assert torch.equal(lattice.weights[~lost.connections], before[~lost.connections])
    assert lost.cells == 0 and all(map(torch.equal, cell_fields(lattice), fields))


def test_shuffled_cells_keep_their_weights_in_another_order(lattice):
    lost, before, _ = harmed(lattice, "shuffle:0.4")
    after, exists = lattice.weights.detach(), there(lattice)
    changed = (after != before).any(0)
    assert lost.connections is None and 0.3 < changed.float().mean() <= 0.4
    assert torch.equal(after.sort(0).values, before.sort(0).values)
    assert torch.equal(after[~exists], before[~exists])
    absent = torch.where(exists, 0.0, before)
    assert torch.equal(torch.where(exists, 0.0, after), absent)


def test_noise_has_the_size_that_was_asked_for(lattice):
    lost, before, _ = harmed(lattice, "noise:2")
    exists = there(lattice)
    noise, size = (lattice.weights.detach() - before)[exists], before[exists].square().mean().sqrt()
    assert lost.connections is None and lost.count == int(exists.sum())
    assert float(noise.square().mean().sqrt() / size) == pytest.approx(2, rel=0.1)
    assert torch.equal(lattice.weights[~exists], before[~exists])


@pytest.mark.parametrize("text", ["connections:0.3", "cells:0.1", "block:3", "shuffle:0.4", "noise:2"])
def test_the_same_stream_wounds_alike_and_another_does_not(bench, text):
    def wounded(seed: int) -> torch.Tensor:
        one = bench(*PLAIN).trainer.state.lattice
        harmed(one, text, seed)
        return one.weights.detach()

    assert torch.equal(wounded(1), wounded(1)) and not torch.equal(wounded(1), wounded(2))


@pytest.mark.parametrize(("text", "says"), [("block:6", "use 5 or less"), ("block:900", "5 x 6 x 7 cells")])
def test_a_block_that_does_not_fit_changes_nothing(bench, text, says):
    lattice = bench(*PLAIN).trainer.state.lattice
    before = lattice.weights.detach().clone()
    with pytest.raises(ValueError, match=says):
        wound(lattice, parse(text), stream())
    assert torch.equal(lattice.weights, before)


def test_a_block_of_the_whole_lattice_leaves_nothing_to_heal_from(bench):
    lattice = bench('stages=[{name="only", shape=[3,3,3], ticks=6, steps=3}]').trainer.state.lattice
    with pytest.raises(ValueError, match="less than 3"):
        wound(lattice, parse("block:3"), stream())
