"""`experiment arms`: what the lattice adds.

The same encoder, decoder and ports are trained with a lattice that learns, with a frozen one, and without any.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import Counter
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from app import configure, formats
from app.exit_codes import ExitCode, Stop
from app.experiments.experiment import ExperimentRequest
from app.experiments.statistics import interval
from app.run_process.prepare import prepare
from lattice.data.batches import Sentences, TokenizedCorpus
from lattice.data.corpus import Corpus, pairs_to_score
from lattice.data.pair import DataError, Pair
from lattice.model.text_lattice import CONTROLS
from lattice.observing.scoring import chunk_size, evaluate
from lattice.training.build import build_trainer
from lattice.training.trainer import TrainingFailed
from monitors import gauges
from monitors.quality import Quality, score
from presets.schema import RunConfig
from presets.task_name import is_task

ARMS: dict[str, dict[str, dict[str, str | None]]] = {
    "trained": {},
    "frozen": {"connections": {"learning": "frozen"}, "lattice": {"cells": "frozen"}},
    "identity": {"lattice": {"arm": "identity"}, "rule": {"kind": "none", "hidden": None}},
}
"""What each arm changes in the config.  Ports, encoder and decoder are trained in all three."""


@dataclass(frozen=True)
class ArmResult:
    """The scores of one training run, or of a baseline that needs no training; then `seed` is None."""

    arm: str
    seed: int | None
    quality: Quality
    controls: dict[str, float]
    """BLEU under each control."""
    steps: int
    cpu_s: float

    def as_json(self) -> dict[str, Any]:
        scores = {
            "bleu": self.quality.bleu,
            "chrf": self.quality.chrf,
            "exact": self.quality.exact,
            "count": self.quality.count,
        }
        return {
            "arm": self.arm,
            "seed": self.seed,
            "steps": self.steps,
            "cpu_s": self.cpu_s,
            "controls": self.controls,
        } | scores


def run(request: ExperimentRequest) -> None:
    """Trains every arm with every seed and prints the scores.  Raises Stop.

    The effect is BLEU trained minus BLEU frozen.  For a bundled task it is that of exact answers, in percent of the sentences:
    an answer of one or two words has no BLEU.
    """
    source, seeds = request.source, request.seeds
    base = configure.with_steps(source.load().config, source.steps)
    _, corpus = prepare(base)
    try:
        scored = pairs_to_score(source.test, base, {}) if source.test else corpus.valid
    except DataError as error:
        raise Stop(ExitCode.USAGE, str(error)) from error
    results = [] if base.data.task == "reconstruct" else _baselines(corpus, scored)
    for seed in range(base.run.seed, base.run.seed + seeds):
        for name, changes in ARMS.items():
            results.append(_train_arm(name, seed, _changed(base, changes, seed), corpus, scored))
            quality = results[-1].quality
            print(f"{name}, seed {seed}: BLEU {formats.score(quality.bleu)}, exact {quality.exact:.1%}", file=sys.stderr)
    measure = "exact" if is_task(base.data.train) else "bleu"
    of_seeds = range(base.run.seed, base.run.seed + seeds)
    effects = [_score(results, "trained", s, measure) - _score(results, "frozen", s, measure) for s in of_seeds]
    effect, (low, high) = statistics.mean(effects), interval(effects)
    if request.as_json:
        rows = [result.as_json() for result in results]
        found = {"effect": effect, "low": low, "high": high, "seeds": seeds, "measure": measure}
        print(json.dumps({"name": "arms", "arms": rows} | found))
        return
    table = Table("arm", "seed", "BLEU", "chrF", "exact", "shuffled", "bypass", "CPU-minutes", box=None, pad_edge=False)
    for result in results:
        quality, controls = result.quality, [formats.score(result.controls.get(name)) for name in CONTROLS[1:]]
        scores = (formats.score(quality.bleu), formats.score(quality.chrf), f"{quality.exact:.1%}")
        told_seed = "-" if result.seed is None else str(result.seed)
        table.add_row(result.arm, told_seed, *scores, *controls, f"{result.cpu_s / 60:.1f}")
    Console(highlight=False).print(table)
    spread = f" ({low:.1f} to {high:.1f}, 95 % bootstrap over {seeds} seeds)" if low is not None else " (one seed: no interval)"
    unit = "BLEU" if measure == "bleu" else "% of exact answers"
    print(f"the lattice's training adds {effect:.1f} {unit} over a frozen lattice{spread}; {scored_on(scored)}")


def scored_on(scored: tuple[Pair, ...]) -> str:
    return f"scored on {formats.count(len(scored))} sentences"


def _changed(base: RunConfig, changes: dict[str, dict[str, str | None]], seed: int) -> RunConfig:
    data = base.model_dump()
    for section, values in (*changes.items(), ("run", {"seed": seed})):
        data[section] = data[section] | values
    return RunConfig.model_validate(data)


def _train_arm(name: str, seed: int, config: RunConfig, corpus: Corpus, scored: tuple[Pair, ...]) -> ArmResult:
    device, _ = prepare(config)
    text = TokenizedCorpus.of(corpus, config)
    trainer = build_trainer(config, text, device)
    state = trainer.state
    cpu = gauges.cpu_seconds()
    try:
        trainer.run()
    except TrainingFailed as error:
        raise Stop(ExitCode.FAILED, f"arm {name}, seed {seed}: {error}") from error
    cpu = gauges.cpu_seconds() - cpu
    sentences = Sentences(scored, text.tokenizer, config.text.max_tokens)
    chunk = chunk_size(state.config, state.stage, state.plan.micro_batch)
    possible = [control for control in CONTROLS if control != "bypass" or state.model.lattice is not None]
    scores = {control: evaluate(state.model, sentences, text.tokenizer, chunk, control)[0] for control in possible}
    controls = {control: quality.bleu for control, quality in scores.items() if control != "none"}
    return ArmResult(name, seed, scores["none"], controls, state.progress.step, cpu)


def _baselines(corpus: Corpus, scored: tuple[Pair, ...]) -> list[ArmResult]:
    """Replies that need no model: the question itself, and the training set's most frequent reply."""
    frequent = Counter(pair.target for pair in corpus.train).most_common(1)[0][0]
    replies = {"copy": [pair.source for pair in scored], "most frequent reply": [frequent] * len(scored)}
    references = [pair.target for pair in scored]
    return [ArmResult(name, None, score(said, references), {}, 0, 0.0) for name, said in replies.items()]


def _score(results: list[ArmResult], arm: str, seed: int, measure: str) -> float:
    """BLEU of an arm, or the percentage of its exact answers."""
    quality = next(result.quality for result in results if (result.arm, result.seed) == (arm, seed))
    return quality.bleu if measure == "bleu" else 100 * quality.exact
