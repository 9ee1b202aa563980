"""Builds a Trainer from a config.  All training is built here."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from lattice.data.batches import TokenizedCorpus
from lattice.training import changes
from lattice.training.callbacks import Callback, Callbacks
from lattice.training.health import Recovery
from lattice.training.recluster import Reclusterer
from lattice.training.rewiring import Rewirer
from lattice.training.state import TrainingState
from lattice.training.trainer import Trainer
from presets.plan import Planning
from presets.schema import RunConfig


def build_trainer(
    config: RunConfig,
    text: TokenizedCorpus,
    device: torch.device,
    callbacks: Iterable[Callback] = (),
    *,
    before: Iterable[Callback] = (),
    planning: Planning | None = None,
    recovery: Recovery | None = None,
) -> Trainer:
    """Builds a trainer that stands before the first step of the config.

    After each step, three groups of callbacks run in this order: `before`, then re-clustering and rewiring, then `callbacks`.
    So whatever decodes or saves belongs into `callbacks`: it must see the labels and connections that the next step will use.

    `planning` makes the memory plans; the default is presets.plan.  `recovery` knows the checkpoints that a run can go back
    to.  Raises KernelUnavailable if the config names a kernel that can't run here.
    """
    everyone = Callbacks([*before, Reclusterer(), Rewirer(), *callbacks])
    state = TrainingState(config, text, device, everyone, planning)
    state.tell_at_stage_start(changes.reach_sparsity(state))
    return Trainer(state, everyone, recovery)
