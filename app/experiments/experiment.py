"""Arms and their paired runs.

In every seed all arms see the same sentences in the same order, and start from the same draw of random numbers.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
import json
import math
import shlex
import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app import configure, formats
from app.exit_codes import ExitCode, Stop
from app.experiments.ledger import Ledger
from app.experiments.measure import Conditions, ExperimentText, Looks, Outcome, say_cuts, train
from app.experiments.shared_options import ExperimentOptions
from app.run_process.prepare import prepare_device, read_corpus
from app.version import VERSION
from lattice.data.corpus import pairs_to_score
from lattice.data.pair import DataError
from presets.layers import Loaded
from presets.schema import RunConfig

SHARED = ("data", "text")
"""Sections that an arm may not change, since runs on other sentences or tokens could not be paired."""

NO_CELLS = (
    "rule.kind=none", "rule.hidden=none", "rule.scope=lattice", "rule.update_probability=1",
    "training.wounds=0", "training.wound_size=none",
)  # fmt: skip
"""Settings that an arm without cells must have."""


@dataclass(frozen=True)
class Arm:
    """The settings of one side of a comparison, as `section.key=value`.

    `defaults` apply only if the preset, the file and --set do not name the setting.
    """

    name: str
    settings: tuple[str, ...] = ()
    defaults: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """Where the config of all arms comes from, as the command line says."""

    preset: str
    config_file: Path | None
    assignments: list[str]
    given: configure.Given
    steps: int | None
    test: Path | None

    def load(self, *settings: str) -> Loaded:
        return configure.load(self.preset, self.config_file, [*self.assignments, *settings], self.given)

    def config(self, arm: Arm, seed: int, free: Collection[str] = ()) -> RunConfig:
        """An arm's config, which may differ from the others in the settings `free` of the sections SHARED.  Raises Stop."""
        base = self.load()
        defaults = [setting for setting in arm.defaults if base.origin(setting.partition("=")[0]) == "default"]
        try:
            config = self.load(*defaults, *arm.settings).config
        except Stop as stop:
            lines = (f"arm {arm.name}: {line.removeprefix('--set: ')}" for line in str(stop).splitlines())
            raise Stop(stop.code, "\n".join(lines)) from stop
        fixed, own = ({name: getattr(of, name).model_dump(exclude={*free}) for name in SHARED} for of in (base.config, config))
        if changed := [section for section in SHARED if fixed[section] != own[section]]:
            raise Stop(ExitCode.USAGE, f"arm {arm.name}: all arms share the section {changed[0]}; set it with --set instead")
        return configure.with_steps(config.model_copy(update={"run": config.run.model_copy(update={"seed": seed})}), self.steps)


@dataclass(frozen=True)
class ExperimentRequest:
    """What the command line of an experiment asks for, without the options of that experiment alone."""

    source: Source
    conditions: Conditions
    seeds: int
    arms: str | None
    own_arms: list[str]
    out: Path | None
    plot: Path | None
    as_json: bool

    @classmethod
    def of(cls, options: ExperimentOptions) -> ExperimentRequest:
        given = {
            "--data": options.data,
            "--valid": options.valid,
            "--task": options.task,
            "--device": options.device,
        }
        return cls(
            source=Source(options.preset, options.config, options.assignments, given, options.steps, options.test),
            conditions=Conditions(options.target, options.every, options.to_end),
            seeds=options.seeds,
            arms=options.arms,
            own_arms=options.own_arms,
            out=options.out,
            plot=options.plot,
            as_json=options.as_json,
        )


def choose(known: Iterable[Arm], patterns: str | None, own: list[str]) -> list[Arm]:
    """The arms that `--arms` chooses from the known ones, and those that `--arm` adds.

    `patterns` are separated by commas and may have * and ?; None means all known arms.  Raises Stop for a pattern that no arm
    fits.
    """
    known, chosen = list(known), []
    for pattern in ["*"] if patterns is None else [part.strip() for part in patterns.split(",")]:
        fitting = [arm for arm in known if fnmatch.fnmatchcase(arm.name, pattern)]
        if not fitting:
            raise Stop(ExitCode.USAGE, f"--arms: no arm is named {pattern!r}; there are {', '.join(arm.name for arm in known)}")
        chosen += [arm for arm in fitting if arm not in chosen]
    for text in own:
        try:
            name, *settings = shlex.split(text)
        except ValueError:
            name, settings = "", []
        if not settings:
            raise Stop(ExitCode.USAGE, f"--arm: {text!r} is not a name and settings, like 'loud plasticity.rate=0.1'")
        if name in [arm.name for arm in [*known, *chosen]]:
            raise Stop(ExitCode.USAGE, f"--arm: there is already an arm {name}")
        chosen.append(Arm(name, tuple(settings)))
    return chosen


