"""The shared rule in a model and in training: its start, its optimizer, its gradients, and what does not change without it."""

from __future__ import annotations

import pytest
import torch

from lattice.model.cell_rule import CellRule
from lattice.model.text_lattice import TextLattice
from lattice.optimizers.groups import groups
from lattice.random_streams import generator
from monitors.events import Trained
from presets.rule_size import rule_size
from tests.lattice.conftest import stopped_and_resumed

CPU = torch.device("cpu")
each_kind = pytest.mark.parametrize("kind", ["linear", "mlp"])


def model(config) -> TextLattice:
    return TextLattice(config, 0, 512, CPU)


# The start


@pytest.mark.parametrize("hidden", [0, 32])
def test_a_rule_starts_at_zero_if_ports_touch_all_channels(hidden):
    rule = CellRule(12, hidden, generator(0, "rule"))
    numbers = rule()
    assert numbers.numbers.shape == (rule_size(12, hidden),)
    x = torch.randn(2, 3, 3, 24, 4, generator=generator(0, "x"))
    assert torch.equal(numbers(x), torch.zeros_like(x))


def test_a_hidden_layer_starts_as_documented():
    rule = CellRule(16, 128, generator(0, "rule"), port_channels=8)
    assert rule.first.std().item() == pytest.approx((2 / 32) ** 0.5, rel=0.05)
    assert rule.first_bias.std().item() == pytest.approx(0.1, rel=0.2)
    free = rule.second[16 + 8 :]
    assert free.std().item() == pytest.approx(128**-0.5, rel=0.1)
    assert not rule.second[: 16 + 8].any() and not rule.second_bias.any()


@each_kind
def test_the_model_without_a_rule_is_that_of_before_and_a_rule_draws_from_a_stream_of_its_own(config_of, kind):
    plain, ruled = model(config_of()), model(config_of(f"rule.kind={kind}"))
    before, after = plain.state_dict(), ruled.state_dict()
    assert not any("rule" in name for name in before)
    assert {name for name in after if name not in before} == {
        f"lattice.rule.{name}" for name, _ in ruled.lattice.rule.named_parameters()
    }
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


# Learning


@each_kind
@pytest.mark.parametrize("optimizer", ["adamw", "lion"])
def test_a_rule_learns_by_adamw_at_the_full_rate_without_weight_decay(bench, kind, optimizer):
    trainer = bench(
        f"rule.kind={kind}", f"optimizer.name={optimizer}", "optimizer.warmup_steps=0", "optimizer.clip=1000"
    ).trainer
    (group,) = [group for group in trainer.state.optimizer.param_groups if group["part"] == "rule"]
    rule = trainer.state.model.lattice.rule
    assert [id(p) for p in group["params"]] == [id(p) for p in rule.parameters()]
    assert group["weight_decay"] == 0
    last = rule.second if kind == "mlp" else rule.first
    trainer.step(list(range(16)))
    # AdamW's first step moves each parameter by the rate, which warms up to its peak at once.
    assert last.abs().max().item() == pytest.approx(3e-3, rel=1e-2)
    assert set(trainer.state.optimizer.state[last]) == {"step", "exp_avg", "exp_avg_sq"}


def test_every_parameter_is_in_exactly_one_group(config_of):
    whole = model(config_of("rule.kind=mlp", "stages.0.clustering.clusters=3"))
    held = [id(p) for group in groups(whole, 0.01) for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in whole.parameters())


@each_kind
def test_frozen_cells_freeze_the_rule(bench, kind):
    trainer = bench(f"rule.kind={kind}", "lattice.cells=frozen").trainer
    assert "rule" not in [group["part"] for group in trainer.state.optimizer.param_groups]
    rule = trainer.state.model.lattice.rule
    before = rule().numbers.clone()
    trainer.step(list(range(16)))
    assert torch.equal(rule().numbers, before)
    assert all(p.grad is None for p in rule.parameters())


@each_kind
@pytest.mark.parametrize("kernel", ["native", "reference"])
def test_micro_batches_add_up_to_the_gradient_of_the_batch(bench, kind, kernel):
    found = []
    for size in (16, 4):
        trainer = bench(
            f"rule.kind={kind}", f"run.kernel={kernel}", "training.batch=16", f"training.micro_batch={size}"
        ).trainer
        rule = trainer.state.model.lattice.rule
        with torch.no_grad():
            for p in rule.parameters():
                p.copy_(0.1 * torch.randn(p.shape, generator=generator(0, "drawn")))
        trainer.step(list(range(16)))
        found.append(torch.cat([p.grad.flatten() for p in rule.parameters()]))
    assert found[0].abs().max() > 0
    assert (found[0] - found[1]).abs().max() <= 1e-4 * found[0].abs().max()


@each_kind
def test_each_cell_draws_a_rule_of_its_own(kind, config_of):
    ruled = model(config_of(f"rule.kind={kind}", "rule.scope=cell", "lattice.port_channels=4")).lattice
    (x, y, z), numbers = ruled.topology.shape, ruled.rule().numbers
    assert numbers.shape == (x, y, rule_size(12, 0 if kind == "linear" else 32), z)
    assert (numbers[0, 0, :, 0] - numbers[0, 0, :, 1]).abs().max() > 0
    last = ruled.rule.second if kind == "mlp" else ruled.rule.first
    assert not last[:, :, : 12 + 4].any() and last[:, :, 12 + 4 :].all()


@each_kind
def test_a_resumed_run_whose_cells_have_rules_equals_the_uninterrupted_one(bench, kind, tmp_path):
    for tensors in stopped_and_resumed(bench, (f"rule.kind={kind}", "rule.scope=cell"), tmp_path):
        assert any("lattice.rule.first" in name for name in tensors)


@each_kind
def test_a_resumed_run_with_a_growth_equals_the_uninterrupted_one(bench, kind, tmp_path):
    for tensors in stopped_and_resumed(bench, (f"rule.kind={kind}",), tmp_path):
        assert any("lattice.rule.first" in name for name in tensors)


def test_native_and_reference_give_the_same_losses_in_training(bench):
    losses = []
    for kernel in ("native", "reference"):
        run = bench("rule.kind=mlp", f"run.kernel={kernel}", "stages.0.steps=4", "stages.1.steps=1", "optimizer.warmup_steps=1")
        run.trainer.run()
        losses.append([event.loss for event in run.heard.of(Trained)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_a_checkpoint_without_a_rule_does_not_fit_a_model_with_one(config_of):
    from lattice.model.text_lattice import load_model

    why = r"does not fit this config: lattice\.rule\.first is %s; rule\.kind, rule\.hidden or rule\.scope is not what"
    linear, none = (model(config_of(f"rule.kind={kind}")) for kind in ("linear", "none"))
    with pytest.raises(ValueError, match=why % "missing in it and 24x24 here"):
        load_model(linear, none.state_dict())
    with pytest.raises(ValueError, match=why % "24x24 in it and missing here"):
        load_model(none, linear.state_dict())
