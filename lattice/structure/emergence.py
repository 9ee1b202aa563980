"""The emergence score: one number, 0..1, for how far a lattice has organised itself.  A summary, no law of nature.

    score = (stability * morphology * participation) ** (1 / 3)

stability      cells fall into the same functional clusters when they are clustered again on other input: the normalised mutual
               information of two clusterings, corrected for chance (what the second shares with shuffled labels of the first).
morphology     the connections have gained order in space: the share of a field's power that would have to move to other
               wavelengths to make it white noise, less chance, less the same at the stage's start, and at most what the change
               since then has of it; of the fields the highest (`order` of lattice.structure.spatial_order's readings).
participation  the whole lattice takes part: the effective share of active cells, exp(H) / N with H the Shannon entropy of how
               activity is distributed over the N cells.  1 if all are equally active, 1 / N if a single one is.

A geometric mean, so that none makes up for another that is missing.  A fresh lattice scores 0, because its connections are
white noise in space (but for the at most 5 % of seeds that are false alarms).  So does one whose connections were shuffled
over space, and one that was enlarged by interpolation until it is more ordered than it was then.  That is where its
discriminating power lies: stability and participation are high in fresh lattices, too, for a fixed network gives the same
states for the same input.  The order need not be a wave: smooth domains count.  Whether there is a wavelength that no smooth
field has is a stricter question, which the readings' verdicts answer.

What it is not: a measure of how well the lattice works (a frozen lattice with good text parts speaks and scores 0; a wave
planted by hand scores high and says nothing), a test of whether order arose from the data (lattices trained on words in random
order score as high), or evidence of emergence in the sense of physics.  Scores of lattices of different shapes or cluster
counts should not be compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from lattice.structure.clusters import mutual_information, overlap
from lattice.structure.spatial_order import Reading


@dataclass(frozen=True)
class Emergence:
    """The score and its three parts, each 0..1."""

    score: float
    stability: float
    morphology: float
    participation: float


def emergence(stability: float, readings: Iterable[Reading], activity: torch.Tensor) -> Emergence:
    """From the stability of clusters, the readings of a lattice's fields, and the activity of its cells, of any shape.

    Raises ValueError for a stability outside 0..1, and for activity that `participation` refuses.
    """
    if not 0 <= stability <= 1:
        raise ValueError(f"a stability of {stability} is not within 0..1")
    morphology = max((reading.order for reading in readings), default=0.0)
    share = participation(activity)
    return Emergence((stability * morphology * share) ** (1 / 3), stability, morphology, share)


def participation(activity: torch.Tensor) -> float:
    """Effective share of active cells, exp(H) / N, of activities >= 0 of any shape (Hill's number of order 1 over N).

    0 where no cell is active.  Raises ValueError for activities that are negative, not finite, or none at all.
    """
    values = activity.detach().flatten().double()
    if not len(values) or not bool(values.isfinite().all()) or bool((values < 0).any()):
        raise ValueError("activities must be finite numbers >= 0, one a cell")
    total = values.sum()
    if total == 0:
        return 0.0
    share = values / total
    return math.exp(-float(torch.special.xlogy(share, share).sum())) / len(values)


def stability(labels: torch.Tensor, again: torch.Tensor, generator: torch.Generator) -> float:
    """How far two clusterings of the same cells agree, 0..1: (NMI - chance) / (1 - chance).

    labels, again: [N] integers >= 0; their names do not matter.  Chance is the NMI with `labels` shuffled.  0 where either has
    a single cluster, which agrees with everything and tells nothing.  Raises ValueError where the lengths differ.
    """
    if labels.shape != again.shape or labels.dim() != 1:
        raise ValueError(f"clusterings of {tuple(labels.shape)} and {tuple(again.shape)} cells can't be compared")
    if min(len(labels.unique()), len(again.unique())) < 2:
        return 0.0
    count = 1 + int(torch.maximum(labels, again).max())
    shuffled = labels[torch.randperm(len(labels), generator=generator)]
    found, chance = (mutual_information(overlap(first, again, count)) for first in (labels, shuffled))
    return min(1.0, max(0.0, (found - chance) / (1 - chance))) if chance < 1 else 0.0
