"""Measures what healing takes on a fresh lattice of any preset: by neighbours, by a wave of STDP, beside a training step."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import torch

from lattice.data.batches import Schedule, TokenizedCorpus
from lattice.data.corpus import load_corpus
from lattice.healing.regrowth import regrow
from lattice.healing.waves import heal
from lattice.healing.wounding import wound
from lattice.random_streams import generator
from lattice.training.build import build_trainer
from monitors import gauges
from presets.schema import RunConfig
from presets.wound import Wound

SAMPLED_EVERY_S = 0.005
"""How often the memory of the process is read."""


@dataclass(frozen=True)
class Cost:
    """What one act took."""

    act: str
    seconds: float
    cpu_s: float
    extra_bytes: int
    """Most memory of the process above what it held before; sampled, so a shorter peak is missed."""


@dataclass(frozen=True)
class HealingCost:
    """A wound of a fresh lattice, and what it takes to heal it."""

    wound: str
    shape: tuple[int, int, int]
    connections: int
    """Numbers in the tensor of weights, those over a wall included."""
    weights_bytes: int
    lost: int
    micro_batch: int
    costs: tuple[Cost, ...]


def bench_healing(config: RunConfig, what: Wound) -> HealingCost:
    """Wounds a lattice of the config's first stage, and heals it by neighbours; wounds it again, and runs a wave of STDP.

    A training step comes last, on a CPU like the rest.  Raises ValueError if the wound does not fit the lattice.
    """
    text = TokenizedCorpus.of(load_corpus(config), config)
    trainer = build_trainer(config, text, torch.device("cpu"))
    state, lattice = trainer.state, trainer.state.lattice
    schedule = Schedule(len(text.train), state.stage.data_share, config.training.batch, config.run.seed, 0)

    def wave() -> None:
        next(heal(state.model, state.train_sentences, lattice.lost, 0, state.micro_batch, 1))

    lost = wound(lattice, what, generator(0, "wound")).count
    costs = [_cost("neighbours", lambda: regrow(lattice))]
    wound(lattice, what, generator(0, "wound"))
    costs.append(_cost("wave of STDP", wave))
    lattice.lose(None)
    trainer.step(schedule.rows(0))  # makes the optimizer's state
    costs.append(_cost("training step", lambda: trainer.step(schedule.rows(1))))
    weights = lattice.weights
    size = weights.numel() * weights.element_size()
    return HealingCost(str(what), lattice.topology.shape, weights.numel(), size, lost, state.micro_batch, tuple(costs))


def _cost(name: str, act: Callable[[], object]) -> Cost:
    with _sampled() as most:
        before, clock, cpu = most[0], time.perf_counter(), gauges.cpu_seconds()
        act()
        seconds, cpu_s = time.perf_counter() - clock, gauges.cpu_seconds() - cpu
    return Cost(name, seconds, cpu_s, most[0] - before)


@contextmanager
def _sampled() -> Iterator[list[int]]:
    """A list of one number: the most memory of the process so far, which grows until the `with` block ends."""
    process, ended = psutil.Process(), threading.Event()
    most = [process.memory_info().rss]

    def sample() -> None:
        while not ended.wait(SAMPLED_EVERY_S):
            most[0] = max(most[0], process.memory_info().rss)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        ended.set()
        thread.join()
