"""Learning rates: the schedule over the run, the profile of the stage, and what each part of the model takes of it."""

from __future__ import annotations

import math

import torch

from lattice.training.progress import Progress
from presets.schema import RunConfig
from presets.stage import Stage

PROFILE_RATE = {"discovery": 2.0, "learning": 1.0, "consolidation": 0.4, "freeze": 0.0}
"""Learning rate of the connections relative to the rest, by a stage's plasticity profile (the ratios of the seed's)."""


def learning_rate(config: RunConfig, step: int) -> float:
    """Rate of step `step` (from 0): linear warm-up, then a cosine over the whole run down to `final_share` of the peak."""
    section = config.optimizer
    warm = min(1.0, (step + 1) / section.warmup_steps) if section.warmup_steps else 1.0
    along = min(1.0, step / max(1, config.total_steps))
    cosine = section.final_share + (1 - section.final_share) * 0.5 * (1 + math.cos(math.pi * along))
    return section.learning_rate * warm * cosine


def position(config: RunConfig, progress: Progress) -> int:
    """Steps along the schedule: a stage that ended early leaves its rest out, a held one stands still."""
    done = sum(stage.steps for stage in config.stages[: progress.stage])
    return done + min(progress.stage_step, config.stages[progress.stage].steps)


def relative_rate(config: RunConfig, stage: Stage, part: str) -> float:
    """Rate of a part of the model (text, ports, cells, connections) relative to the schedule's."""
    section = config.optimizer
    rates = {"text": 1.0, "ports": section.port_rate, "cells": section.cell_rate}
    return rates[part] if part in rates else PROFILE_RATE[stage.profile]


def set_rates(optimizer: torch.optim.Optimizer, config: RunConfig, progress: Progress) -> float:
    """Gives every group of the optimizer its rate of the step to come; returns the schedule's."""
    rate = learning_rate(config, position(config, progress))
    for group in optimizer.param_groups:
        group["lr"] = rate * relative_rate(config, config.stages[progress.stage], group["part"])
    return rate
