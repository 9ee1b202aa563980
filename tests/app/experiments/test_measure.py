"""One run of an experiment: what is counted, when it stops, and that looking changes nothing."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from app.experiments import measure
from app.experiments.measure import Conditions, ExperimentText, connection_bytes, optimizer_bytes, train
from lattice.data.corpus import Corpus, Pair
from lattice.data.grammar import generate
from lattice.model.lattice3d import Lattice
from lattice.training.build import build_trainer
from lattice.training.trainer import Trainer, TrainingFailed
from presets.layers import load
from presets.optimizer_state import state_bytes
from presets.schema import RunConfig

CPU = torch.device("cpu")
NEVER = Conditions(target=0.001, every=2, to_end=False)


def config_of(*settings: str) -> RunConfig:
    short = ("stages.0.steps=12", "stages.1.steps=8", "optimizer.warmup_steps=2", "run.threads=1")
    return load("tiny", None, [*short, *settings]).config


@pytest.fixture(scope="module")
def text() -> ExperimentText:
    pairs = tuple(Pair(line, line) for line in generate(280, seed=3))
    return ExperimentText.of(config_of(), Corpus("generated", pairs[:200], pairs[200:], {}), pairs[200:220])


@pytest.fixture
def clock(cpu_clock):
    """A step takes 1 s, a plastic update 0.5, a look 100."""
    cpu_clock.costs(Trainer, "step", 1.0)
    cpu_clock.costs(Lattice, "learn", 0.5)
    cpu_clock.costs(measure, "held_out_loss", 100.0)
    return cpu_clock


def test_a_run_that_never_reaches_the_target_goes_to_its_end_and_is_censored(text):
    run = train("a", 0, config_of(), text, CPU, NEVER)
    assert (run.steps, run.budget, run.look_steps) == (20, 20, (10, 12, 14, 16, 18, 20))
    assert run.steps_to(0.001).censored and run.steps_to(0.001).value == 20
    assert run.loss == run.losses[-1] and run.bleu is not None


def test_a_run_stops_at_the_first_look_at_the_target_unless_told_to_go_on(text):
    conditions = dataclasses.replace(NEVER, target=50.0)
    run = train("a", 0, config_of(), text, CPU, conditions)
    assert run.steps == 10 and not run.steps_to(50.0).censored
    assert train("a", 0, config_of(), text, CPU, dataclasses.replace(conditions, to_end=True)).steps == 20


def test_a_limit_ends_a_run_early_on_the_schedule_of_the_whole_one(text):
    whole = train("a", 0, config_of(), text, CPU, NEVER)
    short = train("a", 0, config_of(), text, CPU, dataclasses.replace(NEVER, limit=14, score=False))
    assert (short.steps, short.budget, short.bleu) == (14, 14, None)
    assert short.losses == whole.losses[:3]


def test_looks_leave_training_as_it_is(text):
    def trained(callbacks):
        trainer = build_trainer(config_of(), text.corpus, CPU, callbacks)
        trainer.run()
        return trainer.state.tensors()[0]

    without, looked_at = trained([]), trained([measure.Looks(NEVER)])
    assert all(torch.equal(tensor, looked_at[name]) for name, tensor in without.items())


def test_cpu_seconds_hold_training_and_discovery_but_not_the_looks(text, clock):
    run = train("a", 0, config_of("stages.0.waves=4", "stages.1.waves=6"), text, CPU, NEVER)
    assert run.cpu_s == 20 + 10 * 0.5 and run.waves_cpu_s == 5.0 and run.step_cpu_s == 1.0
    assert run.look_cpu_s == (12.0, 14.0, 19.0, 21.0, 23.0, 25.0)
    assert clock.now > 600


def test_discovery_counts_in_steps_to_the_target_at_its_cost_in_steps(text, clock):
    conditions = dataclasses.replace(NEVER, target=50.0)
    plain, waved = (train("a", 0, config_of(f"stages.0.waves={n}"), text, CPU, conditions) for n in (0, 4))
    assert (plain.steps_to(50.0).value, waved.steps_to(50.0).value) == (10.0, 12.0)
    assert (plain.cpu_to(50.0).value, waved.cpu_to(50.0).value) == (10.0, 12.0)


def test_the_loss_for_equal_cost_takes_discovery_off_the_steps(text, clock):
    run = train("a", 0, config_of("stages.0.waves=4"), text, CPU, NEVER)
    assert run.loss_for(18) == pytest.approx(run.losses[run.look_steps.index(16)])


def test_a_run_whose_training_fails_is_censored_with_its_whole_budget_and_says_why(text, clock, monkeypatch):
    step = Trainer.step

    def failing(trainer, rows):
        if trainer.state.progress.step == 13:
            raise TrainingFailed("nothing is finite")
        step(trainer, rows)

    monkeypatch.setattr(Trainer, "step", failing)
    run = train("a", 0, config_of(), text, CPU, NEVER)
    assert (run.failure, run.steps, run.loss, run.bleu) == ("nothing is finite", 13, None, None)
    assert run.steps_to(0.001) == measure.Need(20, True) and run.cpu_to(0.001) == measure.Need(20.0, True)


def test_connection_bytes_are_those_of_the_weights_and_their_moments(text):
    trainer = build_trainer(config_of("connections.learning=gradient"), text.corpus, CPU, [])
    weights = trainer.state.model.lattice.weights
    assert connection_bytes(trainer.state) == 4 * weights.numel()
    trainer.step([0, 1])
    counter = next(iter(trainer.state.optimizer.state.values()))["step"]
    assert connection_bytes(trainer.state) == 3 * 4 * weights.numel() + counter.element_size()


@pytest.mark.parametrize("name", ["adamw", "galore", "adam8bit", "adafactor", "lion"])
def test_optimizer_bytes_are_those_that_are_planned_for_and_in_all_those_of_text_and_ports_too(text, name):
    config = config_of(f"optimizer.name={name}", "connections.learning=gradient")
    run = train(name, 0, config, text, CPU, dataclasses.replace(NEVER, limit=2))
    trainer = build_trainer(config, text.corpus, CPU, [])
    assert optimizer_bytes(trainer.state) == 0
    trainer.step([0, 1])
    stage = config.stages[0]
    counters = sum(
        4 for key in trainer.state.tensors()[1] if key.startswith("lattice.") and key.rpartition("/")[2] in ("step", "retained")
    )
    planned = state_bytes(config, stage, len(stage.topology("walls").offsets)) + counters
    assert run.lattice_optimizer_bytes == optimizer_bytes(trainer.state, "lattice.") == planned
    others = [
        p for group in trainer.state.optimizer.param_groups for p in group["params"] if group["part"] in ("text", "ports")
    ]
    assert run.optimizer_bytes == planned + sum(8 * p.numel() + 4 for p in others)


def test_connections_that_do_not_learn_by_gradient_have_no_moments_and_no_lattice_has_no_connections(text):
    others = ("connections.learning=plastic", "stages.0.clustering.clusters=4")
    trainer = build_trainer(config_of(*others), text.corpus, CPU, [])
    trainer.step([0, 1])
    assert connection_bytes(trainer.state) == 4 * trainer.state.model.lattice.weights.numel()
    identity = build_trainer(config_of("lattice.arm=identity"), text.corpus, CPU, [])
    assert connection_bytes(identity.state) == 0
