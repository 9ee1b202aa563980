"""Healing by STDP: lost connections grow from unlabelled sentences, by the timing of firing.

No gradient, no decoder and no target has a part in it.

    waves       a few sentences run through encoder and lattice; then STDP changes the lost connections, and no others
                a cell that did not fire sprouts: its lost connections get a small weight, so that the next wave reaches it
    cells       after the first wave, a cell without parameters takes the mean of its living neighbours'
    end         a wave changes less than SETTLED of what has grown

Sprouting of silent cells is homeostatic structural plasticity (Butz & van Ooyen 2013, "A simple rule for dendritic spine and
axonal bouton formation"); STDP is that of lattice.plasticity.rules.  Connections that were not lost stay as they are.  If STDP
may change these too, it goes on for ever, and in the end it has replaced what training had made of them.

After a wound that only changed weights (shuffle, noise) nothing tells which ones are wrong.  Then all connections learn for
ANNEALED waves, each cell keeps its sum of |w|, and the rate falls to zero in equal parts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from lattice.data.batches import Sentences
from lattice.healing.regrowth import revive
from lattice.model.lattice3d import Lattice
from lattice.model.text_lattice import TextLattice
from lattice.plasticity.plasticity import Plasticity
from lattice.plasticity.slabs import slabs
from lattice.random_streams import generator, key
from presets.control_commands import HealArguments
from presets.plasticity_section import PlasticitySection

STDP = PlasticitySection(rule="stdp")

RATE = 0.005
"""Change of |w| per wave at a mean product of 1."""

THRESHOLD = 0.02
"""RMS change of a state above which a cell fires."""

SENTENCES = 8
"""Sentences of a wave."""

SPROUT = 0.05
"""The weight that the lost connections of a silent cell get."""

SETTLED = 0.01
"""Healing ends once a wave changes less than this share of what has grown."""

MOST_WAVES = HealArguments().waves
"""Healing ends after so many waves in any case."""

LOOKS = (1, 4, 16, 64, 256)
"""Waves after which a run shows how it comes along."""

ANNEALED = 40
"""Waves in which the rate falls to zero if all connections learn."""


class NothingFires(Exception):
    """No cell fired in the first wave, and nothing was changed."""


@dataclass(frozen=True)
class Wave:
    """One wave."""

    number: int
    """From 1."""
    change: float
    """Sum of the changes of |w|, divided by the sum of |w|, over the connections that may change."""
    settled: bool
    """True if healing is over with this wave, because there is little left to change."""
    report: dict[str, Any]
    """The fields of monitors.events.Plastic."""


def heal(
    model: TextLattice, sentences: Sentences, lost: torch.Tensor | None, seed: int, at_once: int, most: int = MOST_WAVES,
    rule: PlasticitySection = STDP,
) -> Iterator[Wave]:  # fmt: skip
    """Heals the model's lattice in place.  Yields after each wave, until it has settled or `most` waves are done.

    `lost` (bool [kept, X, Y, Z]) marks the connections that may grow; None = nothing tells which ones are wrong.  The sentences
    of a wave are drawn by `seed`; `at_once` of them run through the lattice together.  `rule` decides what grows, at the rate
    RATE and with thresholds of THRESHOLD, whatever it says of these.  Raises NothingFires.
    """
    lattice = model.lattice
    assert lattice is not None, "a model without a lattice has nothing to heal"
    settings = rule.model_copy(update={"sentences": SENTENCES, "conserve": lost is None})
    plasticity = Plasticity(settings, lattice.topology, lattice.channels, THRESHOLD).to(lattice.weights.device)
    for number in range(1, most + 1):
        rate = RATE if lost is not None else RATE * (1 - (number - 1) / ANNEALED)
        wave = one_wave(model, plasticity, sentences, lost, rate, number, seed, at_once)
        if number == 1:
            revive(lattice)
        yield wave
        if wave.settled:
            return


def one_wave(
    model: TextLattice, plasticity: Plasticity, sentences: Sentences, lost: torch.Tensor | None, rate: float, number: int,
    seed: int, at_once: int,
) -> Wave:  # fmt: skip
    """Runs one wave, and lets `plasticity` change the connections.  Arguments are those of `heal`.

    Raises NothingFires if it is the first wave and no cell fires.
    """
    lattice, rows = model.lattice, rows_of(seed, number, len(sentences))
    assert lattice is not None
    with _learning_by(lattice, plasticity):
        _run(model, sentences, rows, at_once, key(seed, "wave", number))
        silent = plasticity.silent
        if number == 1 and bool(silent.all()):
            raise NothingFires
        lattice.learn(rate, lost)
    report = plasticity.report()
    assert report is not None, "the wave has just made an update"
    moved = report["mean_change"] * (report["potentiated"] + report["depressed"] + report["unchanged"])
    if lost is not None:
        moved += _sprout(lattice.weights.data, lost, silent)
    change = moved / max(_size(lattice.weights.data, lost), 1e-12)
    return Wave(number, change, change < SETTLED if lost is not None else number >= ANNEALED, report)


def rows_of(seed: int, number: int, count: int) -> list[int]:
    """Which of `count` sentences run in a wave."""
    return torch.randint(count, (SENTENCES,), generator=generator(seed, "wave", number)).tolist()


@contextlib.contextmanager
def _learning_by(lattice: Lattice, plasticity: Plasticity) -> Iterator[None]:
    """Lets another plasticity watch and change the lattice within the `with` block."""
    own = lattice.plasticity
    lattice.use_plasticity(plasticity)
    try:
        yield
    finally:
        lattice.use_plasticity(own)


@torch.no_grad()
def _run(model: TextLattice, sentences: Sentences, rows: list[int], at_once: int, drawn: int) -> None:
    """Runs sentences through encoder and lattice, which the lattice's plasticity watches."""
    assert model.lattice is not None
    with model.lattice.watched():
        for start in range(0, len(rows), at_once):
            source, _, _ = sentences.batch(rows[start : start + at_once], model.lattice.weights.device)
            with model.drawn(key=drawn, first=start):
                model.slots(source)


@torch.no_grad()
def _sprout(weights: torch.Tensor, lost: torch.Tensor, silent: torch.Tensor) -> float:
    """Gives the lost connections of silent cells (bool [X, Y, Z]) at least the weight SPROUT.  Returns the sum of changes."""
    moved = 0.0
    for rows in slabs(weights.shape[1], weights[:, 0].numel()):
        some = weights[:, rows]
        raised = torch.where(lost[:, rows] & silent[rows], some.clamp(min=SPROUT), some)
        moved += float((raised - some).sum(dtype=torch.float64))
        some.copy_(raised)
    return moved


@torch.no_grad()
def _size(weights: torch.Tensor, lost: torch.Tensor | None) -> float:
    """Sum of |w| over the lost connections, or over all."""
    total = 0.0
    for rows in slabs(weights.shape[1], weights[:, 0].numel()):
        some = weights[:, rows].abs()
        total += float((some if lost is None else some * lost[:, rows]).sum(dtype=torch.float64))
    return total
