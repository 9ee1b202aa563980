"""Tests of rewiring: which connections go and come, that those that stay are untouched, and that such a run resumes exactly."""

from __future__ import annotations

import pytest
import torch

from lattice.kernels import propagate
from lattice.kernels.sparse import Pattern, tile_means
from lattice.plasticity.products import present
from lattice.training import changes, checkpoint, rewiring
from lattice.training.callbacks import Callback
from lattice.training.checkpointer import Checkpointer
from lattice.training.rewiring import correlations, fan_in, gradients, rewire
from monitors.events import Rewired, StageStarted, Trained
from presets.layers import ConfigError, load
from tests.lattice.conftest import StopAt

OFFSETS, KEPT = 28, 8
"""Connections per cell of the tiny preset: in all, and kept at sparsity 0.7."""

SPARSE = ("stages.0.sparsity=0.7", "stages.1.sparsity=0.7")
OFTEN = ("stages.0.rewiring.every=2", "stages.1.rewiring.every=2")


def regrowing(by: str) -> tuple[str, ...]:
    return (*SPARSE, *OFTEN, f"stages.0.rewiring.regrow={by}", f"stages.1.rewiring.regrow={by}")


def trained(bench, *settings: str, steps: int = 3):
    trainer = bench(*settings).trainer
    for step in range(steps):
        trainer.step(list(range(32 * step, 32 * step + 32)))
        trainer.state.progress.step, trainer.state.progress.stage_step = step + 1, step + 1
    return trainer


# What goes and what comes


@pytest.mark.parametrize("by", ["activity", "gradient", "random"])
def test_the_weakest_give_way_to_as_many_others_and_all_else_stays_exactly_as_it_was(bench, by):
    trainer = trained(bench, *regrowing(by))
    lattice = trainer.state.model.lattice
    state = trainer.state.optimizer.state[lattice.weights]
    old, weights = lattice.pattern, lattice.dense()
    moments = [old.expand(state[name]) for name in ("exp_avg", "exp_avg_sq")]
    strength = (tile_means(weights.abs()) * rewiring.shares(lattice.topology, weights.device)).masked_fill_(~old.tiles, 9)
    weakest = rewiring.highest(-strength, 3)
    changed = rewire(trainer.state, KEPT, 3)
    new, depth = lattice.pattern, lattice.topology.shape[2]
    assert set(new.tiles.sum(0).flatten().tolist()) == {KEPT}
    assert (old.tiles & ~new.tiles).equal(weakest)
    both = old.mask(depth) & new.mask(depth)
    assert lattice.dense().equal(weights * both)
    state = trainer.state.optimizer.state[lattice.weights]
    for name, moment in zip(("exp_avg", "exp_avg_sq"), moments, strict=True):
        assert state[name].shape == lattice.weights.shape and new.expand(state[name]).equal(moment * both)
    exists = present(lattice.topology, slice(None))
    assert changed.pruned == int((old.mask(depth) & ~new.mask(depth) & exists).sum())
    assert changed.regrown == int((new.mask(depth) & ~old.mask(depth) & exists).sum())
    counts = (new.mask(depth) & exists).sum(0)
    assert changed.fan_in == tuple(torch.bincount(counts.flatten()).tolist())
    assert changed.sparsity == pytest.approx(1 - KEPT / OFFSETS)
    trainer.step(list(range(32)))
    assert (lattice.dense() != 0).sum() > (weights * both != 0).sum()  # what regrew learns


def test_no_tile_keeps_a_connection_over_a_wall_while_it_lacks_one_to_a_cell(bench):
    for trainer in (bench(*SPARSE).trainer, bench(*regrowing("random")).trainer):
        rewire(trainer.state, KEPT, 3)
        lattice = trainer.state.model.lattice
        leads = rewiring.shares(lattice.topology, lattice.weights.device) > 0
        wasted = (lattice.pattern.tiles & ~leads).sum(0)
        assert not (wasted.bool() & (leads & ~lattice.pattern.tiles).any(0)).any()


