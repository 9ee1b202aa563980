"""Shows what an experiment found: a table of its arms and a sentence for each comparison, or JSON."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from app import formats
from app.experiments.experiment import Arm, ExperimentRequest
from app.experiments.measure import Outcome
from app.experiments.search import Trial
from app.experiments.statistics import UNKNOWN, Effect, Need, change, difference, rank, saved

Results = dict[str, list[Outcome]]
"""Outcomes of each arm, by seed."""

Measure = Literal["steps", "cpu_s", "bleu", "loss"]
"""What an effect is measured in: share of the steps saved, share of the CPU seconds saved, points of BLEU gained, or the
share by which the last loss differs."""


@dataclass(frozen=True)
class Comparison:
    """An arm against a reference.

    `steps` and `cpu_s` are the shares of steps and CPU seconds to the target that the arm saves, `bleu` the points that it
    gains.  `loss`: the arm's last held-out loss is higher than the reference's by this share.
    """

    arm: str
    reference: str
    steps: Effect
    cpu_s: Effect
    bleu: Effect
    loss: Effect


def compare(results: Results, arm: str, reference: str, target: float) -> Comparison:
    ours, theirs = results[arm], results[reference]
    return Comparison(
        arm,
        reference,
        steps=saved([run.steps_to(target) for run in ours], [run.steps_to(target) for run in theirs]),
        cpu_s=saved([run.cpu_to(target) for run in ours], [run.cpu_to(target) for run in theirs]),
        bleu=difference([run.bleu for run in ours], [run.bleu for run in theirs]),
        loss=change([run.loss for run in ours], [run.loss for run in theirs]),
    )


def fastest(results: Results, names: list[str], target: float) -> str | None:
    """The arm that needs the fewest steps; None if there are no arms.

    An arm whose runs reached the target in more seeds comes first.
    """
    return min(names, key=lambda name: rank([run.steps_to(target) for run in results[name]]), default=None)


@dataclass(frozen=True)
class Finding:
    """All that is shown.

    The experiment's effect is `measure` of the comparison `main`.  The last column of the table compares every arm with the arm
    `reference`.
    """

    name: str
    arms: list[Arm]
    results: Results
    scored: int
    reference: str | None
    main: Comparison | None
    also: list[Comparison]
    measure: Measure
    columns: tuple[str, ...]
    trials: list[Trial] = dataclasses.field(default_factory=list)


def show(finding: Finding, request: ExperimentRequest) -> None:
    """Prints to stdout."""
    if request.as_json:
        print(json.dumps(as_json(finding, request), allow_nan=False))
        return
    console, target = Console(highlight=False, emoji=False), request.conditions.target
    last = {"bleu": "BLEU gained", "cpu_s": "CPU s saved", "steps": "steps saved", "loss": "loss change"}[finding.measure]
    table = Table("arm", *finding.columns, last, box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for column in table.columns[1:]:
        column.justify = "right"
    for arm in finding.arms:
        runs, cells = finding.results[arm.name], [arm.name]
        cells += [COLUMNS[column](runs, target) for column in finding.columns]
        if finding.reference in (None, arm.name):
            cells.append("-")
        else:
            versus = compare(finding.results, arm.name, finding.reference, target)
            cells.append(effect_in_words(getattr(versus, finding.measure), finding.measure))
        table.add_row(*cells)
    console.print(table)
    for line in sentences(finding, request):
        console.print(line, markup=False)


def sentences(finding: Finding, request: ExperimentRequest) -> list[str]:
    """Sentences about comparisons, missed targets and failures, and about what the numbers measure."""
    target = f"held-out loss {request.conditions.target:g}"
    lines = []
    for versus in [finding.main, *finding.also]:
        if versus is None:
            continue
        steps, cpu_s = effect_in_words(versus.steps, "steps"), effect_in_words(versus.cpu_s, "cpu_s")
        line = f"{versus.arm} against {versus.reference}: to {target} saves {steps} of the steps, {cpu_s} of the CPU seconds"
        if UNKNOWN in (versus.steps, versus.cpu_s):
            line = f"{versus.arm} against {versus.reference}: runs of both did not reach {target}, so savings are unknown"
        # Runs that stop at the target have nearly the same loss, and their BLEU says little.
        if request.conditions.to_end:
            line += f"; loss {effect_in_words(versus.loss, 'loss')}; BLEU {effect_in_words(versus.bleu, 'bleu')}"
        lines.append(line)
    runs = [run for arm in finding.results.values() for run in arm]
    if missed := [run for run in runs if run.steps_to(request.conditions.target).censored and not run.failure]:
        budget = missed[0].budget
        lines.append(f"{len(missed)} of {len(runs)} runs did not reach it in {budget} steps; they count with what they had (≥)")
    lines += [f"{run.arm}, seed {run.seed} failed at step {run.steps + 1}: {run.failure}" for run in runs if run.failure]
    seeds = f"{request.seeds} paired seeds, 95 % bootstrap intervals" if request.seeds > 1 else "one seed, no intervals"
    ended = "at the end" if request.conditions.to_end else "where runs stopped"
    scores = f"loss and BLEU {ended}, BLEU on {formats.count(finding.scored)} sentences"
    if not request.conditions.score:
        scores = f"loss {ended}"
    lines.append(f"{seeds}; steps and CPU seconds to {target}, discovery included, looks left out; {scores}")
    return lines


def as_json(finding: Finding, request: ExperimentRequest) -> dict[str, Any]:
    main = UNKNOWN if finding.main is None else getattr(finding.main, finding.measure)
    comparisons = [versus for versus in [finding.main, *finding.also] if versus is not None]
    return {
        "name": finding.name,
        "arms": [_arm_json(arm, finding.results[arm.name], request.conditions.target) for arm in finding.arms],
        "effect": main.mean,
        "low": main.low,
        "high": main.high,
        "seeds": request.seeds,
        "bound": main.bound,
        "measure": finding.measure,
        "target": request.conditions.target,
        "comparisons": [dataclasses.asdict(versus) for versus in comparisons],
        "trials": [dataclasses.asdict(trial) for trial in finding.trials],
    }


def _arm_json(arm: Arm, runs: list[Outcome], target: float) -> dict[str, Any]:
    rows = []
    for run in runs:
        steps, cpu_s = run.steps_to(target), run.cpu_to(target)
        needed = {"censored": steps.censored, "steps_to_target": steps.value, "cpu_s_to_target": cpu_s.value, "loss": run.loss}
        rows.append(dataclasses.asdict(run) | needed)
    return {"arm": arm.name, "settings": arm.settings, "defaults": arm.defaults, "runs": rows}


def effect_in_words(effect: Effect, measure: Measure) -> str:
    """ "12 % (8 to 15)", with "≥" or "≤" in front if censored runs allow only a bound."""
    if effect.mean is None:
        return "unknown"
    sign = {"at least": "≥", "at most": "≤"}.get(effect.bound, "")
    scale, unit = (1.0, "") if measure == "bleu" else (100.0, " %")
    digits = {"bleu": "+z.1f", "loss": "+z.1f"}.get(measure, ".0f")
    spread = ""
    if effect.low is not None and effect.high is not None:
        spread = f" ({scale * effect.low:{digits}} to {scale * effect.high:{digits}})"
    return f"{sign}{scale * effect.mean:{digits}}{unit}{spread}"


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.mean(known) if len(known) == len(values) else None


def _need(needs: list[Need], digits: str) -> str:
    return ("≥" if any(need.censored for need in needs) else "") + format(statistics.mean(need.value for need in needs), digits)


def _loss(runs: list[Outcome], _target: float) -> str:
    mean = _mean([run.loss for run in runs])
    return "failed" if mean is None else f"{mean:.2f}"


def _bytes(count: int | None) -> str:
    return "-" if count is None else formats.bytes_(count)


COLUMNS: dict[str, Callable[[list[Outcome], float], str]] = {
    "reached": lambda runs, target: f"{sum(not run.steps_to(target).censored for run in runs)}/{len(runs)}",
    "steps": lambda runs, target: _need([run.steps_to(target) for run in runs], ".0f"),
    "CPU s": lambda runs, target: _need([run.cpu_to(target) for run in runs], ".1f"),
    "loss": _loss,
    "BLEU": lambda runs, _: formats.score(_mean([run.bleu for run in runs])),
    "connections": lambda runs, _: formats.bytes_(runs[0].connection_bytes),
    "optimizer": lambda runs, _: _bytes(runs[0].lattice_optimizer_bytes),
    "ms/step": lambda runs, _: f"{1000 * statistics.mean(run.step_cpu_s for run in runs):.0f}",
}
"""Heads of columns, each with the function that makes an arm's cell from its runs: means over seeds."""
