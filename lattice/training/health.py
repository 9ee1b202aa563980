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

import torch

from lattice.training import changes, checkpoint
from lattice.training.callbacks import Callback
from lattice.training.progress import Progress
from lattice.training.state import TrainingState
from monitors.events import BadStep, RolledBack

FEWEST = 20
"""Good steps of a stage before any loss counts as a spike."""

LEAST_JUMP = 1.0
"""Nats a token above the running mean below which nothing is a spike: small losses vary by many times their deviation."""


def note_bad(state: TrainingState, reason: str) -> None:
    """Counts a step that was not applied; one too many in a row is trouble."""
    progress = state.progress
    progress.count_bad()
    state.tell(BadStep(step=progress.step + 1, stage=progress.stage, reason=reason, in_a_row=progress.bad_in_a_row))
    if progress.bad_in_a_row >= state.config.training.bad_steps:
        state.in_trouble(f"{progress.bad_in_a_row} steps in a row were bad ({reason} at step {progress.step + 1})")


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

    def after_look(self, state: TrainingState, change: torch.Tensor | None) -> None:
        model, optimizer = state.tensors()
        if broken := not_finite(model) or not_finite(optimizer):
            state.in_trouble(broken)
            state.warn(broken)

    def go_back(self, state: TrainingState) -> bool:
        """Gives the state the weights of the last good checkpoint; False where it was so helped before, or there is none."""
        progress = state.progress
        if progress.rolled_back_at is not None:
            return False
        for _, path in checkpoint.steps(self._folder):
            try:
                saved = checkpoint.load(path)
                if saved.state["progress"]["bad_in_a_row"]:  # saved in the midst of what led here
                    continue
                to_step = saved.state["progress"]["step"]
                changes.go_back(state, saved.model, saved.optimizer, saved.state)
            except (checkpoint.CheckpointError, ValueError, KeyError, TypeError) as error:
                state.warn(f"can't go back to a checkpoint: {error}")
                continue
            progress.went_back()
            state.tell(RolledBack(to_step=to_step, reason=state.trouble, **state.here))
            return True
        return False