def test_new_connections_are_zero_with_a_drawn_sign_and_positive_in_an_excitatory_lattice(bench):
    for settings, wanted in (((), 0.5), (("connections.excitatory=true",), 0.0)):
        trainer = bench(*regrowing("random"), *settings).trainer
        lattice = trainer.state.model.lattice
        old = lattice.pattern
        rewire(trainer.state, KEPT, 3)
        fresh = lattice.weights[lattice.pattern.take(~old.mask(lattice.topology.shape[2]))]
        assert fresh.numel() == 3 * lattice.topology.cells and not fresh.any()
        assert torch.signbit(fresh).float().mean().item() == pytest.approx(wanted, abs=0.1 * (wanted > 0))


def test_a_target_that_rises_and_falls_adds_and_drops_connections_with_their_moments(bench):
    trainer = trained(bench, *SPARSE)
    lattice, depth = trainer.state.model.lattice, 6
    first, weights = lattice.pattern, lattice.dense()
    rewire(trainer.state, 20)
    assert len(lattice.weights) == 20 and lattice.dense().equal(weights)
    rewire(trainer.state, OFFSETS)
    assert lattice.pattern is None and lattice.weights.equal(weights)
    moments = trainer.state.optimizer.state[lattice.weights]
    assert moments["exp_avg"].shape == lattice.weights.shape
    trainer.step(list(range(32)))
    rewire(trainer.state, 4)
    moments = trainer.state.optimizer.state[lattice.weights]
    assert len(lattice.weights) == len(moments["exp_avg"]) == 4
    assert moments["exp_avg_sq"].any() and not lattice.pattern.mask(depth).equal(first.mask(depth))


def test_connections_within_a_cluster_are_dropped_last_where_they_are_protected(bench):
    clustered = ("stages.0.clustering.clusters=2", "stages.0.rewiring.protect_clusters=true")
    free, guarded = (bench(*SPARSE, *settings).trainer.state.model.lattice for settings in (clustered[:1], clustered))
    same = rewiring.shares(guarded.topology, guarded.weights.device, guarded.labels) > 0.5
    kept, could = (guarded.pattern.tiles & same).sum(0), same.sum(0).clamp(max=KEPT)
    assert kept.equal(could) and (free.pattern.tiles & same).sum() < kept.sum()


def test_weights_that_are_not_finite_are_the_first_to_go(bench):
    trainer = trained(bench, *SPARSE)
    lattice = trainer.state.model.lattice
    with torch.no_grad():
        lattice.weights[2, 1, 1] = float("nan")
        lattice.weights[4, 2, 1] = float("inf")
    rewire(trainer.state, KEPT - 1)
    assert lattice.weights[:, 1, 1].isfinite().all() and lattice.weights[:, 2, 1].isfinite().all()


# Where they grow


@pytest.mark.parametrize("kernel", ["auto", "reference"])
def test_the_gradient_of_an_absent_connection_is_that_of_the_dense_lattice(bench, kernel):
    trainer = trained(bench, *regrowing("gradient"), f"run.kernel={kernel}")
    lattice, model = trainer.state.model.lattice, trainer.state.model
    own = lattice.weights
    found = gradients(trainer.state)
    assert lattice.weights is own and own.grad is None
    dense = lattice.dense().requires_grad_()
    total = 0.0
    for source, begun, ended in rewiring._probe(trainer.state):
        drive = model.input_port.drive(model.encoder(source))
        state = propagate(drive, dense, lattice.cells, lattice.topology, lattice.ticks)
        logits = model.decoder(model.output_port.read(state[..., -1]), begun)
        total = total + torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), ended.flatten(), ignore_index=0, reduction="sum"
        )
    (grad,) = torch.autograd.grad(total, [dense])
    wanted = tile_means(grad.abs()).masked_fill_(lattice.pattern.tiles, 0)
    assert wanted.max() > 0 and torch.allclose(found, wanted, rtol=1e-3, atol=1e-4 * float(wanted.max()))


