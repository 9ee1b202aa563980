"""One run of `experiment arms`: it trains, and every so often decodes some held-out sentences, which are scored.

The time of these looks is not part of the run's cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from app.exit_codes import ExitCode, Stop
from app.experiments.measure import told_as_stop
from app.experiments.statistics import Need, crossing, value_at
from app.experiments.training_time import TrainingTime
from lattice.data.batches import Sentences, TokenizedCorpus
from lattice.model.text_lattice import CONTROLS
from lattice.observing.scoring import chunk_size, evaluate
from lattice.training.build import build_trainer
from lattice.training.callbacks import Callback
from lattice.training.state import TrainingState
from lattice.training.trainer import TrainingFailed
from monitors.quality import Quality
from presets.measure import Measure, score_by
from presets.schema import RunConfig

LOOK_SENTENCES = 200
"""Held-out sentences that a look decodes, the first ones every time."""


def points(quality: Quality, measure: Measure) -> float:
    """The score in the unit of the measure, 0 to 100."""
    return score_by(measure, quality.bleu, quality.exact)


@dataclass(frozen=True)
class ArmText:
    """The sentences of all runs: those for training, those for looks, and the test texts by name."""

    corpus: TokenizedCorpus
    looked: Sentences
    tests: dict[str, Sentences]


@dataclass(frozen=True)
class ArmOutcome:
    """The numbers of one run.  Seconds are CPU seconds of training, without looks and scoring."""

    arm: str
    seed: int
    steps: int
    cpu_s: float
    parameters: int
    look_steps: tuple[int, ...]
    look_cpu_s: tuple[float, ...]
    looks: tuple[float, ...]
    """The score of each look, in the unit of the experiment's measure."""
    scores: dict[str, dict[str, Quality]]
    """The scores at the end by test text, then by control; `none` is the one without a control."""

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> ArmOutcome:
        """The outcome in a row of a results file.  Raises TypeError, KeyError or AttributeError if it is no such row."""
        own: dict[str, Any] = {name: row[name] for name in ("arm", "seed", "steps", "cpu_s", "parameters")}
        own |= {name: tuple(row[name]) for name in ("look_steps", "look_cpu_s", "looks")}
        scores = {text: {name: Quality(**one) for name, one in controls.items()} for text, controls in row["scores"].items()}
        return cls(**own, scores=scores)

    def steps_to(self, target: float) -> Need:
        """Optimizer steps to a score.  Between looks it is taken as linear."""
        reached = crossing(self.look_steps, [-look for look in self.looks], -target)
        return Need(self.steps if reached is None else reached, reached is None)

    def cpu_to(self, target: float) -> Need:
        """CPU seconds to a score."""
        reached = crossing(self.look_cpu_s, [-look for look in self.looks], -target)
        return Need(self.cpu_s if reached is None else reached, reached is None)

    def at(self, cpu_s: float) -> float | None:
        """The score after so many CPU seconds; None if that was before the first look."""
        return value_at(self.look_cpu_s, self.looks, cpu_s) if self.looks and cpu_s >= self.look_cpu_s[0] else None


class ScoreLooks(Callback):
    """Scores the model every so many steps (0 = never), and counts the CPU seconds of training, from `time.begin` on."""

    def __init__(self, every: int, text: ArmText, measure: Measure) -> None:
        self._every, self._text, self._measure = every, text, measure
        self.time = TrainingTime()
        self.trained_cpu_s = 0.0
        """CPU seconds of training up to the end of the last step."""
        self.steps: list[int] = []
        self.cpu_s: list[float] = []
        self.scores: list[float] = []

    def after_step(self, state: TrainingState) -> None:
        self.trained_cpu_s = self.time.so_far()
        if self._every and state.progress.step % self._every == 0:
            self._look(state)

    def finish(self, state: TrainingState) -> None:
        """Takes a last look where training ended, if that is not done yet."""
        if self._every and self.steps[-1:] != [state.progress.step]:
            self._look(state)

    def _look(self, state: TrainingState) -> None:
        with self.time.left_out():
            quality = evaluate(state.model, self._text.looked, self._text.corpus.tokenizer, _chunk(state))[0]
        self.steps.append(state.progress.step)
        self.cpu_s.append(self.trained_cpu_s)
        self.scores.append(points(quality, self._measure))


def train(
    arm: str, seed: int, config: RunConfig, text: ArmText, device: torch.device, every: int, measure: Measure
) -> ArmOutcome:
    """Trains one run to its end and scores it.  Raises Stop if training can't begin, fails, or runs out of memory."""
    looks = ScoreLooks(every, text, measure)
    with told_as_stop(arm, seed):
        trainer = build_trainer(config, text.corpus, device, [looks])
        looks.time.begin()
        try:
            trainer.run()
        except TrainingFailed as error:
            raise Stop(ExitCode.FAILED, f"arm {arm}, seed {seed}: {error}") from error
        looks.finish(trainer.state)
        scores = {name: _scores(trainer.state, sentences, text) for name, sentences in text.tests.items()}
    return ArmOutcome(
        arm=arm,
        seed=seed,
        steps=trainer.state.progress.step,
        cpu_s=looks.trained_cpu_s,
        parameters=sum(p.numel() for p in trainer.state.model.parameters()),
        look_steps=tuple(looks.steps),
        look_cpu_s=tuple(looks.cpu_s),
        looks=tuple(looks.scores),
        scores=scores,
    )


def _scores(state: TrainingState, sentences: Sentences, text: ArmText) -> dict[str, Quality]:
    """The scores of a text by control.  Without a lattice there is nothing to bypass."""
    possible = [control for control in CONTROLS if control != "bypass" or state.model.lattice is not None]
    return {name: evaluate(state.model, sentences, text.corpus.tokenizer, _chunk(state), name)[0] for name in possible}


def _chunk(state: TrainingState) -> int:
    return chunk_size(state.config, state.stage, state.plan.micro_batch)
