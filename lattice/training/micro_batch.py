"""How many sentences go through the lattice at once: planned, tried out, and lowered where memory runs out.

    plan      the largest micro-batch that the plan says fits (presets.plan), and the segments of ticks
    probe     where that is close to the budget: one pass over the longest sentences, its gradients thrown away
    step      the batch stays the same whatever the micro-batch: gradients add up
    fallback  where memory runs out after all: half as many sentences, at last segments of ticks, of the same batch

What was chosen is part of the run's progress, so that a resumed run goes on with it and equals an uninterrupted one.
"""

from __future__ import annotations

import math

import torch

from lattice.kernels import pages
from lattice.training.state import TrainingState
from monitors import torch_memory

CLOSE = 0.7
"""Share of the budget from which on a plan is tried out before the stage's first step."""


def choose(state: TrainingState) -> None:
    """Settles micro-batch and segments of the stage, unless they were settled before, as in a run that is resumed."""
    progress, planned = state.progress, state.plan
    if progress.micro_batch is not None:
        return
    progress.settle_memory(planned.micro_batch, planned.checkpoint_ticks)
    if not state.config.training.micro_batch and planned.needed_bytes > CLOSE * planned.budget_bytes:
        _probe(state)


def follow_plan(state: TrainingState) -> None:
    """After an edit: no more at once than the new plan allows."""
    progress = state.progress
    if progress.micro_batch is not None:
        progress.settle_memory(min(progress.micro_batch, state.plan.micro_batch), progress.checkpoint_ticks)


def ran_out(error: BaseException) -> bool:
    """Whether an error means that there is no memory left; on the CPU torch raises no type of its own for it."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def take_less(state: TrainingState, reason: str, detail: str = "") -> None:
    """Half as many sentences at once, or segments where there is one left.  Raises OutOfMemoryError where nothing is left."""
    progress, before, ticks = state.progress, state.micro_batch, state.stage.ticks
    state.optimizer.zero_grad(set_to_none=True)
    pages.MAPPINGS.release()
    if state.device.type == "cuda":
        torch.cuda.empty_cache()
    at_once = f"{reason} with {before} sentence{'s' * (before > 1)} at once"
    if before > 1:
        progress.settle_memory(before // 2, progress.checkpoint_ticks)
        told = f"{at_once}; going on with {progress.micro_batch}, and the same batch a step"
    elif state.config.training.checkpoint_ticks == "auto" and not state.checkpoint_ticks and ticks > 1:
        progress.settle_memory(progress.micro_batch, math.ceil(math.sqrt(ticks)))
        told = f"{at_once}; going on with segments of {progress.checkpoint_ticks} ticks, which run twice"
    else:
        raise torch.OutOfMemoryError(detail or reason)
    state.warn(told)


def _probe(state: TrainingState) -> None:
    """Takes less until one pass over the longest sentences stays within the budget."""
    planned, lattice = state.plan, state.model.lattice
    # Moments are made at the first optimizer step only.
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
        # Of a process only the peak of its whole life is known: what was not exceeded here was not taken here.
        if not reason and after > before and after + coming > planned.budget_bytes:
            if state.micro_batch == 1:
                return  # the plan's word against the probe's: try
            reason = f"{(after + coming) / 1e9:.2f} GB are more than the budget of {planned.budget_bytes / 1e9:.2f} GB"
        if not reason:
            return
        take_less(state, reason, detail)
