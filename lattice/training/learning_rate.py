"""Learning rates: a schedule over the run, times a factor for each part of the model."""

from __future__ import annotations

import math

import torch

from lattice.training.progress import Progress
from presets.schema import RunConfig
from presets.stage import Stage

PROFILE_RATE = {"discovery": 2.0, "learning": 1.0, "consolidation": 0.4, "freeze": 0.0}
"""Factor on the connections' learning rate, by the plasticity profile of the stage.  It scales `plasticity.rate`, too."""


def learning_rate(config: RunConfig, step: int) -> float:
    """The schedule's rate at `step`, counted from 0: a cosine over the whole run, times a linear warm-up.

    It falls to `optimizer.final_share` of the peak.
    """
    section = config.optimizer
    warm = min(1.0, (step + 1) / section.warmup_steps) if section.warmup_steps else 1.0
    along = min(1.0, step / max(1, config.total_steps))
    cosine = section.final_share + (1 - section.final_share) * 0.5 * (1 + math.cos(math.pi * along))
    return section.learning_rate * warm * cosine


def position(config: RunConfig, progress: Progress) -> int:
    """Steps along the schedule.  If a stage ended early, its remaining steps are skipped.

    If the operator holds a stage beyond its steps, the position stays at the stage's end.
    """
    done = sum(stage.steps for stage in config.stages[: progress.stage])
    return done + min(progress.stage_step, config.stages[progress.stage].steps)


def relative_rate(config: RunConfig, stage: Stage, part: str) -> float:
    """Factor on the schedule's rate for a part of the model: text, ports, cells, rule or connections."""
    section = config.optimizer
    rates = {"text": 1.0, "ports": section.port_rate, "cells": section.cell_rate, "rule": 1.0}
    return rates[part] if part in rates else PROFILE_RATE[stage.profile]


def set_rates(optimizer: torch.optim.Optimizer, config: RunConfig, progress: Progress) -> float:
    """Sets the rate of every parameter group for the next step.  Returns the schedule's rate."""
    rate = learning_rate(config, position(config, progress))
    for group in optimizer.param_groups:
        group["lr"] = rate * relative_rate(config, config.stages[progress.stage], group["part"])
    return rate
