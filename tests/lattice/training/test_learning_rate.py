"""Tests of learning rates: the schedule in numbers, its position after a stage ends early, and the factor of each part."""

from __future__ import annotations

import math

import pytest

from lattice.observing.decode_monitor import DecodeMonitor
from lattice.training.learning_rate import PROFILE_RATE, learning_rate
from monitors.events import Trained

ONE_STEP = 'stages=[{name="only", shape=[4,4,6], ticks=6, steps=1, strides={z=[2]}, profile="%s"}]'


def test_the_learning_rate_warms_up_linearly_and_falls_by_a_cosine_to_its_final_share(config_of):
    config = config_of(
        "optimizer.learning_rate=0.1",
        "optimizer.warmup_steps=4",
        "optimizer.final_share=0.2",
        "stages.0.steps=50",
        "stages.1.steps=50",
    )

    def cosine(step: int) -> float:
        return 0.1 * (0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * step / 100)))

    for step, warm in enumerate((0.25, 0.5, 0.75, 1.0, 1.0)):
        assert learning_rate(config, step) == pytest.approx(warm * cosine(step), rel=1e-12)
    assert learning_rate(config, 50) == pytest.approx(0.06)
    assert learning_rate(config, 100) == pytest.approx(0.02)
    assert learning_rate(config, 250) == pytest.approx(0.02)
    assert learning_rate(config_of("optimizer.warmup_steps=0"), 0) == pytest.approx(3e-3)


def test_a_stage_that_ended_early_leaves_its_part_of_the_learning_rate_schedule_out(bench):
    run = bench("stages.0.until_loss=100", callbacks=[DecodeMonitor()])
    run.trainer.run()
    rates = [event.learning_rate for event in run.heard.of(Trained)]
    positions = [0, 1, 2, 3, 6, 7, 8, 9, 10, 11]
    assert rates == [learning_rate(run.trainer.state.config, position) for position in positions]


@pytest.mark.parametrize("profile", ["discovery", "learning", "consolidation"])
def test_connections_learn_at_the_rate_of_the_profile_and_cells_at_their_own(bench, profile):
    run = bench(
        ONE_STEP % profile,
        "optimizer.warmup_steps=0",
        "optimizer.cell_rate=0.5",
    )
    start = {name: tensor.clone() for name, tensor in run.trainer.state.model.state_dict().items()}
    run.trainer.run()
    # AdamW's first step moves every parameter by the learning rate, as long as its gradient is well above epsilon.
    steps = {
        name: (run.trainer.state.model.state_dict()[name] - start[name]).abs().max().item()
        for name in ("lattice.cells", "lattice.weights")
    }
    assert steps["lattice.cells"] == pytest.approx(3e-3 * 0.5, rel=1e-3)
    assert steps["lattice.weights"] == pytest.approx(3e-3 * PROFILE_RATE[profile], rel=1e-3)
