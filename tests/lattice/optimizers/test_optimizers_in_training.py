"""Each optimizer in a run: what it keeps is what the plan counts, and a resumed run equals the uninterrupted one."""

from __future__ import annotations

import pytest
import torch

from lattice.optimizers.partwise import PartWise
from lattice.training.rewiring import change_pattern
from monitors.events import Trained
from presets.layers import load
from presets.optimizer_state import state_bytes, tensor_rank
from tests.lattice.conftest import stopped_and_resumed

OPTIMIZERS = {
    "adamw": (),
    "galore": ("optimizer.name=galore", "optimizer.gap=2"),
    "galore by rank": ("optimizer.name=galore", "optimizer.tensor_rank=3"),
    "galore by budget": ("optimizer.name=galore", "optimizer.tensor_budget_gb=2e-5"),
    "adam8bit": ("optimizer.name=adam8bit",),
    "adafactor": ("optimizer.name=adafactor",),
    "adafactor with momentum": ("optimizer.name=adafactor", "optimizer.momentum=bf16"),
    "lion": ("optimizer.name=lion",),
}
CLUSTERS = tuple(f"stages.{i}.clustering.clusters=3" for i in (0, 1))
RULE = ("rule.kind=mlp",)
PRUNED = tuple(f"stages.{i}.sparsity=0.5" for i in (0, 1))
UNCOUNTED = ("/step", "/retained")

each_optimizer = pytest.mark.parametrize("settings", OPTIMIZERS.values(), ids=OPTIMIZERS)


def kept(trainer) -> dict[str, torch.Tensor]:
    return {name: value for name, value in trainer.state.tensors()[1].items() if name.startswith("lattice.")}


@each_optimizer
def test_the_plan_counts_every_byte_that_is_kept(bench, settings):
    trainer = bench(*settings, *CLUSTERS, *PRUNED, *RULE).trainer
    trainer.step(list(range(16)))
    found = sum(value.nbytes for name, value in kept(trainer).items() if not name.endswith(UNCOUNTED))
    lattice = trainer.state.model.lattice
    assert found == state_bytes(trainer.state.config, trainer.state.stage, len(lattice.weights))
    text = sum(p.numel() for name, p in trainer.state.model.named_parameters() if not name.startswith("lattice."))
    assert trainer.state.plan.components["optimizer"] == found + 8 * text


@each_optimizer
def test_a_resumed_run_with_pruning_and_rewiring_equals_the_uninterrupted_one(bench, settings, tmp_path):
    rewiring = [f"stages.{i}.rewiring.{setting}" for i in (0, 1) for setting in ("every=3", "regrow=random")]
    settings = (*settings, *CLUSTERS, *PRUNED, *RULE, *rewiring)
    stopped_and_resumed(bench, settings, tmp_path)


@pytest.mark.slow
@each_optimizer
def test_it_learns(bench, settings):
    run = bench(*settings, "stages.0.steps=60", "stages.1.steps=1")
    run.trainer.run()
    losses = [event.loss for event in run.heard.of(Trained)]
    assert sum(losses[55:60]) / 5 < losses[0] - 1


@pytest.mark.parametrize("name", ["lion", "adam8bit"])
def test_moments_follow_their_connections_where_these_are_rewired(bench, name):
    trainer = bench(f"optimizer.name={name}", *PRUNED).trainer
    trainer.step(list(range(16)))
    lattice = trainer.state.model.lattice
    old, rule = lattice.pattern, trainer.state.optimizer.rules["connections"]

    def momentum() -> torch.Tensor:
        state = trainer.state.optimizer.state[lattice.weights]
        if name == "lion":
            return state["exp_avg"].float()
        from lattice.optimizers.adam8bit import decoded_signed

        flat = decoded_signed(state["exp_avg"], state["exp_avg_scale"]).flatten()
        return flat[: lattice.weights.numel()].view(lattice.weights.shape)

    before = old.expand(momentum())
    tiles = old.tiles.clone()
    tiles[:10] = ~tiles[:10]
    fewer = tiles & (tiles.cumsum(0) <= int(tiles.sum(0).min()))
    change_pattern(trainer.state, type(old).of_tiles(fewer))
    both = old.mask(lattice.topology.shape[2]) & lattice.pattern.mask(lattice.topology.shape[2])
    after = lattice.pattern.expand(momentum())
    assert both.any() and rule is trainer.state.optimizer.rules["connections"]
    torch.testing.assert_close(after[both], before[both], rtol=0.1, atol=0.02 * float(before.abs().max()))
    assert (after[~both] == 0).all()
    trainer.step(list(range(16)))


def test_a_budget_is_kept_and_nearly_used():
    config = load("small", None, ["optimizer.name=galore", "optimizer.tensor_budget_gb=0.01"]).config
    stage = config.stages[0]
    offsets = len(stage.topology("walls").offsets)
    assert 0.95e7 < state_bytes(config, stage, offsets) <= 1e7
    assert 0 < tensor_rank(config, stage) < 1


def test_text_and_ports_learn_by_adamw_whatever_the_lattice_learns_by(bench):
    runs = [bench(*OPTIMIZERS[name]).trainer for name in ("adamw", "lion")]
    for trainer in runs:
        trainer.step(list(range(16)))
    assert isinstance(runs[1].state.optimizer, PartWise)
    plain, other = (trainer.state.model.state_dict() for trainer in runs)
    shared = [name for name in plain if not name.startswith("lattice.")]
    assert shared and all(torch.equal(plain[name], other[name]) for name in shared)
    assert not torch.equal(plain["lattice.cells"], other["lattice.cells"])
