"""Shows what `experiment arms` found: a table for each test text and a sentence for each comparison, or JSON."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from rich.console import Console
from rich.table import Table

from app import formats
from app.experiments.arms.findings import HELD_OUT, Arms, reached
from app.experiments.arms.scored_run import ArmOutcome
from app.experiments.statistics import UNKNOWN, Effect
from lattice.model.text_lattice import CONTROLS
from monitors.quality import Quality
from presets.measure import Measure

UNITS = {"exact": "% of exact answers", "bleu": "BLEU"}


def show(arms: Arms, as_json: bool) -> None:
    """Prints to stdout."""
    if as_json:
        print(json.dumps(_as_json(arms), allow_nan=False))
        return
    console = Console(highlight=False, emoji=False)
    for text in arms.texts:
        console.print(_table(arms, text))
        for line in _ahead(arms, text):
            console.print(line, markup=False)
    for line in (*_to_target(arms), *_at_equal_cpu(arms)):
        console.print(line, markup=False)


def score(quality: Quality | None, measure: Measure) -> str:
    """BLEU, or the percentage of exact answers; "-" for None."""
    if quality is None:
        return "-"
    return formats.score(quality.bleu) if measure == "bleu" else f"{quality.exact:.1%}"


def _table(arms: Arms, text: str) -> Table:
    columns = ("seed", "BLEU", "chrF", "exact", "shuffled", "bypass", "parameters", "steps", "CPU s")
    table = Table("arm", *columns, box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for column in table.columns[1:]:
        column.justify = "right"
    for name, quality in arms.baselines[text].items():
        table.add_row(name, "-", *_three(quality), *"-----")
    for run in _by_seed(arms):
        scores = run.scores[text]
        controls = [score(scores.get(name), arms.measure) for name in CONTROLS[1:]]
        counts = (formats.count(run.parameters), formats.count(run.steps), f"{run.cpu_s:.1f}")
        table.add_row(run.arm, str(run.seed), *_three(scores["none"]), *controls, *counts)
    return table


def _three(quality: Quality) -> tuple[str, str, str]:
    return score(quality, "bleu"), formats.score(quality.chrf), score(quality, "exact")


def _by_seed(arms: Arms) -> list[ArmOutcome]:
    """All runs in the order in which they were trained."""
    return [run for runs in zip(*arms.results.values(), strict=True) for run in runs]


def _ahead(arms: Arms, text: str) -> list[str]:
    """What the trained lattice has over each other arm, on a test text."""
    count = next(iter(arms.results.values()))[0].scores[text]["none"].count
    which = "held-out sentences" if text == HELD_OUT else f"sentences of {text}"
    where = f"scored on {formats.count(count)} {which}"
    effects = arms.effects(text)
    if not effects:
        return [where]
    lines = [f"the trained lattice has, in {UNITS[arms.measure]}, {where}:"]
    return lines + [f"  {_spread(effect, arms.seeds)} against {arm}" for arm, effect in effects.items()]


def _spread(effect: Effect, seeds: int) -> str:
    if effect.low is None or effect.high is None:
        return f"{effect.mean:+z.1f} (one seed: no interval)"
    return f"{effect.mean:+z.1f} ({effect.low:z.1f} to {effect.high:z.1f}, 95 % bootstrap over {seeds} seeds)"


def _to_target(arms: Arms) -> list[str]:
    if arms.target is None:
        return []
    lines = [f"to {arms.target:g} {UNITS[arms.measure]} on the first {arms.looked} held-out sentences:"]
    for arm, runs in arms.results.items():
        need, steps = reached(runs, arms.target), formats.count(max(run.steps for run in runs))
        if need.missed == need.runs:
            lines.append(f"  {arm}: not reached in {steps} steps")
            continue
        missed = f", {need.missed} of {need.runs} runs did not reach it and count with all of theirs" if need.missed else ""
        sign = "≥" if need.missed else ""
        lines.append(f"  {arm}: {sign}{need.steps:.0f} steps, {sign}{need.cpu_s:.1f} CPU s{missed}")
    return lines


def _at_equal_cpu(arms: Arms) -> list[str]:
    lines = [
        f"  after {then.cpu_s:.1f} CPU s, when {arm} ended with {then.other:.1f}: {then.trained:.1f}, "
        f"{_spread(then.effect, arms.seeds)}"
        for arm, then in arms.at_their_ends().items()
    ]
    title = f"the trained lattice where others ended, in {UNITS[arms.measure]} on the first {arms.looked} held-out sentences:"
    return [title, *lines] if lines else []


def _as_json(arms: Arms) -> dict[str, Any]:
    first, *_ = arms.texts
    effects = {text: {arm: _effect(effect) for arm, effect in arms.effects(text).items()} for text in arms.texts}
    found: dict[str, Any] = {
        "name": "arms",
        "arms": [
            *(_baseline(name, of) for name, of in arms.baselines[first].items()),
            *(_row(first, run) for run in _by_seed(arms)),
        ],
        "effects": effects[first],
        "seeds": arms.seeds,
        "measure": arms.measure,
        "against": arms.main,
        "texts": effects,
        "at_equal_cpu": {arm: dataclasses.asdict(then) for arm, then in arms.at_their_ends().items()},
    }
    if arms.target is not None:
        needs = {arm: dataclasses.asdict(reached(runs, arms.target)) for arm, runs in arms.results.items()}
        found |= {"target": arms.target, "to_target": needs}
    return found | (effects[first][arms.main] if arms.main is not None else _effect(UNKNOWN))


def _effect(effect: Effect) -> dict[str, float | None]:
    return {"effect": effect.mean, "low": effect.low, "high": effect.high}


def _baseline(name: str, quality: Quality) -> dict[str, Any]:
    return {"arm": name, "seed": None, "steps": 0, "cpu_s": 0.0, "parameters": 0, **_scores({"none": quality})}


def _row(text: str, run: ArmOutcome) -> dict[str, Any]:
    """A run; the scores at its top level are those of the test text `text`."""
    fields = {"arm": run.arm, "seed": run.seed, "steps": run.steps, "cpu_s": run.cpu_s, "parameters": run.parameters}
    looks = {"steps": run.look_steps, "cpu_s": run.look_cpu_s, "scores": run.looks}
    texts = {name: _scores(scores) for name, scores in run.scores.items()}
    return fields | _scores(run.scores[text]) | {"looks": looks, "texts": texts}


def _scores(scores: dict[str, Quality]) -> dict[str, Any]:
    plain, controls = scores["none"], {name: quality for name, quality in scores.items() if name != "none"}
    return {
        "controls": {name: quality.bleu for name, quality in controls.items()},
        "exact_under_controls": {name: quality.exact for name, quality in controls.items()},
        "bleu": plain.bleu,
        "chrf": plain.chrf,
        "exact": plain.exact,
        "count": plain.count,
    }
