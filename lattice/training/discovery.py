"""What happens before the first step of a stage: connections that grow from nothing, and discovery waves.

Both run sentences through the lattice, and plasticity alone changes the connections.
"""

from __future__ import annotations

import time

import torch

from lattice.data.batches import Schedule
from lattice.healing.waves import LOOKS, heal
from lattice.plasticity.slabs import slabs
from lattice.random_streams import key
from lattice.training.gradients import chance
from lattice.training.learning_rate import PROFILE_RATE
from lattice.training.state import TrainingState
from monitors import gauges
from monitors.events import Plastic

SHARPNESS = 4
"""Power by which the grown connections of a cell compete."""


def grow(state: TrainingState) -> None:
    """Lets the connections of a fresh lattice grow from nothing, if the config says so (lattice.healing.waves).

    All of them count as lost.  At last the connections of each cell compete, and few remain.  If a stop is requested, growth
    begins anew when the run is resumed.  Seconds count as the run's.  Raises NothingFires.
    """
    progress, lattice, config = state.progress, state.model.lattice, state.config
    if lattice is None or config.connections.start == "drawn" or progress.grown or progress.step or progress.stage:
        return
    clock, cpu = time.perf_counter(), gauges.cpu_seconds()
    lattice.weights.data.zero_()
    lost = torch.ones_like(lattice.weights, dtype=torch.bool)
    for wave in heal(state.model, state.train_sentences, lost, key(config.run.seed, "grow"), state.micro_batch):
        if wave.number in LOOKS:
            state.tell(Plastic(**wave.report, **state.here))
        if state.stop_request:
            return
    state.tell(Plastic(**wave.report, **state.here))
    compete(lattice.weights.data)
    progress.note_grown()
    progress.spend(time.perf_counter() - clock, gauges.cpu_seconds() - cpu)


@torch.no_grad()
def compete(weights: torch.Tensor) -> None:
    """Raises grown weights [kept, X, Y, Z] to the power SHARPNESS, in place.  Each cell keeps its sum.

    STDP strengthens whatever fires earlier, so a cell hears many neighbours at once.  Of these, the earliest are strongest.
    """
    for rows in slabs(weights.shape[1], weights[:, 0].numel()):
        some = weights[:, rows]
        power = some.float().pow(SHARPNESS)
        some.copy_(power * (some.float().sum(0) / power.sum(0).clamp(min=torch.finfo(torch.float32).tiny)))


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