class Experiment:
    """Runs arms over seeds under the same conditions.

    The constructor checks the config of every arm, and raises Stop.
    """

    def __init__(
        self,
        name: str,
        source: Source,
        conditions: Conditions,
        arms: list[Arm],
        out: Path | None,
        looking: type[Looks] = Looks,
    ) -> None:
        if not (math.isfinite(conditions.target) and conditions.target > 0):
            raise Stop(ExitCode.USAGE, f"--target: {conditions.target:g} is no held-out loss; it is in nats a token, above 0")
        self.name, self.source, self.conditions, self._looking = name, source, conditions, looking
        base = source.load().config
        self.first_seed = base.run.seed
        self._devices = {arm.name: prepare_device(source.config(arm, self.first_seed)) for arm in arms}
        corpus = read_corpus(base)
        try:
            scored = pairs_to_score(source.test, base, {}) if source.test else corpus.valid
        except DataError as error:
            raise Stop(ExitCode.USAGE, str(error)) from error
        self.scored = len(scored)
        self._ledger = Ledger(out, Outcome.of_row)
        self._data_key = [corpus.fingerprint(), dataclasses.replace(corpus, train=(), valid=scored).fingerprint()]
        self._text = ExperimentText.of(base, corpus, scored)
        say_cuts(self._text.corpus.train, {"held-out" if source.test is None else str(source.test): self._text.scored})

    def run(self, arms: list[Arm], seeds: int) -> dict[str, list[Outcome]]:
        """The outcomes of each arm, in the order of the seeds.

        A seed is finished with all arms before the next one begins, so that an interrupted experiment has pairs.
        """
        say_runs(arms, seeds, self.source.config(arms[0], self.first_seed).total_steps)
        found: dict[str, list[Outcome]] = {arm.name: [] for arm in arms}
        for seed in range(self.first_seed, self.first_seed + seeds):
            for arm in arms:
                found[arm.name].append(self.one(arm, seed, self.conditions))
        return found

    def one(self, arm: Arm, seed: int, conditions: Conditions, trial: int | None = None) -> Outcome:
        """The outcome of one run.  A run that the results file has already is not trained again."""
        config = self.source.config(arm, seed)
        measured = dataclasses.asdict(conditions) | {"looks": self._looking.__name__}
        key = run_key(config, measured, self._data_key)
        what = f"{arm.name}, seed {seed}" + ("" if trial is None else f", trial {trial}")
        if found := self._ledger.find(arm.name, seed, key):
            print(f"{what}: already in the results file", file=sys.stderr)
            return found
        outcome = train(arm.name, seed, config, self._text, self._devices[arm.name], conditions, self._looking)
        about = {"experiment": self.name, "trial": trial, "settings": arm.settings}
        self._ledger.add(key, outcome, about)
        print(f"{what}: {told(outcome, conditions)}", file=sys.stderr)
        return outcome


def say_runs(arms: list[Arm], seeds: int, steps: int) -> None:
    """Says on stderr which runs are to come, since the first one is told only when it is done."""
    names, each = ", ".join(arm.name for arm in arms), "1 seed" if seeds == 1 else f"{seeds} seeds each"
    count = formats.count(len(arms) * seeds)
    print(f"runs to train: {count} ({names}; {each}) of {formats.count(steps)} steps", file=sys.stderr)


def run_key(config: RunConfig, conditions: dict[str, Any], text: list[str]) -> str:
    """Hash of config (seed included), conditions, text (its fingerprints) and version."""
    of = [config.model_dump(mode="json", exclude={"purpose"}), conditions, text, VERSION]
    return hashlib.blake2b(json.dumps(of, sort_keys=True).encode(), digest_size=16).hexdigest()


def told(outcome: Outcome, conditions: Conditions) -> str:
    """The outcome of a run in one line."""
    if outcome.failure:
        return f"failed at step {outcome.steps + 1}: {outcome.failure}"
    need, bleu = outcome.steps_to(conditions.target), "" if outcome.bleu is None else f", BLEU {formats.score(outcome.bleu)}"
    reached = "target not reached" if need.censored else f"target after {need.value:.0f} steps"
    if outcome.repaired:
        reached = f"score without damage {outcome.repaired[0][2]:.1f}"
    if outcome.healed:
        reached = f"score of the intact lattice {outcome.healed[0][3]:.1f}"
    return f"{reached}; {outcome.steps} steps, {outcome.cpu_s:.0f} CPU s, loss {formats.loss(outcome.loss)}{bleu}"
