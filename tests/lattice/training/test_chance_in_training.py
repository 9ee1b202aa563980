"""Stochastic updates and wounds in a run: the same chance in micro-batches, segments and resumed runs, and in evaluations."""

from __future__ import annotations

import pytest
import torch

from lattice.data.batches import Sentences
from lattice.observing.decode_monitor import DecodeMonitor
from lattice.observing.scoring import held_out_loss, say
from lattice.training.gradients import gradients
from lattice.training.rewiring import correlations
from monitors.events import Plastic, Trained
from tests.lattice.conftest import stopped_and_resumed

TIME = (
    "text.reading=time", "text.lag=4", "lattice.channels=6", "lattice.port_channels=4", "lattice.norm_epsilon=1.0",
    "stages.0.ticks=8", "stages.1.ticks=8", "stages.0.strides.z=[3]", "stages.1.strides.z=[3]",
)  # fmt: skip
CHANCE = ("rule.update_probability=0.5", "training.wounds=0.5")
READINGS = pytest.mark.parametrize("reading", [(), TIME], ids=["face", "time"])


def after(bench, steps: int, *settings: str) -> dict[str, torch.Tensor]:
    """The model's tensors after so many steps."""
    run = bench(*settings)
    for step in range(steps):
        run.trainer.step(list(range(16 * step, 16 * step + 16)))
        run.trainer.state.progress.advance()
    return {name: tensor.clone() for name, tensor in run.trainer.state.model.state_dict().items()}


@READINGS
def test_a_resumed_run_equals_an_uninterrupted_one(bench, reading, tmp_path):
    stopped_and_resumed(bench, (*reading, *CHANCE, "training.checkpoint_ticks=3", "training.micro_batch=8"), tmp_path)


def gradients_of(bench, *settings: str) -> dict[str, torch.Tensor]:
    """The gradients of a batch of 16 sentences."""
    state = bench(*settings).trainer.state
    gradients(state, list(range(16)))
    return {name: tensor.grad.clone() for name, tensor in state.model.named_parameters() if tensor.grad is not None}


@READINGS
def test_micro_batches_of_any_size_give_the_gradients_of_the_whole_batch(bench, reading):
    settings = (*reading, *CHANCE)
    whole, *parts = (gradients_of(bench, *settings, f"training.micro_batch={size}") for size in (16, 4, 1))
    for part in parts:
        for name, gradient in whole.items():
            torch.testing.assert_close(part[name], gradient, rtol=0, atol=1e-4 * float(gradient.abs().max()), msg=name)
    # Other masks give others: the tolerance tells them apart.
    other, cells = gradients_of(bench, *settings, "rule.update_probability=0.51"), "lattice.cells"
    assert (other[cells] - whole[cells]).abs().max() > 0.01 * whole[cells].abs().max()


def test_each_part_of_a_batch_and_each_step_meets_its_own_chance(bench, monkeypatch):
    met, run = [], bench(*CHANCE, "training.micro_batch=4")
    lattice = run.trainer.state.model.lattice
    forward = lattice.forward
    monkeypatch.setattr(lattice, "forward", lambda *given: met.append(lattice.chance) or forward(*given))
    for _ in range(2):
        run.trainer.step(list(range(16)))
        run.trainer.state.progress.advance()
    assert [chance.first for chance in met] == [0, 4, 8, 12] * 2
    assert len({chance.key for chance in met[:4]}) == len({chance.key for chance in met[4:]}) == 1
    assert met[0].key != met[4].key and all((c.wounds, c.wound_size) == (0.5, 0.25) for c in met)
    assert lattice.chance.wounds == 0 and lattice.chance.key not in {chance.key for chance in met}


@READINGS
def test_segments_give_the_same_bits(bench, reading):
    whole, parts = (after(bench, 3, *reading, *CHANCE, f"training.checkpoint_ticks={segment}") for segment in (0, 3))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.parametrize("setting", CHANCE)
