"""The gradients of a batch, added up over micro-batches of as many sentences as memory takes.

Where memory runs out, the batch goes through in smaller parts (lattice.training.micro_batch).
"""

from __future__ import annotations

import contextlib
import math

import torch

from lattice.data.batches import Batch
from lattice.model.text_lattice import TextLattice
from lattice.training import micro_batch
from lattice.training.state import TrainingState


def gradients(state: TrainingState, rows: list[int]) -> float:
    """As `accumulate`, of these training sentences, while plasticity observes where it learns.

    Where memory runs out, again with half as many sentences at once, of the same batch; emits Warned.  Raises
    torch.OutOfMemoryError where not even one sentence at a time fits.
    """
    lattice = state.model.lattice
    while True:
        if lattice is not None:
            lattice.keep_every(state.checkpoint_ticks)
        try:
            with lattice.watched() if lattice is not None and state.plastic else contextlib.nullcontext():
                return accumulate(state.model, state.scaler, _micro_batches(state, rows))
        except (RuntimeError, MemoryError) as error:
            if not micro_batch.ran_out(error):
                raise
            why = str(error)
        # Out here, where the error no longer keeps the tensors of the failed attempt.
        micro_batch.take_less(state, "out of memory", why)


def accumulate(model: TextLattice, scaler: torch.amp.GradScaler, parts: list[Batch]) -> float:
    """Adds up the gradients of the mean loss over all target tokens of the parts; returns that loss in nats a token."""
    tokens = sum(int((ended != 0).sum()) for _, _, ended in parts)
    total = 0.0
    for part in parts:
        loss, _ = model.loss(*part)
        scaler.scale(loss / tokens).backward()
        total += loss.item()
    return total / tokens


def finding_scale(scaler: torch.amp.GradScaler, loss: float, norm: float) -> bool:
    """How the scaler of fp16 finds its scale: the step is skipped, the scale halved, and nothing is wrong."""
    overflown = math.isfinite(loss) and not math.isfinite(norm)
    return overflown and scaler.is_enabled() and scaler.get_scale() > 1


def _micro_batches(state: TrainingState, rows: list[int]) -> list[Batch]:
    size = state.micro_batch
    return [state.train_sentences.batch(rows[i : i + size], state.device) for i in range(0, len(rows), size)]
