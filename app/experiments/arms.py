"""`experiment arms`: what the lattice adds.

The same encoder, decoder and ports are trained with a lattice that learns, with a frozen one, and without any.  The last arm
has no lattice either, but an encoder with as many more parameters.
"""

from __future__ import annotations

import bisect
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
from presets.text_memory import encoder_size
from presets.text_section import MAX_ENCODER_LAYERS, MAX_FEED_FORWARD, TextSection

Changes = dict[str, dict[str, Any]]
"""Values of settings by their name in a section, by section."""

NO_LATTICE: Changes = {"lattice": {"arm": "identity"}, "rule": {"kind": "none", "hidden": None}}

ARMS: dict[str, Changes] = {
    "trained": {},
    "frozen": {"connections": {"learning": "frozen"}, "lattice": {"cells": "frozen"}},
    "identity": NO_LATTICE,
}
"""What each arm changes in the config.  Ports, encoder and decoder are trained in all of them."""

LARGER = "larger encoder"
"""The arm without a lattice whose encoder has at least as many more parameters as lattice and ports would have."""


@dataclass(frozen=True)
class ArmResult:
    """The scores of one training run, or of a baseline that needs no training; then `seed` is None."""

    arm: str
    seed: int | None
    quality: Quality
    controls: dict[str, Quality]
    """The scores under each control."""
    steps: int
    cpu_s: float
    parameters: int

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
            "parameters": self.parameters,
            "controls": {name: quality.bleu for name, quality in self.controls.items()},
            "exact_under_controls": {name: quality.exact for name, quality in self.controls.items()},
        } | scores


def run(request: ExperimentRequest) -> None:
    """Trains every arm with every seed and prints the scores.  Raises Stop.

    Effects are BLEU of the trained lattice minus BLEU of each other arm.  For a bundled task they are in percent of exact
    answers: an answer of one or two words has no BLEU.
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
        of_seed: dict[str, ArmResult] = {}
        for name, changes in ARMS.items():
            of_seed[name] = _train_arm(name, seed, _changed(base, changes, seed), corpus, scored)
        text = _larger_encoder(base.text, of_seed["trained"].parameters - of_seed["identity"].parameters)
        if text is None:
            print(f"{LARGER}: left out, the largest encoder has fewer parameters than this lattice", file=sys.stderr)
        else:
            config = _changed(base, NO_LATTICE | {"text": text}, seed)
            of_seed[LARGER] = _train_arm(LARGER, seed, config, corpus, scored)
        results.extend(of_seed.values())
    measure = "exact" if is_task(base.data.train) else "bleu"
    effects = {arm: _effect(results, arm, measure) for arm in ("frozen", "identity", LARGER) if _of(results, arm)}
    if request.as_json:
        rows = [result.as_json() for result in results]
        told = {"name": "arms", "arms": rows, "effects": effects, "seeds": seeds, "measure": measure}
        print(json.dumps(told | effects["frozen"]))
        return
    table = Table(
        "arm", "seed", "BLEU", "chrF", "exact", "shuffled", "bypass", "parameters", "CPU-minutes", box=None, pad_edge=False
    )
    for result in results:
        quality, controls = result.quality, [_told(result.controls.get(name), measure) for name in CONTROLS[1:]]
        scores = (_told(quality, "bleu"), formats.score(quality.chrf), _told(quality, "exact"))
        told_seed = "-" if result.seed is None else str(result.seed)
        parameters = formats.count(result.parameters) if result.parameters else "-"
        table.add_row(result.arm, told_seed, *scores, *controls, parameters, f"{result.cpu_s / 60:.1f}")
    Console(highlight=False).print(table)
    unit = "BLEU" if measure == "bleu" else "% of exact answers"
    print(f"the trained lattice has, in {unit}, {scored_on(scored)}:")
    for arm, found in effects.items():
        low, high = found["low"], found["high"]
        spread = "one seed: no interval" if low is None else f"{low:.1f} to {high:.1f}, 95 % bootstrap over {seeds} seeds"
        print(f"  {found['effect']:+.1f} against {arm} ({spread})")


def scored_on(scored: tuple[Pair, ...]) -> str:
    return f"scored on {formats.count(len(scored))} sentences"


def _told(quality: Quality | None, measure: str) -> str:
    """BLEU, or the percentage of exact answers."""
    if quality is None:
        return "-"
    return formats.score(quality.bleu) if measure == "bleu" else f"{quality.exact:.1%}"


def _larger_encoder(text: TextSection, more: int) -> dict[str, int] | None:
    """Settings of an encoder with at least `more` parameters more than this one; None if no encoder can have so many.

    Layers are added only if the widest feed-forward layer is not enough.
    """
    wanted = encoder_size(text) + more
    for layers in range(text.encoder_layers, MAX_ENCODER_LAYERS + 1):
        widths = range(text.encoder_feed_forward, MAX_FEED_FORWARD + 1)
        sizes = [{"encoder_layers": layers, "encoder_feed_forward": width} for width in widths]
        found = bisect.bisect_left(sizes, wanted, key=lambda size: encoder_size(text.model_copy(update=size)))
        if found < len(sizes):
            return sizes[found]
    return None


def _changed(base: RunConfig, changes: Changes, seed: int) -> RunConfig:
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
    quality = scores.pop("none")
    print(f"{name}, seed {seed}: BLEU {_told(quality, 'bleu')}, exact {_told(quality, 'exact')}", file=sys.stderr)
    parameters = sum(p.numel() for p in state.model.parameters())
    return ArmResult(name, seed, quality, scores, state.progress.step, cpu, parameters)


def _baselines(corpus: Corpus, scored: tuple[Pair, ...]) -> list[ArmResult]:
    """Replies that need no model: the question itself, and the training set's most frequent reply."""
    frequent = Counter(pair.target for pair in corpus.train).most_common(1)[0][0]
    replies = {"copy": [pair.source for pair in scored], "most frequent reply": [frequent] * len(scored)}
    references = [pair.target for pair in scored]
    return [ArmResult(name, None, score(said, references), {}, 0, 0.0, 0) for name, said in replies.items()]


def _of(results: list[ArmResult], arm: str) -> list[ArmResult]:
    """The results of an arm, by seed."""
    return sorted((result for result in results if result.arm == arm), key=lambda result: result.seed or 0)


def _effect(results: list[ArmResult], arm: str, measure: str) -> dict[str, float | None]:
    """BLEU, or percentage of exact answers, of the trained lattice minus that of an arm: mean over seeds and interval."""
    pairs = zip(_of(results, "trained"), _of(results, arm), strict=True)
    effects = [_score(trained, measure) - _score(other, measure) for trained, other in pairs]
    low, high = interval(effects)
    return {"effect": statistics.mean(effects), "low": low, "high": high}


def _score(result: ArmResult, measure: str) -> float:
    return result.quality.bleu if measure == "bleu" else 100 * result.quality.exact
