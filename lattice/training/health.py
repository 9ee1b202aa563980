"""Guards against numbers that are not finite, and against spikes of the loss.  Neither may become part of a run.

    what is wrong                                                              what is done            event
    a step has a spike, or a loss or gradient that is not finite               skipped and counted     BadStep
    at a look or before a save, a weight or moment is not finite               not saved               Warned
    `training.bad_steps` such steps come in a row, or such weights are found   the run goes back once  RolledBack
    the same happens again                                                     the run ends            TrainingFailed

A run that goes back takes the weights and moments of the last good checkpoint.  Its steps go on with the sentences that come
next (PaLM, Chowdhery et al. 2022, section 5.1: restart from before the spike, and skip the data around it).  A run repeats
itself bit for bit, so the same steps on the same sentences would end in the same way.
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
"""Good steps that are needed before a loss can count as a spike.  A new stage, an edit or going back starts the count anew."""

LEAST_JUMP = 1.0
"""Nats per token.  A loss is no spike if it exceeds the running mean by less than this.

Small losses vary by many times their standard deviation, so the deviation alone would raise false alarms.
"""


def note_bad(state: TrainingState, reason: str) -> None:
    """Counts a step that was not applied, and emits BadStep.

    After `training.bad_steps` of them in a row, the state is in trouble: training can't go on from its weights.
    """
    progress = state.progress
    progress.count_bad()
    state.tell(BadStep(step=progress.step + 1, stage=progress.stage, reason=reason, in_a_row=progress.bad_in_a_row))
    if progress.bad_in_a_row >= state.config.training.bad_steps:
        state.in_trouble(f"{progress.bad_in_a_row} steps in a row were bad ({reason} at step {progress.step + 1})")


def why_bad(progress: Progress, loss: float, norm: float, deviations: float) -> str:
    """Says why a step must not be applied, or "" if it may be.

    `loss` is in nats per token.  A spike is a loss more than `deviations` standard deviations above the running mean;
    `deviations` = 0 lets every finite loss pass.
    """
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    if not math.isfinite(norm):
        return f"the gradient norm is {norm}"
    jump = max(LEAST_JUMP, deviations * math.sqrt(progress.loss_variance))
    if deviations and progress.losses_seen >= FEWEST and loss - progress.loss_mean > jump:
        return f"the loss is {loss:.3g}, far above its mean of {progress.loss_mean:.3g}"
    return ""


def not_finite(tensors: Mapping[str, torch.Tensor]) -> str:
    """Describes the first tensor that holds a NaN or an infinity, or "" if all are finite.  Reads each once, copies none."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.numel():
            low, high = (float(end) for end in tensor.detach().aminmax())  # with a NaN in the tensor, both are NaN
            if not (math.isfinite(low) and math.isfinite(high)):
                return f"{name} is not finite (it reaches {low if not math.isfinite(low) else high})"
    return ""


class Recovery(Callback):
    """Checks weights and moments at every look of the decode monitor, and takes the run back to a good checkpoint.

    `folder` holds the run's checkpoints.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def move(self, folder: Path) -> None:
        """Looks for checkpoints in another folder from now on, because the run folder was moved."""
        self._folder = folder

    def after_look(self, state: TrainingState, change: torch.Tensor | None) -> None:
        model, optimizer = state.tensors()
        if broken := not_finite(model) or not_finite(optimizer):
            state.in_trouble(broken)
            state.warn(broken)

    def go_back(self, state: TrainingState) -> bool:
        """Gives the state the weights of its last good checkpoint, and emits RolledBack.

        Returns False if the run went back before, or if there is no good checkpoint.
        """
        progress = state.progress
        if progress.rolled_back_at is not None:
            return False
        for _, path in checkpoint.steps(self._folder):
            try:
                saved = checkpoint.load(path)
                if saved.state["progress"]["bad_in_a_row"]:  # saved when the bad steps had begun
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
