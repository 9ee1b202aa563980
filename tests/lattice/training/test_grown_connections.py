"""Connections that grow from nothing before the first step (connections.start = grown)."""

from __future__ import annotations

import pytest
import torch

from lattice.healing import waves
from lattice.training.callbacks import Callback
from lattice.training.discovery import SHARPNESS, compete
from lattice.training.trainer import TrainingFailed
from monitors.events import Plastic, Trained
from presets.layers import ConfigError
from tests.lattice.conftest import stopped_and_resumed

GROWN = ("connections.start=grown",)


class AtFirst(Callback):
    """The weights after the first step, when connections do not learn by gradient."""

    def __init__(self) -> None:
        self.weights: torch.Tensor | None = None

    def after_step(self, state) -> None:
        if self.weights is None:
            self.weights = state.lattice.weights.detach().clone()


def test_connections_grow_before_the_first_step_and_lead_away_from_the_input(bench):
    seen = AtFirst()
    run = bench(*GROWN, "connections.learning=frozen", callbacks=(seen,))
    run.trainer.run()
    share = {"forward": 0.0, "backward": 0.0}
    offsets = run.trainer.state.config.stages[0].topology("walls").offsets
    for own, (_, _, dz) in zip(seen.weights, offsets, strict=True):
        if dz:
            share["forward" if dz < 0 else "backward"] += float(own.sum())
    assert (seen.weights >= 0).all() and share["forward"] > 1.2 * share["backward"] > 0
    plastic = run.heard.of(Plastic)
    assert plastic and {event.step for event in plastic} == {0}
    assert run.heard.of(Trained)[0].step == 1 and run.trainer.state.progress.grown


def test_a_resumed_run_does_not_grow_again(bench, tmp_path):
    stopped_and_resumed(bench, GROWN, tmp_path)


def test_a_growth_that_was_stopped_begins_anew(bench):
    class StopWhileGrowing(Callback):
        def on_event(self, event) -> None:
            if isinstance(event, Plastic):
                run.trainer.state.request_stop("test")

    run = bench(*GROWN, callbacks=(StopWhileGrowing(),))
    assert run.trainer.run() == "stopped" and not run.trainer.state.progress.grown
    whole, seen, again = AtFirst(), AtFirst(), bench(*GROWN, callbacks=())
    bench(*GROWN, callbacks=(whole,)).trainer.run()
    again.trainer.callbacks.append(seen)
    again.trainer.state.use_model(run.trainer.state.model)
    again.trainer.state.use_optimizer({})
    again.trainer.run()
    assert torch.equal(seen.weights, whole.weights)


def test_it_costs_the_seconds_of_the_run(bench):
    run = bench(*GROWN)
    spent: list[float] = []

    class First(Callback):
        def after_step(self, state) -> None:
            spent.append(state.progress.cpu_s)

    run.trainer.callbacks.append(First())
    run.trainer.run()
    assert spent[0] > 0


def test_where_nothing_fires_training_fails_in_words(bench, monkeypatch):
    monkeypatch.setattr(waves, "THRESHOLD", 1e6)
    with pytest.raises(TrainingFailed, match=r"connections\.start=drawn"):
        bench(*GROWN).trainer.run()


@pytest.mark.parametrize("setting", ["connections.noise=1", "connections.bias_local=0", "connections.excitatory=true"])
def test_settings_of_the_other_start_are_refused(config_of, setting):
    with pytest.raises(ConfigError, match="has no effect on connections that grow"):
        config_of(*GROWN, setting)


def test_the_grown_connections_of_a_cell_compete_for_its_sum():
    grown = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.5, 0.0]]).view(3, 2, 1, 1)
    weights = grown.clone()
    compete(weights)
    torch.testing.assert_close(weights.sum(0), grown.sum(0))
    assert float(weights[1, 0] / weights[0, 0]) == pytest.approx(2.0**SHARPNESS)
