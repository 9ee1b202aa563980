"""`experiment heal`: pairs within a seed, the model intact after each method, and what the table says."""

from __future__ import annotations

import json

import pytest
import torch

from app.experiments.experiment import Arm, choose
from app.experiments.healing_methods import METHODS, Patient, gradient, offset_mean
from lattice.data.batches import TokenizedCorpus
from lattice.data.corpus import Corpus, Pair
from lattice.data.grammar import generate
from lattice.healing.wounding import Lost
from lattice.training.build import build_trainer
from presets.layers import load

SMALL = (
    "--preset", "tiny", "--set", "run.threads=1", "--steps", 8, "--set", "optimizer.warmup_steps=2",
)  # fmt: skip


@pytest.fixture
def state():
    """A fresh lattice whose connections do not learn, and 30 sentences."""
    pairs = tuple(Pair(text, text) for text in generate(40, seed=1))
    config = load("tiny", None, ["connections.learning=frozen"]).config
    text = TokenizedCorpus.of(Corpus("generated", pairs[:30], pairs[30:], {}), config)
    return build_trainer(config, text, torch.device("cpu")).state


@pytest.fixture(scope="module")
def found(cli, sentences, tmp_path_factory):
    """(the JSON of one seed with two wounds and all methods, the results file, the command)."""
    place = tmp_path_factory.mktemp("heal")
    call = ("experiment", "heal", *SMALL, "--data", sentences, "--seeds", 1, "--waves", 3, "--out", place / "out.jsonl")
    call = (*call, "--wound", "connections:0.5", "--wound", "shuffle:0.5")
    told = cli(*call, "--json")
    assert told.code == 0, told.err
    return told.json, place, call


def test_every_method_meets_every_wound_and_starts_from_the_same_one(found):
    scores = found[0]["arms"][0]["runs"][0]["scores"]
    assert scores[0]["wound"] == scores[0]["method"] == "intact"
    for what in ("connections:0.5", "shuffle:0.5"):
        own = [row for row in scores if row["wound"] == what]
        assert list(dict.fromkeys(row["method"] for row in own)) == ["none", *METHODS]
        assert [row["waves"] for row in own if row["method"] == "stdp"] == [1, 3]
    fill = [row["waves"] for row in scores if row["method"] == "offset mean"]
    assert fill == [1, 0]  # nothing is known to be lost after a shuffle
    assert (found[0]["effects"][0]["wound"], found[0]["effects"][0]["method"]) == ("connections:0.5", "neighbours")


def test_a_second_call_takes_all_from_the_file_and_draws(cli, found):
    _, place, call = found
    before = (place / "out.jsonl").read_bytes()
    told = cli(*call, "--plot", place / "healing.png")
    assert told.code == 0 and "already in the results file" in told.err
    assert (place / "out.jsonl").read_bytes() == before and json.loads(before)["healed"]
    assert (place / "healing.png").read_bytes().startswith(b"\x89PNG")
    assert all(method in told.out for method in METHODS) and "shuffle:0.5" in told.out
    assert max(map(len, told.out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--wound", "legs:1"], "is no wound"),
        (["--wound", "block:99"], "does not fit"),
        (["--methods", "prayer"], "stdp everywhere"),
        (["--set", "lattice.arm=identity"], "no lattice"),
        (["--arm", "none lattice.arm=identity"], "no lattice"),
    ],
)
def test_what_can_not_be_is_refused_before_it_trains_for_nothing(cli, sentences, options, says):
    told = cli("experiment", "heal", *SMALL, "--data", sentences, "--seeds", 1, *options)
    assert told.code == 2 and says in told.err and "Traceback" not in told.err and "runs to train" not in told.err


def test_every_method_can_be_chosen_by_its_name():
    for name in METHODS:
        assert [arm.name for arm in choose([Arm(method) for method in METHODS], name, [])] == [name]


def test_an_offset_without_a_survivor_is_filled_with_nothing(state):
    weights = state.lattice.weights.data
    lost = torch.zeros_like(weights, dtype=torch.bool)
    lost[0], lost[1, 0] = True, True
    weights.masked_fill_(lost, 0.0)
    list(offset_mean(Patient(state.config, state.model, state.train_sentences, Lost(lost, 0, 0), 0, 8), 1))
    assert not weights[0].any() and weights.isfinite().all()
    torch.testing.assert_close(weights[1, 0], weights[1, 1:].mean().expand_as(weights[1, 0]))


def test_the_gradient_learns_from_the_labels(state):
    patient = Patient(state.config, state.model, state.train_sentences, Lost(None, 0, 0), 0, 8)
    before = state.lattice.weights.detach().clone()
    assert len(list(gradient(patient, 2))) == 2
    assert (state.lattice.weights != before).any() and not state.lattice.weights.requires_grad
    assert all(parameter.grad is None for parameter in state.model.parameters())
