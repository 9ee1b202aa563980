"""Health of the numbers: what is not finite, or out of all proportion, never becomes part of a run.

    a step whose loss or gradient is not finite, or whose loss is a spike     skipped and counted         BadStep
    a weight or a moment that is not finite, found at a look or before a save  not saved                  Warned
    training.bad_steps in a row, or such weights                              back, once                  RolledBack
    and again                                                                 the end                     TrainingFailed

Going back takes the weights and moments of the last good checkpoint, while the steps go on with the sentences to come (PaLM,
Chowdhery et al. 2022, section 5.1: restart from before the spike and skip the data around it).  A run repeats itself bit for
bit, so the same steps on the same sentences would only end the same way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lattice.training import checkpoint
from lattice.training.callbacks import Callback
from monitors.events import BadStep, RolledBack, Warned

if TYPE_CHECKING:
    from lattice.training.progress import Progress
    from lattice.training.trainer import Trainer

MEMORY = 50
"""Good steps that the running mean of the loss goes back."""

FEWEST = 20
"""Good steps of a stage before any loss counts as a spike."""

LEAST_JUMP = 1.0
"""Nats a token above the running mean below which nothing is a spike: small losses vary by many times their deviation."""


def note_loss(progress: Progress, loss: float) -> None:
    """Takes the loss of a good step into the running mean and variance (exponential, West 1979)."""
    share = max(1 / (progress.losses_seen + 1), 1 / MEMORY)
    away = loss - progress.loss_mean
    progress.loss_mean += share * away
    progress.loss_variance = (1 - share) * (progress.loss_variance + share * away * away)
    progress.losses_seen += 1


def note_bad(trainer: Trainer, reason: str) -> None:
    """Counts a step that was not applied; one too many in a row is the trainer's trouble."""
    progress = trainer.progress
    progress.bad_in_a_row += 1
    trainer.emit(BadStep(step=progress.step + 1, stage=progress.stage, reason=reason, in_a_row=progress.bad_in_a_row))
    if progress.bad_in_a_row >= trainer.config.training.bad_steps:
        trainer.trouble = f"{progress.bad_in_a_row} steps in a row were bad ({reason} at step {progress.step + 1})"


def forget_losses(progress: Progress) -> None:
    """Another stage, or an edit: what the loss was says nothing of what it may be."""
    progress.losses_seen, progress.loss_mean, progress.loss_variance = 0, 0.0, 0.0


def why_bad(progress: Progress, loss: float, norm: float, deviations: float) -> str:
    """Why a step must not be applied, or "".  A spike is a loss `deviations` above the running mean; 0 lets all pass."""
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    if not math.isfinite(norm):
        return f"the gradient norm is {norm}"
    jump = max(LEAST_JUMP, deviations * math.sqrt(progress.loss_variance))
    if deviations and progress.losses_seen >= FEWEST and loss - progress.loss_mean > jump:
        return f"the loss is {loss:.3g}, far above its mean of {progress.loss_mean:.3g}"
    return ""


def not_finite(tensors: Mapping[str, torch.Tensor]) -> str:
    """What is wrong with the first tensor that holds a NaN or an infinity, or "".  One pass, no copies."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.numel():
            low, high = (float(end) for end in tensor.detach().aminmax())  # a NaN is both ends
            if not (math.isfinite(low) and math.isfinite(high)):
                return f"{name} is not finite (it reaches {low if not math.isfinite(low) else high})"
    return ""


class Recovery(Callback):
    """Looks for broken weights whenever the decode monitor looks, and knows the checkpoints that a run can go back to."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def after_look(self, trainer: Trainer, change: torch.Tensor | None) -> None:
        model, optimizer = trainer.tensors()
        if broken := not_finite(model) or not_finite(optimizer):
            trainer.trouble = broken
            trainer.emit(Warned(step=trainer.progress.step, stage=trainer.progress.stage, message=broken))

    def go_back(self, trainer: Trainer) -> bool:
        """Gives the trainer the weights of the last good checkpoint; False where it was so helped before, or there is none."""
        progress = trainer.progress
        if progress.rolled_back_at is not None:
            return False
        here = {"step": progress.step, "stage": progress.stage}
        for _, path in checkpoint.steps(self._folder):
            try:
                saved = checkpoint.load(path)
                if saved.state["progress"]["bad_in_a_row"]:  # saved in the midst of what led here
                    continue
                to_step = saved.state["progress"]["step"]
                trainer.go_back(saved.model, saved.optimizer, saved.state)
            except (checkpoint.CheckpointError, ValueError, KeyError, TypeError) as error:
                trainer.emit(Warned(message=f"can't go back to a checkpoint: {error}", **here))
                continue
            progress.rolled_back_at, progress.bad_in_a_row = progress.step, 0
            trainer.emit(RolledBack(to_step=to_step, reason=trainer.trouble, **here))
            return True
        return False