def test_each_setting_changes_what_is_learned_and_its_default_changes_nothing(bench, setting):
    plain, changed = after(bench, 2), after(bench, 2, setting)
    assert not torch.equal(plain["lattice.cells"], changed["lattice.cells"])
    same = after(bench, 2, "rule.update_probability=1", "training.wounds=0")
    assert all(torch.equal(plain[name], same[name]) for name in plain)


def test_the_size_of_wounds_changes_what_is_learned(bench):
    small, large = (after(bench, 1, "training.wounds=1", f"training.wound_size={size}") for size in (0.1, 0.9))
    assert not torch.equal(small["lattice.cells"], large["lattice.cells"])


def test_an_evaluation_is_the_same_every_time_and_in_chunks_of_any_size_and_updates_by_chance_too(bench):
    run = bench("rule.update_probability=0.5")
    model, sentences, tokenizer = (
        run.trainer.state.model, run.trainer.state.valid_sentences, run.trainer.state.tokenizer
    )  # fmt: skip
    losses = [held_out_loss(model, sentences, list(range(20)), chunk) for chunk in (20, 20, 7, 1)]
    assert losses[0] == losses[1] and losses[2:] == pytest.approx([losses[0]] * 2, rel=1e-5)
    said = [say(model, sentences, list(range(6)), tokenizer, chunk) for chunk in (6, 6, 4)]
    assert said[0] == said[1] == said[2]
    with model.drawn(update_probability=1.0):
        assert held_out_loss(model, sentences, list(range(20)), 20) != losses[0]


def test_an_evaluation_wounds_nobody(bench):
    plain, wounded = bench().trainer.state, bench("training.wounds=1").trainer.state
    rows = list(range(8))
    assert held_out_loss(plain.model, plain.valid_sentences, rows, 8) == held_out_loss(
        wounded.model, wounded.valid_sentences, rows, 8
    )


def test_in_time_a_sentence_is_wounded_alike_whatever_longer_sentences_are_beside_it(bench):
    state = bench(*TIME).trainer.state
    rows = sorted(range(len(state.valid_sentences)), key=lambda i: len(state.valid_sentences._sources[i]))
    mixed: Sentences = state.valid_sentences
    short, both = mixed.batch([rows[0]], state.device)[0], mixed.batch([rows[0], rows[-1]], state.device)[0]
    assert both.shape[1] > short.shape[1]
    seen = set()
    for key in range(12):
        with state.model.drawn(key=key, wounds=1.0, wound_size=0.5), torch.no_grad():
            alone, beside = state.model.slots(short)[0], state.model.slots(both)[0]
        torch.testing.assert_close(alone, beside, atol=1e-5, rtol=0)
        seen.add(round(float(alone.sum()), 4))
    assert len(seen) > 3  # wounds differ, and are not all without effect


@pytest.mark.parametrize(
    "settings",
    [
        ("connections.learning=hybrid", "stages.0.waves=2"),
        ("connections.learning=hybrid", "plasticity.rule=three_factor"),
        ("stages.0.sparsity=0.5", "stages.0.rewiring.regrow=gradient", "stages.0.rewiring.every=2"),
        ("stages.0.clustering.clusters=3", "stages.0.clustering.every=2", "stages.1.clustering.clusters=3"),
        ("run.precision=bf16",),
        ("run.kernel=reference",),
        (*TIME, "rule.kind=mlp", "rule.hidden=8"),
    ],
    ids=["waves", "three factors", "rewired", "clustered", "bf16", "reference", "in time with a rule"],
)
def test_all_that_trains_trains_under_chance(bench, settings):
    run = bench(*settings, "rule.update_probability=0.8", "training.wounds=0.5", callbacks=[DecodeMonitor()])
    assert run.trainer.run() == "finished"
    losses = [event.loss for event in run.heard.of(Trained)]
    assert losses[-1] < losses[0]
    assert all(event.active_share is not None for event in run.heard.of(Plastic))


def test_what_regrowth_measures_does_not_depend_on_the_micro_batch(bench):
    found = []
    for size in (16, 4):
        state = bench(*CHANCE, f"training.micro_batch={size}", "stages.0.sparsity=0.5").trainer.state
        found.append(correlations(state))
    torch.testing.assert_close(*found, atol=1e-4, rtol=0)
