"""The emergence score: one number, 0..1, that says how far a lattice has organised itself.

    score = (stability * morphology * participation) ** (1 / 3)

stability      Do cells fall into the same functional clusters if they are clustered again on other input?  This is the
               normalised mutual information of the two clusterings, corrected for chance: for what the second one shares with
               shuffled labels of the first.
morphology     Have the connections gained order in space?  The order of a field is the share of its power that would have to
               move to other wavelengths to make it white noise, corrected for chance.  What counts is how much order the field
               has gained since the stage's start, but never more than the order of the change itself.  The field with the
               highest value counts (`order` of the readings in lattice.structure.spatial_order).
participation  Does the whole lattice take part?  This is the effective share of active cells, exp(H) / N, where H is the
               Shannon entropy of how activity is distributed over the N cells.  It is 1 if all cells are equally active, and
               1 / N if only one is.

The score is a geometric mean, so that no part makes up for one that is missing.  Some lattices score 0 because of their
morphology: a fresh one, whose connections are white noise in space (except for at most 5 % of seeds, which are false alarms);
one whose connections were shuffled over space; and one that was enlarged by interpolation, until it has more order than right
after that.  Stability and participation are high in fresh lattices, too, since a fixed network gives the same states for the
same input.  The order need not be a wave: smooth domains count.  The readings' verdicts answer a stricter question, whether
there is a wavelength that no smooth field has.

The score does not measure how well a lattice works: a frozen lattice with good text parts speaks and scores 0, and a wave
planted by hand scores high and says nothing.  It does not test whether order arose from the data: lattices trained on words in
random order score as high.  It is no evidence of emergence in the sense of physics.  Scores of lattices of different shapes or
cluster counts should not be compared.
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
    """The score from the stability of clusters, the readings of a lattice's fields, and the activity of its cells (any shape).

    Raises ValueError for a stability outside 0..1, and for activity that `participation` refuses.
    """
    if not 0 <= stability <= 1:
        raise ValueError(f"a stability of {stability} is not within 0..1")
    morphology = max((reading.order for reading in readings), default=0.0)
    share = participation(activity)
    return Emergence((stability * morphology * share) ** (1 / 3), stability, morphology, share)


def participation(activity: torch.Tensor) -> float:
    """Effective share of active cells, exp(H) / N, from activities >= 0 of any shape: Hill's number of order 1, divided by N.

    It is 0 if no cell is active.  Raises ValueError for activities that are negative or not finite, and if there are none.
    """
    values = activity.detach().flatten().double()
    if not len(values) or not bool(values.isfinite().all()) or bool((values < 0).any()):
        raise ValueError("activities must be finite numbers >= 0, one per cell")
    total = values.sum()
    if total == 0:
        return 0.0
    share = values / total
    return math.exp(-float(torch.special.xlogy(share, share).sum())) / len(values)


def stability(labels: torch.Tensor, again: torch.Tensor, generator: torch.Generator) -> float:
    """How far two clusterings of the same cells agree, 0..1: (NMI - chance) / (1 - chance).

    `labels` and `again` are [N] integers >= 0; only which cells share a label matters.  Chance is the NMI with `labels`
    shuffled.  The result is 0 if either has a single cluster, which agrees with everything.  Raises ValueError if the lengths
    differ.
    """
    if labels.shape != again.shape or labels.dim() != 1:
        raise ValueError(f"clusterings of {tuple(labels.shape)} and {tuple(again.shape)} cells can't be compared")
    if min(len(labels.unique()), len(again.unique())) < 2:
        return 0.0
    count = 1 + int(torch.maximum(labels, again).max())
    shuffled = labels[torch.randperm(len(labels), generator=generator)]
    found, chance = (mutual_information(overlap(first, again, count)) for first in (labels, shuffled))
    return min(1.0, max(0.0, (found - chance) / (1 - chance))) if chance < 1 else 0.0
