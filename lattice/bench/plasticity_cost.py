"""Measures what plasticity costs, and how much of its work can be left out.

*Update* is everything that plasticity adds to a step: observing the ticks of 8 sentences, products, and the update of the
weights.  It is timed in C and in plain torch, against the copy floor.  The floor counts what no implementation can avoid for
the connections themselves, 3 numbers per connection: the change of a weight is read, the weight is read and written.

*Share* is plasticity's share of a training step.  It comes from steps with and without plasticity that take turns on one model.

*Avoided work* is measured on a lattice that has trained a little.  It is the share of products of two 16-cell tiles that are
left out, together with the cosine between the weights' change and that of the full update.

- For BCM, Oja and three factors, full means that no cell counts as silent, and no pair of tiles as quiet.
- For STDP, the threshold decides what fires, so the full update has the same threshold and skips no pair of tiles.  Leaving out
  silent tiles changes nothing; only `quiet` loses something.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from lattice.bench.timings import CHANNELS, Row, copy_rate, timed
from lattice.data.batches import Schedule, TokenizedCorpus
from lattice.data.corpus import load_corpus
from lattice.kernels import TickOptions, choose, propagate
from lattice.model.lattice3d import initial_cells, initial_weights
from lattice.plasticity.c_library import plain
from lattice.plasticity.plasticity import Plasticity
from lattice.random_streams import generator
from lattice.training.build import build_trainer
from presets.plasticity_section import PlasticitySection as Settings
from presets.schema import Connections, RunConfig
from presets.topology import Topology

SHAPES = ((16, 16, 16), (64, 64, 32))
STRIDES, TICKS = ((), (), (3, 5)), 6
"""Strides along x, y and z, and ticks, as in the `baseline` preset."""

NUMBERS_PER_CONNECTION = 3

THRESHOLDS = (0.01, 0.05, 0.1, 0.15)
QUIET = (0.0, 0.2, 0.3, 0.5, 0.7, 0.8, 1.0)
ALL_FIRE = 1e-30
RULES = ("stdp", "bcm", "oja", "three_factor")


@dataclass(frozen=True)
class ConnectionRow(Row):
    """A timing of plasticity's whole update.  `speedup` is relative to the version in plain torch."""

    ns_per_connection: float


@dataclass(frozen=True)
class Avoided:
    """The work that one setting leaves out, and how close the weights' change comes to the full one (`cosine`)."""

    rule: str
    activity_threshold: float
    quiet: float
    active_share: float
    skipped_share: float
    cosine: float


def bench_update(shape: tuple[int, int, int], repeats: int, settings: Settings) -> list[ConnectionRow]:
    """Times observing, products and update on the states of a fresh lattice, in C and in plain torch.

    States are fp32, and torch runs on its present number of threads.
    """
    topology = Topology(shape, STRIDES)
    weights = initial_weights(topology, Connections(), generator(0, "bench"))
    cells = initial_cells(shape, CHANNELS, generator(0, "bench cells"))
    drive = torch.randn(settings.sentences, *shape[:2], CHANNELS, generator=generator(0, "bench drive"))
    kernel, _ = choose("auto", topology, CHANNELS, torch.device("cpu"), torch.float32)
    states: list[torch.Tensor] = []
    with torch.no_grad():
        propagate(drive, weights, cells, topology, TICKS, kernel, options=TickOptions(_Keeper(states)))
    plasticity = Plasticity(settings, topology, CHANNELS, 0.01)

    def update() -> None:
        plasticity.begin()
        for tick, state in enumerate(states):
            plasticity.observe(tick, state, tick == TICKS)
        plasticity.update(weights, settings.rate)

    def plain_update() -> None:
        with plain():
            update()

    times, rate = timed({"native": update, "plain": plain_update}, repeats), copy_rate(3)
    size = 4 * NUMBERS_PER_CONNECTION * weights.numel()
    return [
        ConnectionRow(
            name=f"{settings.rule} {name}",
            shape=shape,
            batch=settings.sentences,
            threads=torch.get_num_threads(),
            ns_per_cell=1e9 * statistics.median(taken) / topology.cells,
            speedup=statistics.median(slow / fast for slow, fast in zip(times["plain"], taken, strict=True)),
            copy_gbps=rate / 1e9,
            floor_ratio=statistics.median(taken) * rate / size,
            median=statistics.median(taken),
            min=min(taken),
            max=max(taken),
            ns_per_connection=1e9 * statistics.median(taken) / weights.numel(),
        )
        for name, taken in times.items()
    ]


