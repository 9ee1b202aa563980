"""The micro-batch: how many sentences go through the lattice at once.  It is planned, tried out, and lowered if necessary.

    plan      takes the largest micro-batch that fits by presets.plan, and its segments of ticks
    probe     if the plan is close to the budget: one pass over the longest sentences, whose gradients are thrown away
    step      adds up the gradients of micro-batches, so the batch is the same whatever the micro-batch is
    fallback  if memory runs out all the same: half as many sentences at once; if one is left, segments of ticks

The choice is part of the run's progress.  So a resumed run goes on with it and equals an uninterrupted one.
"""

from __future__ import annotations

import math

import torch

from lattice.kernels import pages
from lattice.training.state import TrainingState
from monitors import torch_memory

CLOSE = 0.7
"""A plan that needs more than this share of the budget is tried out before the stage's first step."""


def choose(state: TrainingState) -> None:
    """Settles the stage's micro-batch and segments.  Does nothing if they are settled already, as in a resumed run.

    Raises torch.OutOfMemoryError if the probe runs out of memory even with one sentence at once.
    """
    progress, planned = state.progress, state.plan
    if progress.micro_batch is not None:
        return
    progress.settle_memory(planned.micro_batch, planned.checkpoint_ticks)
    if not state.config.training.micro_batch and planned.needed_bytes > CLOSE * planned.budget_bytes:
        _probe(state)


def follow_plan(state: TrainingState) -> None:
    """Lowers the micro-batch, after an edit, to what the new plan allows."""
    progress = state.progress
    if progress.micro_batch is not None:
        progress.settle_memory(min(progress.micro_batch, state.plan.micro_batch), progress.checkpoint_ticks)


def ran_out(error: BaseException) -> bool:
    """True if an error means that memory ran out.  On the CPU, torch has no error type of its own for that."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def take_less(state: TrainingState, reason: str, detail: str = "") -> None:
    """Halves the micro-batch.  If it is one sentence already, switches to segments of ticks.  Emits Warned.

    `reason` begins the warning; `detail` is the text of the error that is raised.  Raises torch.OutOfMemoryError if neither can
    be done.
    """
    progress, before, ticks = state.progress, state.micro_batch, state.stage.ticks
    state.optimizer.zero_grad(set_to_none=True)
    pages.MAPPINGS.release()
    if state.device.type == "cuda":
        torch.cuda.empty_cache()
    at_once = f"{reason} with {before} sentence{'s' * (before > 1)} at once"
    if before > 1:
        progress.settle_memory(before // 2, progress.checkpoint_ticks)
        message = f"{at_once}; going on with {progress.micro_batch}, and the same batch a step"
    elif state.config.training.checkpoint_ticks == "auto" and not state.checkpoint_ticks and ticks > 1:
        progress.settle_memory(progress.micro_batch, math.ceil(math.sqrt(ticks)))
        message = f"{at_once}; going on with segments of {progress.checkpoint_ticks} ticks, which run twice"
    else:
        raise torch.OutOfMemoryError(detail or reason)
    state.warn(message)


def _probe(state: TrainingState) -> None:
    """Calls `take_less` until one pass over the longest sentences stays within the budget."""
    planned, lattice = state.plan, state.model.lattice
    # Moments are made at the first optimizer step.  Until then they have to be added to what the probe takes.
    coming = 0 if state.optimizer.state else planned.components["optimizer"]
    while True:
        rows = state.train_sentences.longest(state.micro_batch)
        if lattice is not None:
            lattice.keep_every(state.checkpoint_ticks)
        torch_memory.reset_peak(state.device)
        before = 0 if state.device.type == "cuda" else torch_memory.most_reserved(state.device)
        reason, detail = "", ""
        try:
            loss, _ = state.model.loss(*state.train_sentences.batch(rows, state.device))
            state.scaler.scale(loss).backward()
            del loss
        except (RuntimeError, MemoryError) as error:
            if not ran_out(error):
                raise
            reason, detail = "out of memory", str(error)
        after = torch_memory.most_reserved(state.device)
        state.optimizer.zero_grad(set_to_none=True)
        # On the CPU only the peak over the life of the process is known.  If it did not rise, this pass did not set it.
        if not reason and after > before and after + coming > planned.budget_bytes:
            if state.micro_batch == 1:
                return  # the plan says that one sentence fits, the probe says that it does not: try it
            reason = f"{(after + coming) / 1e9:.2f} GB are more than the budget of {planned.budget_bytes / 1e9:.2f} GB"
        if not reason:
            return
        take_less(state, reason, detail)
