"""Plasticity in a run: who may change the connections, discovery before the first step, resuming, growing, what is told."""

from __future__ import annotations

import math

import pytest
import torch

from lattice.model.growth import carry_over, resample
from lattice.model.text_lattice import TextLattice
from lattice.observing.decode_monitor import DecodeMonitor
from lattice.observing.plasticity_monitor import PlasticityMonitor
from lattice.training import changes, checkpoint
from lattice.training.callbacks import Callback
from lattice.training.checkpointer import Checkpointer
from lattice.training.learning_rate import PROFILE_RATE
from monitors.events import Plastic, Trained, Warned
from presets.layers import ConfigError
from presets.plan import plan

ONE = 'stages=[{name="only", shape=[4,4,6], ticks=6, steps=3, strides={z=[2]}%s}]'
PLASTIC = ("connections.learning=plastic", "plasticity.rate=0.05")


class Steps(Callback):
    """Weights before the first step and after each, and the gradients of the connections."""

    def __init__(self) -> None:
        self.weights: list[torch.Tensor] = []
        self.gradients: list[torch.Tensor | None] = []

    def after_step(self, state) -> None:
        self.weights.append(state.model.lattice.weights.detach().clone())
        self.gradients.append(state.model.lattice.weights.grad)


class StopAfterWave(Callback):
    """Asks for a stop as soon as so many waves are done."""

    def __init__(self, trainer, waves: int) -> None:
        learn = trainer.state.model.lattice.learn

        def learned(rate: float) -> None:
            learn(rate)
            if trainer.state.progress.waves + 1 == waves:
                trainer.state.request_stop("test")

        trainer.state.model.lattice.learn = learned


def tensors(run) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in run.trainer.state.model.state_dict().items()}


def differing(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> list[str]:
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]


# Who may change the connections


def test_plastic_connections_change_by_the_rule_alone_and_never_by_the_gradient(bench):
    steps = Steps()
    run = bench(ONE % "", *PLASTIC, callbacks=[steps])
    start = tensors(run)
    run.trainer.run()
    assert steps.gradients == [None] * 3
    assert "connections" not in [group["part"] for group in run.trainer.state.optimizer.param_groups]
    assert "lattice.weights" in differing(start, tensors(run))
    still = bench(ONE % "", "connections.learning=plastic", "plasticity.rate=0", "plasticity.conserve=false")
    start = tensors(still)
    still.trainer.run()
    assert "lattice.weights" not in differing(start, tensors(still))


def test_hybrid_connections_change_by_both(bench):
    def after_one_step(*settings: str) -> torch.Tensor:
        run = bench(ONE.replace("steps=3", "steps=1") % "", "optimizer.warmup_steps=0", *settings)
        run.trainer.run()
        return run.trainer.state.model.lattice.weights.detach()

    start = bench(ONE % "").trainer.state.model.lattice.weights.detach()
    rule = ("plasticity.rate=0.05", "plasticity.conserve=false")
    gradient, both, alone = (after_one_step(f"connections.learning={how}", *rule) for how in ("gradient", "hybrid", "plastic"))
    # One step of each, one after the other: where no bound binds they add up.
    inside = (gradient.abs() > 0.2) & (torch.sign(gradient) == torch.sign(start))
    assert inside.float().mean() > 0.05
    torch.testing.assert_close(both[inside], (gradient + alone - start)[inside], rtol=1e-4, atol=1e-5)
    assert ((both - gradient)[inside].abs() > 1e-3).any() and not torch.equal(gradient, start)


@pytest.mark.parametrize("how", ["plastic", "hybrid"])
def test_the_profile_freeze_changes_nothing_that_is_plastic(bench, how):
    run = bench(ONE % ', profile="freeze"', f"connections.learning={how}", "plasticity.homeostasis=0.5")
    start = tensors(run)
    run.trainer.run()
    changed = differing(start, tensors(run))
    assert "lattice.cells" in changed
    assert [name for name in changed if name == "lattice.weights" or name.startswith("lattice.plasticity")] == []


