"""Random search over a few settings of each arm.  The best settings of an arm enter the experiment.

Every arm gets the same number of short runs, the trials.  Trial 0 is the arm without changes.  In trial k every setting is
drawn from a random stream of its own, which depends on k and the setting's name.  So all arms try the same values of a setting
that they share.  Trials run on a seed that the experiment does not use.  Their score is the held-out loss after equal cost: an
arm with discovery waves has fewer optimizer steps.
"""

from __future__ import annotations

import dataclasses
import math
import random
import sys
from dataclasses import dataclass

from app.experiments.experiment import Arm, Experiment
from app.experiments.measure import Conditions

SEED_OFFSET = 1000
"""Trials run on the experiment's first seed plus this."""


@dataclass(frozen=True)
class SearchRange:
    """The range that a setting is drawn from: uniformly, or with `log` uniformly in the logarithm.  `whole` rounds."""

    low: float
    high: float
    log: bool = True
    whole: bool = False

    def draw(self, trial: int, setting: str) -> str:
        """The value of trial `trial`, in the form that `--set` takes."""
        share = random.Random(f"{trial} {setting}").random()
        if self.log:
            value = math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + share * (self.high - self.low)
        return str(round(value)) if self.whole else f"{value:.4g}"


Space = dict[str, SearchRange]


@dataclass(frozen=True)
class Trial:
    arm: str
    trial: int
    settings: tuple[str, ...]
    """What the trial sets in addition to the arm."""
    loss: float | None
    """The held-out loss after equal cost; None if the trial failed."""


def tuned(
    experiment: Experiment, arms: list[Arm], spaces: dict[str, Space], trials: int, steps: int
) -> tuple[list[Arm], list[Trial]]:
    """The arms with their best settings, and all trials.

    A trial takes `steps` steps, discovery included, on the schedule of a full run.  An arm without a space stays as it is.
    """
    conditions = dataclasses.replace(experiment.conditions, to_end=True, limit=steps, score=False)
    best, log = [], []
    for arm in arms:
        space = spaces.get(arm.name, {})
        tried = [_try(experiment, arm, space, trial, conditions) for trial in range(trials)] if space else []
        winner = min(tried, key=lambda each: math.inf if each.loss is None else each.loss, default=None)
        if winner is not None and winner.loss is not None:
            print(f"{arm.name}: trial {winner.trial} is best: {' '.join(winner.settings) or 'as it stands'}", file=sys.stderr)
            arm = dataclasses.replace(arm, settings=(*arm.settings, *winner.settings))
        best.append(arm)
        log += tried
    return best, log


def _try(experiment: Experiment, arm: Arm, space: Space, trial: int, conditions: Conditions) -> Trial:
    settings = tuple(f"{name}={within.draw(trial, name)}" for name, within in space.items()) if trial else ()
    tried = dataclasses.replace(arm, settings=(*arm.settings, *settings))
    outcome = experiment.one(tried, experiment.first_seed + SEED_OFFSET, conditions, trial)
    loss = outcome.loss_for(outcome.budget)
    return Trial(arm.name, trial, settings, loss if math.isfinite(loss) else None)
