"""How many sentences go through the lattice at once: planned, tried out, and lowered where memory runs out.

    plan      the largest micro-batch that the plan says fits (presets.plan), and the segments of ticks
    probe     where that is close to the budget: one pass over the longest sentences, its gradients thrown away
    step      the batch stays the same whatever the micro-batch: gradients add up
    fallback  where memory runs out after all: half as many sentences, at last segments of ticks, of the same batch

What was chosen is part of the run's progress, so that a resumed run goes on with it and equals an uninterrupted one.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from lattice.kernels import pages
from monitors import gauges
from monitors.events import Warned

if TYPE_CHECKING:
    from lattice.training.trainer import Trainer

CLOSE = 0.7
"""Share of the budget from which on a plan is tried out before the stage's first step."""


def choose(trainer: Trainer) -> None:
    """Settles micro-batch and segments of the stage, unless they were settled before, as in a run that is resumed."""
    progress, planned = trainer.progress, trainer.plan
    if progress.micro_batch is not None:
        return
    progress.micro_batch, progress.checkpoint_ticks = planned.micro_batch, planned.checkpoint_ticks
    if not trainer.config.training.micro_batch and planned.needed_bytes > CLOSE * planned.budget_bytes:
        _probe(trainer)


def follow_plan(trainer: Trainer) -> None:
    """After an edit: no more at once than the new plan allows."""
    progress = trainer.progress
    if progress.micro_batch is not None:
        progress.micro_batch = min(progress.micro_batch, trainer.plan.micro_batch)


def ran_out(error: BaseException) -> bool:
    """Whether an error means that there is no memory left; on the CPU torch raises no type of its own for it."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def take_less(trainer: Trainer, reason: str, detail: str = "") -> None:
    """Half as many sentences at once, or segments where there is one left.  Raises OutOfMemoryError where nothing is left."""
    progress, before, ticks = trainer.progress, trainer.micro_batch, trainer.stage.ticks
    trainer.optimizer.zero_grad(set_to_none=True)
    pages.MAPPINGS.release()
    if trainer.device.type == "cuda":
        torch.cuda.empty_cache()
    at_once = f"{reason} with {before} sentence{'s' * (before > 1)} at once"
    if before > 1:
        progress.micro_batch = before // 2
        told = f"{at_once}; going on with {progress.micro_batch}, and the same batch a step"
    elif trainer.config.training.checkpoint_ticks == "auto" and not trainer.checkpoint_ticks and ticks > 1:
        progress.checkpoint_ticks = math.ceil(math.sqrt(ticks))
        told = f"{at_once}; going on with segments of {progress.checkpoint_ticks} ticks, which run twice"
    else:
        raise torch.OutOfMemoryError(detail or reason)
    trainer.emit(Warned(step=progress.step, stage=progress.stage, message=told))


def _probe(trainer: Trainer) -> None:
    """Takes less until one pass over the longest sentences stays within the budget."""
    planned, lattice = trainer.plan, trainer.model.lattice
    # Moments are made at the first optimizer step only.
    coming = 0 if trainer.optimizer.state else planned.components["optimizer"]
    while True:
        rows = trainer.train_sentences.longest(trainer.micro_batch)
        if lattice is not None:
            lattice.segment = trainer.checkpoint_ticks
        before = _peak(trainer.device, start=True)
        reason, detail = "", ""
        try:
            loss, _ = trainer.model.loss(*trainer.train_sentences.batch(rows, trainer.device))
            trainer.scaler.scale(loss).backward()
            del loss
        except (RuntimeError, MemoryError) as error:
            if not ran_out(error):
                raise
            reason, detail = "out of memory", str(error)
        after = _peak(trainer.device)
        trainer.optimizer.zero_grad(set_to_none=True)
        # Of a process only the peak of its whole life is known: what was not exceeded here was not taken here.
        if not reason and after > before and after + coming > planned.budget_bytes:
            if trainer.micro_batch == 1:
                return  # the plan's word against the probe's: try
            reason = f"{(after + coming) / 1e9:.2f} GB are more than the budget of {planned.budget_bytes / 1e9:.2f} GB"
        if not reason:
            return
        take_less(trainer, reason, detail)


def _peak(device: torch.device, start: bool = False) -> int:
    """Most bytes held, on a GPU since the last `start`."""
    if device.type != "cuda":
        return gauges.peak_rss_bytes()
    if start:
        torch.cuda.reset_peak_memory_stats(device)
        return 0
    return torch.cuda.max_memory_reserved(device)
