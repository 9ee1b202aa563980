"""What grows again after a wound, that nothing else changes, and when it ends."""

from __future__ import annotations

import pytest
import torch

from lattice.healing import waves as module
from lattice.healing.waves import ANNEALED, SENTENCES, SETTLED, NothingFires, heal
from lattice.healing.wounding import wound
from presets.wound import parse

DEEP = ('stages=[{name="only", shape=[6,6,8], ticks=9, steps=3, strides={z=[3]}%s}]', "connections.noise=0.3")
PLAIN, SPARSE = (DEEP[0] % "", DEEP[1]), (DEEP[0] % ", sparsity=0.5", DEEP[1])
IN_TIME = (*PLAIN, "text.reading=time", "text.lag=4", "stages.0.ticks=8")


def harmed(bench, settings: tuple[str, ...], text: str):
    """(state of a fresh lattice that was wounded, what was lost)."""
    state = bench(*settings).trainer.state
    return state, wound(state.lattice, parse(text), torch.Generator().manual_seed(5))


def waves(state, lost, most: int = 400, at_once: int = SENTENCES, seed: int = 1):
    return list(heal(state.model, state.train_sentences, lost.connections, seed, at_once, most))


def heard(state) -> torch.Tensor:
    """How much each cell's last state differs from sentence to sentence, RMS over channels: [X, Y, Z]."""
    source, _, _ = state.train_sentences.batch(list(range(8)), state.device)
    with torch.no_grad():
        return state.model.state(source).var(0).mean(2).sqrt()


@pytest.mark.parametrize("settings", [PLAIN, SPARSE, IN_TIME], ids=["plain", "sparse", "in time"])
def test_lost_connections_grow_again_and_all_others_stay_bit_for_bit(bench, settings):
    state, lost = harmed(bench, settings, "connections:0.5")
    before = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    done = waves(state, lost, most=5)
    after, gone = state.model.state_dict(), lost.connections
    assert len(done) == 5 and [wave.number for wave in done] == [1, 2, 3, 4, 5]
    assert [name for name in before if not torch.equal(before[name], after[name])] == ["lattice.weights"]
    assert torch.equal(after["lattice.weights"][~gone], before["lattice.weights"][~gone])
    grown = after["lattice.weights"][gone]
    assert (grown >= 0).all() and (grown > 0.01).float().mean() > 0.1
    assert state.lattice.plasticity is None  # its own, which it had not


def test_what_grows_leads_from_the_input_to_the_output(bench):
    state, lost = harmed(bench, PLAIN, "connections:0.7")
    waves(state, lost, most=20)
    grown = {"forward": 0.0, "backward": 0.0}
    offsets = state.lattice.topology.offsets
    for weights, gone, (_, _, dz) in zip(state.lattice.weights.detach(), lost.connections, offsets, strict=True):
        if dz:  # a cell reads the one at dz, so what it reads from lies nearer to the input if dz is negative
            grown["forward" if dz < 0 else "backward"] += float(weights[gone].sum())
    assert grown["forward"] > 2 * grown["backward"]


def test_a_hole_that_nothing_reaches_is_grown_into(bench):
    state, lost = harmed(bench, PLAIN, "block:4")
    deaf = heard(state) == 0
    assert int(deaf.sum()) == 64
    waves(state, lost, most=20)
    assert (heard(state)[deaf] > 0.01).float().mean() > 0.9


def test_healing_ends_by_itself_and_then_little_changes(bench):
    state, lost = harmed(bench, PLAIN, "connections:0.3")
    done = waves(state, lost)
    assert done[-1].change < SETTLED <= min(wave.change for wave in done[:-1]) and 10 < len(done) < 400


def test_the_same_seed_heals_alike_however_many_sentences_run_at_once(bench):
    found = []
    for at_once, seed in ((SENTENCES, 1), (3, 1), (SENTENCES, 2)):
        state, lost = harmed(bench, PLAIN, "connections:0.5")
        waves(state, lost, 3, at_once, seed)
        found.append(state.lattice.weights.detach().clone())
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(found[2], found[0])


def test_if_nothing_tells_what_is_wrong_all_connections_learn_ever_less_and_keep_their_sums(bench):
    state, lost = harmed(bench, PLAIN, "shuffle:0.5")
    before = state.lattice.weights.detach().clone()
    done = waves(state, lost)
    assert len(done) == ANNEALED and done[-1].settled and done[-1].change < 0.1 * done[1].change
    after = state.lattice.weights.detach()
    assert (after != before).float().mean() > 0.3
    torch.testing.assert_close(after.abs().sum(0), before.abs().sum(0), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("text", ["connections:0.5", "cells:0.5"])
def test_where_nothing_fires_nothing_is_changed(bench, monkeypatch, text):
    monkeypatch.setattr(module, "THRESHOLD", 1e6)
    state, lost = harmed(bench, PLAIN, text)
    before = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    with pytest.raises(NothingFires):
        waves(state, lost)
    assert [name for name, tensor in state.model.state_dict().items() if not torch.equal(tensor, before[name])] == []


def test_the_lattice_keeps_its_own_plasticity(bench):
    state, lost = harmed(bench, (*PLAIN, "connections.learning=hybrid"), "connections:0.5")
    own = state.lattice.plasticity
    before = {name: tensor.clone() for name, tensor in own.state_dict().items()}
    waves(state, lost, most=2)
    assert state.lattice.plasticity is own and all(torch.equal(tensor, before[n]) for n, tensor in own.state_dict().items())