@pytest.mark.parametrize("profile", ["discovery", "learning", "consolidation"])
def test_the_rate_of_plasticity_follows_the_profile(bench, monkeypatch, profile):
    run, rates = bench(ONE % f', profile="{profile}"', *PLASTIC), []
    monkeypatch.setattr(run.trainer.state.model.lattice, "learn", rates.append)
    run.trainer.run()
    assert rates == [0.05 * PROFILE_RATE[profile]] * 3


def test_decoding_teaches_nothing(bench):
    quiet, looking = (bench(ONE % "", *PLASTIC, "decode.every=1", callbacks=c) for c in ([], [DecodeMonitor()]))
    for run in (quiet, looking):
        run.trainer.run()
    assert differing(tensors(quiet), tensors(looking)) == []


def test_a_bad_step_teaches_nothing(bench, monkeypatch):
    run = bench(ONE.replace("steps=3", "steps=1") % "", *PLASTIC, "optimizer.warmup_steps=0")
    honest, start = run.trainer.state.model.loss, tensors(run)
    monkeypatch.setattr(run.trainer.state.model, "loss", lambda *batch: (honest(*batch)[0] * math.nan, 1))
    run.trainer.run()
    assert differing(start, tensors(run)) == []


def test_micro_batches_do_not_change_what_plasticity_does(bench):
    settings = (ONE % "", *PLASTIC, "plasticity.sentences=6")
    whole, parts = bench(*settings, "training.micro_batch=16"), bench(*settings, "training.micro_batch=4")
    for run in (whole, parts):
        run.trainer.run()
    torch.testing.assert_close(
        parts.trainer.state.model.lattice.weights, whole.trainer.state.model.lattice.weights, rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("rule", ["stdp", "bcm", "oja", "three_factor"])
def test_a_pruned_lattice_keeps_its_pattern_and_learns_under_every_rule(bench, rule):
    run = bench(ONE % ", sparsity=0.5", *PLASTIC, f"plasticity.rule={rule}")
    index = run.trainer.state.model.lattice.index.clone()
    start = run.trainer.state.model.lattice.weights.detach().clone()
    run.trainer.run()
    weights = run.trainer.state.model.lattice.weights.detach()
    assert torch.equal(run.trainer.state.model.lattice.index, index) and not torch.equal(weights, start)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_by_plasticity_too(bench, precision):
    run = bench(ONE % "", *PLASTIC, "plasticity.rule=three_factor", f"run.precision={precision}", "run.kernel=reference")
    full = bench(ONE % "", *PLASTIC, "plasticity.rule=three_factor", "run.kernel=reference")
    start = run.trainer.state.model.lattice.weights.detach().clone()
    for each in (run, full):
        each.trainer.run()
    moved, wanted = (each.trainer.state.model.lattice.weights.detach() - start for each in (run, full))
    assert torch.isfinite(moved).all() and moved.norm() == pytest.approx(float(wanted.norm()), rel=0.2)
    assert torch.nn.functional.cosine_similarity(moved.flatten(), wanted.flatten(), 0) > 0.9


# Discovery


def test_discovery_changes_connections_before_the_first_step_and_nothing_else(bench):
    run = bench(ONE % ", waves=4", "plasticity.rate=0.05")
    start = tensors(run)
    seen = []

    class Look(Callback):
        def after_waves(self, state) -> None:
            seen.append((state.progress.waves, state.progress.step, tensors(run)))

    run.trainer.callbacks.append(Look())
    run.trainer.run()
    ((waves, step, after),) = seen
    assert (waves, step) == (4, 0)
    assert set(differing(start, after)) == {"lattice.weights", "lattice.plasticity.theta", "lattice.plasticity.firing"}


def test_a_run_without_waves_has_no_discovery(bench, monkeypatch):
    run = bench(ONE % "", *PLASTIC, callbacks=[PlasticityMonitor()])
    run.trainer.run()
    assert [event.step for event in run.heard.of(Plastic)] == [3]


@pytest.mark.parametrize("waves", [1, 3])
def test_a_run_stopped_within_discovery_resumes_bit_for_bit(bench, tmp_path, waves):
    settings = (ONE % ", waves=5", "connections.learning=hybrid", "plasticity.rate=0.05", "plasticity.homeostasis=0.1")
    whole = bench(*settings)
    whole.trainer.run()
    saver = Checkpointer(tmp_path, "data")
    first = bench(*settings, callbacks=[saver])
    StopAfterWave(first.trainer, waves)
    assert first.trainer.run() == "stopped"
    saver.save(first.trainer.state)
    saved, _ = checkpoint.load_newest(tmp_path)
    assert saved.state["progress"]["waves"] == waves and saved.state["progress"]["step"] == 0
    second = bench(*settings)
    changes.resume(second.trainer.state, saved.model, saved.optimizer, saved.state)
    assert second.trainer.run() == "finished"
    assert differing(tensors(whole), tensors(second)) == []
    losses = [[event.loss for event in run.heard.of(Trained)] for run in (whole, second)]
    assert losses[0] == losses[1]


def test_waves_with_a_rule_that_needs_a_backward_are_refused(config_of):
    with pytest.raises(ConfigError, match="three_factor learns only from one"):
        config_of(ONE % ", waves=5", "plasticity.rule=three_factor")


# Resuming and growing


def test_a_plastic_run_resumes_bit_for_bit(bench, tmp_path):
    settings = ("connections.learning=hybrid", "plasticity.homeostasis=0.1", "plasticity.rule=bcm", "plasticity.rate=0.05")
    whole = bench(*settings)
    whole.trainer.run()
    bench(*settings, "stages.1.steps=6", callbacks=[Checkpointer(tmp_path, "data")]).trainer.run()
    for path in sorted(tmp_path.glob("step-*"))[:1]:
        saved = checkpoint.load(path)
        assert 0 < saved.state["progress"]["step"] < 12
        second = bench(*settings)
        changes.resume(second.trainer.state, saved.model, saved.optimizer, saved.state)
        second.trainer.run()
        assert differing(tensors(whole), tensors(second)) == []


def test_growing_carries_the_state_of_the_rules_over_relative_to_the_stages_thresholds(config_of):
    config = config_of(*PLASTIC, "stages.0.activity_threshold=0.1", "stages.1.activity_threshold=0.02")
    old, new = (TextLattice(config, stage, 512, torch.device("cpu")) for stage in (0, 1))
    draw = torch.Generator().manual_seed(0)
    before, after = old.lattice.plasticity, new.lattice.plasticity
    for name in ("theta", "firing", "threshold"):
        getattr(before, name).copy_(torch.rand(before.theta.shape, generator=draw))
    carry_over(old, new)
    for name in ("theta", "firing"):
        assert torch.equal(getattr(after, name), resample(getattr(before, name)[None], after.theta.shape)[0])
    wanted = resample(before.threshold[None], after.theta.shape)[0] * 0.2
    torch.testing.assert_close(after.threshold, wanted)


def test_growing_without_homeostasis_takes_the_new_stages_threshold(config_of):
    config = config_of(*PLASTIC, "stages.0.activity_threshold=0.1", "stages.1.activity_threshold=0.02")
    old, new = (TextLattice(config, stage, 512, torch.device("cpu")) for stage in (0, 1))
    carry_over(old, new)
    torch.testing.assert_close(new.lattice.plasticity.threshold, torch.full(new.lattice.topology.shape, 0.02))


def test_a_live_edit_of_the_rule_takes_effect(bench):
    run = bench(ONE % "", *PLASTIC)
    config = run.trainer.state.config
    edited = config.model_copy(update={"plasticity": config.plasticity.model_copy(update={"A_plus": 7.0, "homeostasis": 0.3})})
    changes.reconfigure(run.trainer.state, edited)
    plasticity = run.trainer.state.model.lattice.plasticity
    assert plasticity.stdp.A_plus == 7.0 and plasticity.settings.homeostasis == 0.3


# What is told


def test_events_say_what_plasticity_did(bench):
    run = bench(*PLASTIC, "stages.0.waves=2", "stages.0.activity_threshold=0.05", callbacks=[PlasticityMonitor()])
    run.trainer.run()
    told = run.heard.of(Plastic)
    # After the waves, every four steps, and at the end of a stage.
    assert [(e.step, e.stage, e.updates) for e in told] == [(0, 0, 2), (4, 0, 4), (6, 0, 2), (8, 1, 2), (12, 1, 4)]
    for event in told:
        assert event.potentiated > 0 and event.depressed > 0 and event.unchanged >= 0
        assert 0 < event.active_share < 1 and 0 <= event.skipped_share < 1
        assert event.mean_change > 0 and event.message_change > 0 and event.seconds > 0
        assert event.theta[-1] > 0


def test_where_no_cell_fires_a_warning_names_the_setting_once(bench):
    run = bench(ONE % ", activity_threshold=1000.0", *PLASTIC, "decode.every=1", callbacks=[PlasticityMonitor()])
    start = tensors(run)
    run.trainer.run()
    (warned,) = run.heard.of(Warned)
    assert warned.message == "no cell fires, so nothing is learned by plasticity; lower stages.0.activity_threshold"
    assert torch.allclose(start["lattice.weights"], run.trainer.state.model.lattice.weights, rtol=1e-5, atol=0)


def test_where_every_cell_fires_in_every_tick_a_warning_names_the_setting(bench):
    run = bench(ONE % ", activity_threshold=1e-9", *PLASTIC, callbacks=[PlasticityMonitor()])
    run.trainer.run()
    (warned,) = run.heard.of(Warned)
    assert (
        warned.message.startswith("nearly every cell fires in every tick") and "stages.0.activity_threshold" in warned.message
    )


def test_states_that_are_not_finite_are_survived_with_a_warning(bench, monkeypatch):
    run = bench(ONE % ", waves=2", "plasticity.rate=0.05", callbacks=[PlasticityMonitor()])
    port = run.trainer.state.model.input_port
    honest = port.drive
    monkeypatch.setattr(port, "drive", lambda slots: honest(slots) * (math.nan if run.trainer.state.progress.step == 0 else 1))
    start = tensors(run)

    class Look(Callback):
        def after_waves(self, state) -> None:
            assert differing(start, tensors(run)) == []
            state.request_stop("test")

    run.trainer.callbacks.append(Look())
    run.trainer.run()
    (warned,) = run.heard.of(Warned)
    assert warned.message.startswith("plasticity left out 16 sentences")


@pytest.mark.parametrize("sparsity", [0.0, 0.7])
@pytest.mark.parametrize("rule", ["stdp", "bcm", "oja"])
def test_what_plasticity_holds_while_a_step_runs_is_counted(rule, sparsity, bench):
    changes = [f"plasticity.rule={rule}", f"stages.0.sparsity={sparsity}", "stages.0.shape=[9,4,20]", "stages.0.ticks=10"]
    trainer = bench(*changes, "stages.0.strides.x=[3]", "connections.learning=hybrid").trainer
    plasticity = trainer.state.model.lattice.plasticity
    with trainer.state.model.lattice.watched():
        trainer.state.model.slots(trainer.state.train_sentences.batch(list(range(8)), trainer.state.device)[0])
    gathered = [plasticity._fired, plasticity._activity, plasticity._squares, plasticity._probe, *plasticity._sums]
    held = sum(tensor.numel() * tensor.element_size() for tensor in [*plasticity.buffers(), *gathered])
    assert plan(trainer.state.config)[0].components["plasticity"] == held
