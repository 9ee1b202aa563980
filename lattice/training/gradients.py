"""The gradients of a batch, added up over micro-batches.

If memory runs out, the batch is run again in smaller micro-batches (lattice.training.micro_batch).
"""

from __future__ import annotations

import contextlib
import math
from typing import Any

import torch

from lattice.data.batches import Batch
from lattice.model.text_lattice import TextLattice
from lattice.random_streams import key
from lattice.training import micro_batch
from lattice.training.state import TrainingState


def gradients(state: TrainingState, rows: list[int]) -> float:
    """Adds up the gradients of a batch, the training sentences `rows`; returns their mean loss in nats per token.

    Plasticity observes the pass if the stage's connections learn by local rules.  If memory runs out, the same batch is run
    again with half as many sentences at once, and Warned is emitted.  Raises torch.OutOfMemoryError if not even one sentence at
    a time fits.
    """
    lattice = state.model.lattice
    while True:
        if lattice is not None:
            lattice.keep_every(state.checkpoint_ticks)
        try:
            with lattice.watched() if lattice is not None and state.plastic else contextlib.nullcontext():
                return accumulate(
                    state.model, state.scaler, _micro_batches(state, rows), chance(state, "step", state.progress.step)
                )
        except (RuntimeError, MemoryError) as error:
            if not micro_batch.ran_out(error):
                raise
            why = str(error)
        # Outside of the `except` block, because there the error would keep the tensors of the failed attempt alive.
        micro_batch.take_less(state, "out of memory", why)


def chance(state: TrainingState, *purpose: object) -> dict[str, Any]:
    """The fields of the ticks' chance (lattice.kernels.chance) in training.  For one purpose it is always the same."""
    training = state.config.training
    return {"key": key(state.config.run.seed, *purpose), "wounds": training.wounds, "wound_size": training.wound_share}


def accumulate(model: TextLattice, scaler: torch.amp.GradScaler, parts: list[Batch], drawn: dict[str, Any]) -> float:
    """Adds up the gradients of the mean loss over all target tokens of the parts.  Returns that loss in nats per token.

    `drawn` are fields of the ticks' chance in the whole batch.
    """
    tokens = sum(int((ended != 0).sum()) for _, _, ended in parts)
    total, first = 0.0, 0
    for part in parts:
        with model.drawn(first=first, **drawn):
            loss, _ = model.loss(*part)
        first += len(part[0])
        scaler.scale(loss / tokens).backward()
        total += loss.item()
    return total / tokens


def finding_scale(scaler: torch.amp.GradScaler, loss: float, norm: float) -> bool:
    """True if a step overflowed only because the scale of fp16 is still too large.

    Then the step is skipped and the scaler halves its scale, but nothing is wrong with the run.
    """
    overflown = math.isfinite(loss) and not math.isfinite(norm)
    return overflown and scaler.is_enabled() and scaler.get_scale() > 1


def _micro_batches(state: TrainingState, rows: list[int]) -> list[Batch]:
    size = state.micro_batch
    return [state.train_sentences.batch(rows[i : i + size], state.device) for i in range(0, len(rows), size)]
