"""`experiment arms` in order: arms, their runs over seeds, and what they say."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from app import configure
from app.exit_codes import ExitCode, Stop
from app.experiments.arms import curves, told
from app.experiments.arms.control_arms import ENCODER_SIZE, EQUAL_CPU, TRAINED, WITHOUT_LATTICE, chosen
from app.experiments.arms.findings import HELD_OUT, Arms, Results
from app.experiments.arms.scored_run import LOOK_SENTENCES, ArmOutcome, ArmText, train
from app.experiments.experiment import Arm, ExperimentRequest, run_key, say_runs
from app.experiments.ledger import Ledger
from app.experiments.measure import say_cuts
from app.pictures import check_plot
from app.run_process.prepare import prepare_device, read_corpus
from lattice.data.batches import Sentences, TokenizedCorpus
from lattice.data.corpus import Corpus, pairs_to_score
from lattice.data.pair import DataError, Pair
from monitors.quality import Quality
from monitors.quality import score as quality_of
from presets.schema import RunConfig


@dataclass(frozen=True)
class ArmsOptions:
    """The options that `experiment arms` alone has."""

    tests: list[Path]
    target: float | None
    every: int
    equal_cpu: bool


def run(request: ExperimentRequest, options: ArmsOptions) -> None:
    """Trains every arm with every seed and prints the scores.  Raises Stop.

    Scores are compared by BLEU, or for a bundled task by exact answers: an answer of one or two words has no BLEU.
    """
    _check(request, options)
    runs = ArmRuns(request, options, chosen(request))
    results = runs.all(request.seeds)
    found = Arms(results, runs.baselines, runs.measure, request.seeds, runs.looked, options.target)
    if request.plot:
        curves.draw(request.plot, found)
    told.show(found, request.as_json)


def _check(request: ExperimentRequest, options: ArmsOptions) -> None:
    check_plot(request.plot)
    for name, given in (("--target", options.target is not None), ("--plot", request.plot is not None)):
        if given and not options.every:
            raise Stop(ExitCode.USAGE, f"{name}: needs scores on the way; give --every, the steps between them")
    target = options.target
    if target is not None and not (math.isfinite(target) and 0 < target <= 100):
        raise Stop(ExitCode.USAGE, f"--target: {target:g} is no score to reach; scores go from 0 to 100")
    for name, count in Counter(map(str, options.tests)).items():
        if count > 1:
            raise Stop(ExitCode.USAGE, f"--test: {name} is given twice; give it once")


class ArmRuns:
    """Runs arms over seeds.  The constructor checks the config of every arm and reads all text, and raises Stop."""

    def __init__(self, request: ExperimentRequest, options: ArmsOptions, arms: list[Arm]) -> None:
        self._source, self._every, self._arms = request.source, options.every, arms
        base = request.source.load().config
        self._lengthened = [arm for arm in arms if options.equal_cpu and arm.name in WITHOUT_LATTICE]
        if options.equal_cpu and not (self._lengthened and TRAINED in [arm.name for arm in arms]):
            which = ", ".join(WITHOUT_LATTICE)
            raise Stop(ExitCode.USAGE, f"--equal-cpu: compares {which} with {TRAINED}; choose {TRAINED} and one of the others")
        self._first_seed = base.run.seed
        self._devices = {arm.name: prepare_device(self._config(arm, self._first_seed)) for arm in arms}
        self.measure = base.data.measure
        corpus = read_corpus(base)
        tests = _tests(options.tests, base, corpus)
        self._text = _tokenized(base, corpus, tests)
        hashes = [dataclasses.replace(corpus, train=(), valid=pairs).fingerprint() for pairs in tests.values()]
        self._text_key = [corpus.fingerprint(), *tests, *hashes]
        reconstructs = base.data.task == "reconstruct"
        self.baselines = {name: {} if reconstructs else _baselines(corpus, pairs) for name, pairs in tests.items()}
        self.looked = len(self._text.looked)
        self._ledger = Ledger(request.out, ArmOutcome.of_row)

    def all(self, seeds: int) -> Results:
        """The outcomes of each arm, in the order of the seeds.

        A seed is finished with all arms before the next one begins, so that an interrupted experiment has pairs.
        """
        say_runs(self._arms, seeds, self._config(self._arms[0], self._first_seed).total_steps)
        results: Results = {}
        for seed in range(self._first_seed, self._first_seed + seeds):
            of_seed = {arm.name: self._one(arm.name, arm, seed, self._config(arm, seed)) for arm in self._arms}
            for arm in self._lengthened:
                name, config = f"{arm.name}{EQUAL_CPU}", self._config(arm, seed)
                # The same CPU seconds per step as before: the schedule of learning rates spans the new number of steps.
                short, share = of_seed[arm.name], of_seed[TRAINED].cpu_s / of_seed[arm.name].cpu_s
                steps = max(len(config.stages), round(short.steps * share))
                of_seed[name] = self._one(name, arm, seed, configure.with_steps(config, steps))
            for name, outcome in of_seed.items():
                results.setdefault(name, []).append(outcome)
        return results

    def _config(self, arm: Arm, seed: int) -> RunConfig:
        return self._source.config(arm, seed, ENCODER_SIZE)

    def _one(self, name: str, arm: Arm, seed: int, config: RunConfig) -> ArmOutcome:
        """The outcome of one run.  A run that the results file has already is not trained again."""
        looks = {"every": self._every, "sentences": LOOK_SENTENCES}
        key = run_key(config, looks, self._text_key)
        if found := self._ledger.find(name, seed, key):
            print(f"{name}, seed {seed}: already in the results file", file=sys.stderr)
            return found
        outcome = train(name, seed, config, self._text, self._devices[arm.name], self._every, self.measure)
        self._ledger.add(key, outcome, {"experiment": "arms", "measure": self.measure, "settings": arm.settings})
        quality = next(iter(outcome.scores.values()))["none"]
        scores = f"BLEU {told.score(quality, 'bleu')}, exact {told.score(quality, 'exact')}"
        print(f"{name}, seed {seed}: {scores}; {outcome.steps} steps, {outcome.cpu_s:.1f} CPU s", file=sys.stderr)
        return outcome


def _tests(given: list[Path], base: RunConfig, corpus: Corpus) -> dict[str, tuple[Pair, ...]]:
    """The pairs to score by the name of their text.  Raises Stop."""
    try:
        return {str(path): pairs_to_score(path, base, {}) for path in given} or {HELD_OUT: corpus.valid}
    except DataError as error:
        raise Stop(ExitCode.USAGE, str(error)) from error


def _tokenized(base: RunConfig, corpus: Corpus, tests: dict[str, tuple[Pair, ...]]) -> ArmText:
    """All text as tokens."""
    tokenized, limit = TokenizedCorpus.of(corpus, base), base.text.max_tokens
    looked = Sentences(corpus.valid[:LOOK_SENTENCES], tokenized.tokenizer, limit)
    text = ArmText(tokenized, looked, {name: Sentences(of, tokenized.tokenizer, limit) for name, of in tests.items()})
    say_cuts(tokenized.train, text.tests)
    return text


def _baselines(corpus: Corpus, scored: tuple[Pair, ...]) -> dict[str, Quality]:
    """Replies that need no model: the question itself, and the training set's most frequent reply."""
    frequent = Counter(pair.target for pair in corpus.train).most_common(1)[0][0]
    references = [pair.target for pair in scored]
    replies = {"copy": [pair.source for pair in scored], "most frequent reply": [frequent] * len(scored)}
    return {name: quality_of(said, references) for name, said in replies.items()}
