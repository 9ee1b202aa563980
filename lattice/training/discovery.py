"""Discovery waves: forward passes before the first step of a stage.

The stage's first batches run through the lattice, and plasticity alone changes the connections.
"""

from __future__ import annotations

import time

import torch

from lattice.data.batches import Schedule
from lattice.training.gradients import chance
from lattice.training.learning_rate import PROFILE_RATE
from lattice.training.state import TrainingState
from monitors import gauges


def discover(state: TrainingState, schedule: Schedule) -> bool:
    """Runs the stage's remaining waves, or fewer if a stop is requested.

    Returns True if this call completed the waves.  Returns False if waves remain, or if there were none to run.
    Waves are no optimizer steps, but their seconds count as the run's.
    """
    progress, lattice, config, waves = state.progress, state.model.lattice, state.config, state.stage.waves
    if lattice is None or progress.waves >= waves:
        return False
    while progress.waves < waves and not state.stop_request:
        clock, cpu = time.perf_counter(), gauges.cpu_seconds()
        rows = schedule.rows(progress.waves)[: config.plasticity.sentences]
        drawn = chance(state, "wave", progress.stage, progress.waves)
        with torch.no_grad(), lattice.watched(), lattice.drawn(**drawn):
            state.model.slots(state.train_sentences.batch(rows, state.device)[0])
        lattice.learn(config.plasticity.rate * PROFILE_RATE["discovery"])
        progress.wave_done()
        progress.spend(time.perf_counter() - clock, gauges.cpu_seconds() - cpu)
    return progress.waves == waves
