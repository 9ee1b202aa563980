"""What the runs of `experiment arms` say: how far the trained lattice is ahead of each other arm.

All comparisons are paired by seed.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from app.experiments.arms.control_arms import EQUAL_CPU, FROZEN, TRAINED
from app.experiments.arms.scored_run import ArmOutcome, points
from app.experiments.statistics import Effect, Need, difference
from monitors.quality import Quality
from presets.measure import Measure

Results = dict[str, list[ArmOutcome]]
"""The outcomes of each arm, by seed."""


HELD_OUT = "held-out"
"""The name of the text that is scored if no other is given."""


@dataclass(frozen=True)
class Arms:
    """All that is shown."""

    results: Results
    baselines: dict[str, dict[str, Quality]]
    """Scores of replies that need no model: by test text, then by the name of the baseline."""
    measure: Measure
    seeds: int
    looked: int
    """Sentences of a look."""
    target: float | None
    """The score, in the unit of the measure, for which the steps are told; None if there is none."""

    @property
    def texts(self) -> list[str]:
        """The names of the test texts."""
        return list(next(iter(self.results.values()))[0].scores)

    @property
    def others(self) -> list[str]:
        """The arms that the trained lattice is compared with; none if it did not run."""
        return [arm for arm in self.results if arm != TRAINED] if TRAINED in self.results else []

    @property
    def main(self) -> str | None:
        """The arm whose effect is the experiment's: the frozen lattice, or else the first other one."""
        return FROZEN if FROZEN in self.others else next(iter(self.others), None)

    def effects(self, text: str) -> dict[str, Effect]:
        """What the trained lattice has over each other arm at the end, on a test text."""
        ends = {arm: [points(run.scores[text]["none"], self.measure) for run in runs] for arm, runs in self.results.items()}
        return {arm: difference(ends[TRAINED], ends[arm]) for arm in self.others}

    def at_their_ends(self) -> dict[str, AtItsEnd]:
        """The trained lattice at the CPU seconds at which arms of as many steps ended, as far as that is known."""
        found = {arm: at_its_end(self.results, arm) for arm in self.others if not arm.endswith(EQUAL_CPU)}
        return {arm: then for arm, then in found.items() if then is not None}


@dataclass(frozen=True)
class MeanNeed:
    """What an arm needed to reach a score: means over seeds, with how many runs did not reach it in all of their steps."""

    steps: float
    cpu_s: float
    missed: int
    runs: int


def reached(runs: list[ArmOutcome], target: float) -> MeanNeed:
    steps, cpu_s = [run.steps_to(target) for run in runs], [run.cpu_to(target) for run in runs]
    return MeanNeed(_mean(steps), _mean(cpu_s), sum(need.censored for need in steps), len(runs))


def _mean(needs: list[Need]) -> float:
    return statistics.mean(need.value for need in needs)


@dataclass(frozen=True)
class AtItsEnd:
    """The trained lattice at the CPU seconds at which another arm had done all of its steps: means over seeds, on looks."""

    cpu_s: float
    trained: float
    other: float
    effect: Effect


def at_its_end(results: Results, arm: str) -> AtItsEnd | None:
    """None if there were no looks, or if in some seed the trained lattice had none by then or was done before."""
    other, trained = results[arm], results[TRAINED]
    if not all(run.looks for run in other) or any(a.cpu_s > b.cpu_s for a, b in zip(other, trained, strict=True)):
        return None
    then = [b.at(a.cpu_s) for a, b in zip(other, trained, strict=True)]
    known = [score for score in then if score is not None]
    if len(known) < len(then):
        return None
    ends = [run.looks[-1] for run in other]
    cpu_s = statistics.mean(run.cpu_s for run in other)
    return AtItsEnd(cpu_s, statistics.mean(known), statistics.mean(ends), difference(known, ends))