@pytest.mark.parametrize("size", [0, 1])
def test_activity_scores_are_the_correlations_of_the_two_cells_states_over_sentences(bench, size):
    trainer = trained(bench, *regrowing("activity"), f"training.micro_batch={size}", steps=1)
    lattice, found = trainer.state.model.lattice, correlations(trainer.state)
    state = torch.cat([trainer.state.model.state(source) for source, _, _ in rewiring._probe(trainer.state)])
    centred = (state - state.mean(0)).permute(0, 3, 1, 2, 4).flatten(0, 1)
    x, y, z = lattice.topology.shape
    for k, (dx, dy, dz) in list(enumerate(lattice.topology.offsets))[::5]:
        at, total = (1, 2), []
        for cell in range(z):
            there = (at[0] + dx, at[1] + dy, cell + dz)
            inside = all(0 <= p < size for p, size in zip(there, (x, y, z), strict=True))
            pair = (centred[:, at[0], at[1], cell], centred[:, *there]) if inside else None
            total.append(abs(torch.nn.functional.cosine_similarity(*pair, dim=0, eps=0).item()) if pair else 0.0)
        assert found[k, *at, 0].item() == pytest.approx(sum(total) / z, abs=1e-4)


def test_regrowth_takes_the_best_scored_of_the_absent_and_never_what_was_dropped_a_moment_ago(bench, monkeypatch):
    trainer = bench(*regrowing("gradient")).trainer
    old = trainer.state.model.lattice.pattern.tiles
    leads = rewiring.shares(trainer.state.model.lattice.topology, trainer.state.device) > 0
    score = torch.rand(old.shape, generator=torch.Generator().manual_seed(3))
    monkeypatch.setattr(rewiring, "gradients", lambda state: score.clone())
    rewire(trainer.state, KEPT, 3)
    new = trainer.state.model.lattice.pattern.tiles
    best = rewiring.highest(torch.where(old | ~leads, -1.0, score), 3)
    enough = (leads & ~old).sum(0) >= 3
    assert enough.any() and (new & ~old)[:, enough].equal(best[:, enough])


# In a run


@pytest.mark.parametrize("at", [3, 4, 7])
@pytest.mark.parametrize("by", ["activity", "gradient", "random"])
def test_a_run_that_rewires_resumes_exactly(bench, tmp_path, by, at):
    settings = (*regrowing(by), "stages.0.rewiring.prune_at=4", "connections.learning=hybrid", "plasticity.rate=0.01")
    whole = bench(*settings, callbacks=[Checkpointer(tmp_path / "whole", "data")])
    whole.trainer.run()
    part = bench(*settings, callbacks=[Checkpointer(tmp_path / "part", "data"), StopAt(at)])
    assert part.trainer.run() == "stopped"
    Checkpointer(tmp_path / "part", "data").save(part.trainer.state)
    saved, _ = checkpoint.load_newest(tmp_path / "part")
    again = bench(*settings)
    changes.resume(again.trainer.state, saved.model, saved.optimizer, saved.state)
    assert again.trainer.run() == "finished"
    for one, other in zip(again.trainer.state.tensors(), whole.trainer.state.tensors(), strict=True):
        assert one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)
    told = [(e.step, e.pruned, e.regrown, e.fan_in) for e in whole.heard.of(Rewired)]
    retold = [(e.step, e.pruned, e.regrown, e.fan_in) for e in again.heard.of(Rewired)]
    assert any(pruned and regrown for _, pruned, regrown, _ in told) and retold == told[-len(retold) :]


def test_rewirings_come_in_their_rhythm_and_drop_fewer_and_fewer(bench):
    few = ("stages.0.steps=20", "stages.0.rewiring.every=4", "stages.0.rewiring.share=0.5", "stages.0.rewiring.regrow=random")
    run = bench(*SPARSE, *few)
    run.trainer.run()
    first, *later = [event for event in run.heard.of(Rewired) if event.stage == 0]
    assert (first.step, first.regrown) == (0, 0) and first.pruned > 0
    assert [event.step for event in later] == [4, 8, 12, 16][: len(later)] and len(later) >= 3
    stage = run.trainer.state.config.stages[0]
    counts = [rewiring.dropped(stage, step, 100) for step in (4, 8, 12, 16, 20)]
    assert counts == sorted(counts, reverse=True) and counts[0] == 45 and counts[-1] == 0
    assert run.heard.events.index(first) > run.heard.events.index(run.heard.of(StageStarted)[0])


def test_without_regrowth_the_pattern_stays_and_frozen_connections_are_not_rewired(bench):
    for settings in ((*SPARSE, *OFTEN), (*regrowing("random"), "stages.0.profile=freeze", "stages.1.profile=freeze")):
        run = bench(*settings)
        run.trainer.run()
        assert [event.step for event in run.heard.of(Rewired)] == [0, 6]