class _Keeper:
    """An observer that keeps the states that plasticity would see."""

    def __init__(self, states: list[torch.Tensor]) -> None:
        self._states = states

    def observe(self, tick: int, state: torch.Tensor, final: bool) -> None:
        self._states.append(state)

    def signal(self, tick: int, grad: torch.Tensor, state: torch.Tensor) -> None:
        """Is never called, because there is no backward here."""


class TrainedLattice:
    """A lattice of the config's first stage that was trained for `steps` steps by gradient, on the config's corpus."""

    def __init__(self, config: RunConfig, steps: int) -> None:
        text = TokenizedCorpus.of(load_corpus(config), config)
        self._sentences = text.train
        learning = config.connections.model_copy(update={"learning": "hybrid"})
        self.config = config.model_copy(update={"connections": learning})
        self.trainer = build_trainer(self.config, text, torch.device("cpu"))
        stage = config.stages[0]
        self._schedule = Schedule(len(text.train), stage.data_share, config.training.batch, config.run.seed, 0)
        lattice = self.trainer.state.model.lattice
        assert lattice is not None, "the identity arm has no plasticity to time"
        self.lattice = lattice
        self._own = self.lattice.plasticity
        self.lattice.use_plasticity(None)
        for _ in range(steps):
            self.step()

    def step(self, plastic: bool = False) -> None:
        self.lattice.use_plasticity(self._own if plastic else None)
        progress = self.trainer.state.progress
        self.trainer.step(self._schedule.rows(progress.stage_step))
        progress.advance()

    def share(self, repeats: int) -> float:
        """Plasticity's share of the time of a training step: the median over `repeats` pairs of neighbouring steps."""
        times = timed({"with": lambda: self.step(True), "without": self.step}, repeats)
        return statistics.median(1 - off / on for on, off in zip(times["with"], times["without"], strict=True))

    def change(self, settings: Settings, threshold: float) -> tuple[torch.Tensor, float, float]:
        """Does one update and undoes it.  Returns (change of the weights, skipped share, active share)."""
        lattice, model = self.lattice, self.trainer.state.model
        plasticity = Plasticity(settings, lattice.topology, self.config.lattice.channels, threshold)
        plasticity.theta.copy_(self.settled_theta())
        before = lattice.weights.detach().clone()
        lattice.use_plasticity(plasticity)
        rows = self._schedule.rows(self.trainer.state.progress.stage_step)[: settings.sentences]
        with lattice.watched():
            total, count = model.loss(*self._sentences.batch(rows, self.trainer.state.device))
            (total / count).backward()
        lattice.learn(settings.rate)
        lattice.use_plasticity(None)
        model.zero_grad()
        change = lattice.weights.detach() - before
        with torch.no_grad():
            lattice.weights.copy_(before)
        report = plasticity.report()
        assert report is not None, "it has just learned"
        return change, report["skipped_share"], report["active_share"]

    def settled_theta(self) -> torch.Tensor:
        """The thresholds [X, Y, Z] that BCM settles to: each cell's mean squared activity."""
        rows = self._schedule.rows(self.trainer.state.progress.stage_step)
        with torch.no_grad():
            model = self.trainer.state.model
            slots = model.encoder(self._sentences.batch(rows, self.trainer.state.device)[0])
            return self.lattice.state(model.input_port.drive(slots)).square().mean((0, 3))


def sweep(trained: TrainedLattice) -> list[Avoided]:
    """Measures avoided work and cosine for every rule, over activity thresholds and over values of `quiet`."""
    found = []
    for rule in RULES:
        settings = trained.config.plasticity.model_copy(update={"rule": rule, "quiet": 0.0})
        own = trained.config.stages[0].activity_threshold
        at = [(threshold, 0.0) for threshold in THRESHOLDS if rule != "three_factor"]
        at += [(own if rule == "stdp" else ALL_FIRE, quiet) for quiet in QUIET]
        for threshold, quiet in dict.fromkeys(at):
            full, _, _ = trained.change(settings, threshold if rule == "stdp" else ALL_FIRE)
            change, skipped, active = trained.change(settings.model_copy(update={"quiet": quiet}), threshold)
            cosine = float(F.cosine_similarity(change.double().flatten(), full.double().flatten(), 0))
            found.append(Avoided(rule, threshold, quiet, active, skipped, cosine))
    return found
