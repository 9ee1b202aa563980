"""What can be done for a wounded lattice, wave by wave: the methods that `experiment heal` compares.

Each is a generator of a `Patient`, which yields after every wave and changes the patient's model in place.  All methods but
those with the gradient see sentences alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from lattice.data.batches import Sentences
from lattice.healing.regrowth import regrow, smooth
from lattice.healing.waves import RATE, STDP, THRESHOLD, NothingFires, heal, one_wave, rows_of
from lattice.healing.wounding import Lost
from lattice.model.text_lattice import TextLattice
from lattice.plasticity.plasticity import Plasticity
from presets.schema import RunConfig

WINNERS = 8
"""Cells of the 64 of a neighbourhood that learn in the method `stdp+winners`."""


@dataclass(frozen=True)
class Patient:
    """A wounded model, and what heals it."""

    config: RunConfig
    model: TextLattice
    sentences: Sentences
    lost: Lost
    seed: int
    at_once: int

    def by(self, waves: int, **rule: object) -> Iterator[None]:
        """Heals by a local rule whose settings differ from STDP's defaults in these."""
        settings = STDP.model_copy(update=rule)
        try:
            for _ in heal(self.model, self.sentences, self.lost.connections, self.seed, self.at_once, waves, settings):
                yield
        except NothingFires:
            return


Method = Callable[[Patient, int], Iterator[None]]
"""Heals a patient in at most so many waves."""


def neighbours(patient: Patient, waves: int) -> Iterator[None]:
    """`lattice-tui heal`: what is lost takes the mean of what lives beside it.  Needs no wave, so it is done in the first."""
    lattice = patient.model.lattice
    assert lattice is not None
    if waves:
        regrow(lattice)
        if patient.lost.connections is None:
            smooth(lattice)
        yield


def stdp(patient: Patient, waves: int) -> Iterator[None]:
    """`lattice-tui heal --by stdp`: STDP lets the lost connections grow, and silent cells sprout."""
    return patient.by(waves)


def stdp_everywhere(patient: Patient, waves: int) -> Iterator[None]:
    """STDP changes all connections at a rate that stays; each cell keeps its sum of |w|."""
    model, lattice = patient.model, patient.model.lattice
    assert lattice is not None
    plasticity = Plasticity(STDP, lattice.topology, lattice.channels, THRESHOLD).to(lattice.weights.device)
    for number in range(1, waves + 1):
        try:
            one_wave(model, plasticity, patient.sentences, None, RATE, number, patient.seed, patient.at_once)
        except NothingFires:
            return
        yield


def stdp_winners(patient: Patient, waves: int) -> Iterator[None]:
    """`stdp` with competition: only the most active cells of a neighbourhood learn."""
    return patient.by(waves, winners=WINNERS)


def bcm(patient: Patient, waves: int) -> Iterator[None]:
    """The lost connections grow by BCM."""
    return patient.by(waves, rule="bcm")


def oja(patient: Patient, waves: int) -> Iterator[None]:
    """The lost connections grow by Oja's rule."""
    return patient.by(waves, rule="oja")


@torch.no_grad()
def offset_mean(patient: Patient, waves: int) -> Iterator[None]:
    """Each lost connection gets the mean of the surviving ones of its offset: the designer's bias, put back by hand.

    Needs no wave, so it is done in the first.  Does nothing if it is not known which connections are lost.
    """
    lattice, lost = patient.model.lattice, patient.lost.connections
    assert lattice is not None
    if lost is not None and waves:
        weights = lattice.weights.data
        for own, gone in zip(weights, lost, strict=True):
            own[gone] = own[~gone & (own != 0)].mean().nan_to_num()  # an offset may have no survivor
        yield


def gradient(patient: Patient, waves: int) -> Iterator[None]:
    """In each wave a step of AdamW on the connections, on as many sentences with their targets."""
    step = _stepping(patient)
    for number in range(1, waves + 1):
        step(number)
        yield


def gradient_and_stdp(patient: Patient, waves: int) -> Iterator[None]:
    """In each wave first `stdp`, then `gradient`, on the same sentences."""
    step = _stepping(patient)
    for number, _ in enumerate(patient.by(waves), 1):
        step(number)
        yield


def _stepping(patient: Patient) -> Callable[[int], None]:
    """A function that does the step of AdamW of a wave, at the learning rate that the run had at its peak."""
    lattice = patient.model.lattice
    assert lattice is not None
    weights, device = lattice.weights, lattice.weights.device
    optimizer = torch.optim.AdamW([weights], lr=patient.config.optimizer.learning_rate, weight_decay=0.0)

    def step(number: int) -> None:
        batch = patient.sentences.batch(rows_of(patient.seed, number, len(patient.sentences)), device)
        learned = weights.requires_grad
        weights.requires_grad_(True)
        loss, tokens = patient.model.loss(*batch)
        (loss / tokens).backward()
        optimizer.step()
        patient.model.zero_grad(set_to_none=True)
        weights.requires_grad_(learned)

    return step


METHODS: dict[str, Method] = {
    "neighbours": neighbours,
    "stdp": stdp,
    "stdp everywhere": stdp_everywhere,
    "stdp+winners": stdp_winners,
    "bcm": bcm,
    "oja": oja,
    "offset mean": offset_mean,
    "gradient": gradient,
    "gradient and stdp": gradient_and_stdp,
}