def test_a_target_of_a_later_step_is_reached_in_four_prunings(bench):
    class Kept(Callback):
        def __init__(self) -> None:
            self.counts: list[int] = []

        def after_step(self, state) -> None:
            self.counts.append(len(state.model.lattice.weights))

    kept = Kept()
    run = bench(*SPARSE, "stages.0.steps=12", "stages.0.rewiring.prune_at=8", callbacks=[kept])
    run.trainer.run()
    assert kept.counts[:12] == [28, 17, 17, 11, 11, 9, 9, 8, 8, 8, 8, 8]
    assert kept.counts[12] == 8  # the next stage prunes at its start
    assert [event.step for event in run.heard.of(Rewired)] == [2, 4, 6, 8, 12]


def test_moments_follow_their_connections_into_a_stage_of_the_same_topology(bench):
    stage = '{name="%s", shape=[4,4,20], ticks=12, strides={z=[2]}, steps=3, sparsity=%s}'
    stages = "stages=[{}, {}]".format(stage % ("a", 0.5), stage % ("b", 0.7))
    run = bench(stages, "optimizer.warmup_steps=0")
    trainer = run.trainer
    assert trainer._run_stage() == "steps"
    before = trainer.state.model.lattice.pattern.expand(
        trainer.state.optimizer.state[trainer.state.model.lattice.weights]["exp_avg"]
    )
    changes.enter_next_stage(trainer.state)
    lattice = trainer.state.model.lattice
    after = trainer.state.optimizer.state[lattice.weights]["exp_avg"]
    assert len(after) == 8 and after.any() and lattice.pattern.expand(after).equal(before * lattice.pattern.mask(20))


def test_a_checkpoint_with_the_index_of_another_lattice_is_refused(bench, tmp_path):
    run = bench(*SPARSE, callbacks=[Checkpointer(tmp_path, "data"), StopAt(3)])
    run.trainer.run()
    saved, _ = checkpoint.load_newest(tmp_path)
    wrong = saved.model | {"lattice.index": saved.model["lattice.index"] + 26}
    with pytest.raises(ValueError, match=r"lattice.index is of another lattice"):
        changes.resume(bench(*SPARSE).trainer.state, wrong, saved.optimizer, saved.state)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_rewires_by_gradient_and_trains_on(bench, precision):
    run = bench(*regrowing("gradient"), f"run.precision={precision}", "run.kernel=reference")
    assert run.trainer.run() == "finished"
    assert any(event.regrown for event in run.heard.of(Rewired))
    assert all(event.loss == event.loss for event in run.heard.of(Trained))


# Bad input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["stages.0.sparsity=0.95"], r"keeps 1 of 28 connections per cell, fewer than rewiring.min_fan_in 3; use 0.89 or less"),
        (["stages.0.rewiring.min_fan_in=29"], r"29 is more than the 28 connections of a cell"),
        (["stages.0.rewiring.prune_at=9"], r"9 is past the stage's 6 steps"),
        (["stages.0.rewiring.protect_clusters=true"], r"there are no clusters to protect"),
        (["stages.0.rewiring.regrow=random", "connections.learning=frozen"], r"would stay with connections.learning = frozen"),
        (["stages.0.rewiring.share=0.6"], r"less than or equal to 0.5"),
    ],
)
def test_what_can_not_work_is_refused_with_what_would(config_of, settings, message):
    with pytest.raises(ConfigError, match=message):
        config_of("stages.0.steps=6", *settings)


def test_the_sparsity_that_the_refusal_names_is_accepted_and_keeps_the_minimum(config_of):
    assert config_of("stages.0.sparsity=0.89").stages[0].kept() == 3
    for name in ("baseline", "progressive", "large"):
        for stage in load(name).config.stages:
            assert stage.kept() >= stage.rewiring.min_fan_in


def test_fan_in_counts_no_connection_over_a_wall(bench):
    lattice = bench().trainer.state.model.lattice
    everything, exists = torch.ones(OFFSETS, 4, 4, 1, dtype=torch.bool), present(lattice.topology, slice(None))
    assert fan_in(everything, lattice.topology).equal(exists.sum(0))
    half = everything.clone()
    half[::2] = False
    assert fan_in(half, lattice.topology).equal((exists & Pattern.of_tiles(half).mask(6)).sum(0))
