"""Discovery waves: before a stage's first step its first batches run through, and plasticity alone changes the connections."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from lattice.data.batches import Schedule
from lattice.training.learning_rate import PROFILE_RATE
from monitors import gauges

if TYPE_CHECKING:
    from lattice.training.trainer import Trainer


def discover(trainer: Trainer, schedule: Schedule) -> None:
    """The stage's waves that are not done yet, as long as no stop is asked for; callbacks hear when all are.

    The optimizer knows nothing of it; the seconds count as the run's.
    """
    progress, lattice, config, waves = trainer.progress, trainer.model.lattice, trainer.config, trainer.stage.waves
    if lattice is None or progress.waves >= waves:
        return
    while progress.waves < waves and not trainer.stop_request:
        clock, cpu = time.perf_counter(), gauges.cpu_seconds()
        rows = schedule.rows(progress.waves)[: config.plasticity.sentences]
        with torch.no_grad(), lattice.watched():
            trainer.model.slots(trainer.train_sentences.batch(rows, trainer.device)[0])
        lattice.learn(config.plasticity.rate * PROFILE_RATE["discovery"])
        progress.waves += 1
        progress.elapsed_s += time.perf_counter() - clock
        progress.cpu_s += gauges.cpu_seconds() - cpu
    if progress.waves == waves:
        for callback in trainer.callbacks:
            callback.after_waves(trainer)
