"""A recurrent network in the lattice's place: it reads slots in time, and all that a run does works with it."""

from __future__ import annotations

import pytest
import torch

from lattice.data.tokenizer import pad
from lattice.model.recurrent import Recurrent
from lattice.model.text_lattice import TextLattice
from lattice.observing.decode_monitor import DecodeMonitor
from lattice.optimizers.groups import groups
from lattice.training import changes
from monitors.events import Decoded, StageStarted, Trained
from tests.lattice.conftest import stopped_and_resumed

CPU = torch.device("cpu")
GRU = ("lattice.arm=gru", "lattice.gru_width=24", "text.reading=time", "text.lag=2")


@pytest.fixture(scope="module")
def model(config_of, tokenizer) -> TextLattice:
    return TextLattice(config_of(*GRU), 0, tokenizer.vocabulary, CPU)


def sentences(count: int) -> list[list[int]]:
    """Token rows of many lengths."""
    stream = torch.Generator().manual_seed(4)
    return [torch.randint(3, 200, (2 + 5 * i,), generator=stream).tolist() for i in range(count)]


def network(lag: int) -> Recurrent:
    return Recurrent(6, 9, lag, torch.Generator().manual_seed(3))


@pytest.mark.parametrize("lag", [0, 3])
def test_a_slot_is_the_linear_read_of_the_hidden_state_lag_steps_after_it(lag):
    recurrent, slots = network(lag), torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))
    found = recurrent(slots, torch.ones(2, 5, dtype=torch.bool))
    cell = torch.nn.GRUCell(6, 9)
    weights = {name.removesuffix("_l0"): value for name, value in recurrent.gru.state_dict().items()}
    cell.load_state_dict(weights)
    hidden, states = torch.zeros(2, 9), []
    for step in range(5 + lag):
        hidden = cell(slots[:, step] if step < 5 else torch.zeros(2, 6), hidden)
        states.append(hidden)
    assert found.shape == slots.shape
    for slot in range(5):
        assert torch.allclose(found[:, slot], recurrent.read(states[slot + lag]), atol=1e-6)


def test_no_step_is_run_for_slots_that_no_sentence_of_the_batch_has_and_their_output_is_zero(monkeypatch):
    recurrent, seen = network(2), []
    honest = recurrent.gru.forward
    monkeypatch.setattr(recurrent.gru, "forward", lambda given: seen.append(given.shape[1]) or honest(given))
    there = torch.tensor([[True, False, False, False], [True, True, False, False]])
    found = recurrent(torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(1)) * there[..., None], there)
    assert seen == [4] and found[~there].eq(0).all() and found[there].ne(0).all()


def test_a_sentence_alone_and_in_a_batch_gives_the_same_answer(model):
    rows = sentences(8)
    together, slots = model.say(pad(rows)), model.slots(pad(rows))
    for i, row in enumerate(rows):
        alone = pad([row])
        assert torch.allclose(model.slots(alone)[0], slots[i], atol=1e-5)
        said = model.say(alone)[0]
        assert torch.equal(said[said != 0], together[i][together[i] != 0])


def test_shuffled_sends_another_sentence_through(model):
    rows = pad(sentences(3))
    slots = model.slots(rows)
    assert torch.allclose(model.slots(rows, "shuffled"), slots.roll(1, 0), atol=1e-6)
    assert not torch.allclose(slots[0, 0], slots[1, 0])


def test_it_stands_in_the_lattices_place_learns_as_text_and_starts_as_its_seed_says(model, config_of, tokenizer):
    own = [p for name, p in model.named_parameters() if name.startswith("recurrent.")]
    assert model.lattice is None and model.kernel_line == "GRU of 24 units, no lattice (gru arm)"
    assert {name.partition(".")[0] for name in model.state_dict()} == {"encoder", "decoder", "recurrent"}
    (text,) = groups(model, 0.01)
    assert text["part"] == "text" and {id(p) for p in own} < {id(p) for p in text["params"]}

    def built(*settings: str) -> dict[str, torch.Tensor]:
        torch.manual_seed(len(settings))  # what was drawn before has no influence
        return TextLattice(config_of(*GRU, *settings), 0, tokenizer.vocabulary, CPU).state_dict()

    same, other = built(), built("run.seed=1")
    mine = model.state_dict()
    assert all(torch.equal(mine[name], same[name]) for name in mine)
    assert not torch.equal(mine["recurrent.read.weight"], other["recurrent.read.weight"])
    identity = TextLattice(config_of("lattice.arm=identity"), 0, tokenizer.vocabulary, CPU).state_dict()
    assert all(torch.equal(identity[name], mine[name]) for name in identity)


def test_a_run_learns_through_its_stages_is_decoded_and_says_what_runs(bench):
    run = bench(*GRU, "training.micro_batch=4", callbacks=[DecodeMonitor()])
    assert run.trainer.run() == "finished"
    losses = [event.loss for event in run.heard.of(Trained)]
    assert losses[-1] < losses[0]
    assert [event.kernel for event in run.heard.of(StageStarted)] == ["GRU of 24 units, no lattice (gru arm)"] * 2
    assert all(look.gradient_share is None and look.active_share == 0.0 for look in run.heard.of(Decoded))


def test_a_run_resumes_exactly(bench, tmp_path):
    tensors, moments = stopped_and_resumed(bench, GRU, tmp_path)
    assert any(name.startswith("recurrent.gru.") for name in tensors)
    assert any(name.startswith("recurrent.gru.") for name in moments)


def test_the_next_stage_takes_it_over_with_its_moments(bench):
    state = bench(*GRU).trainer.state
    state.model.loss(*state.train_sentences.batch([0, 1], CPU))[0].backward()
    state.optimizer.step()
    before = [{name: value.clone() for name, value in part.items()} for part in state.tensors()]
    changes.enter_next_stage(state)
    for old, new in zip(before, state.tensors(), strict=True):
        assert old.keys() == new.keys() and all(torch.equal(old[name], new[name]) for name in old)
