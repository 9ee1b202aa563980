"""`experiment repair`: how much damage a trained lattice heals, and whether training under damage helps.

The arms are trained without wounds, and with a block of cells silenced in half of the sentences of each step, or in as many as
`--set training.wounds` says.  Then held-out sentences are decoded under damage: in each of them a block of columns is zeroed
before one of its ticks, and in every tick cells update with some probability only.  In a seed, all arms meet the same damage.

The effect is what the arm with wounds has over the one without, if a quarter of the columns is zeroed and all cells update:
points of BLEU, or for a bundled task percent of exact answers.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from app import formats
from app.exit_codes import ExitCode, Stop
from app.experiments.experiment import Arm, Experiment, ExperimentRequest, choose
from app.experiments.measure import ExperimentText, Looks, Outcome
from app.experiments.report import Results
from app.experiments.statistics import UNKNOWN, Effect, difference
from app.pictures import check_plot, save_plot
from lattice.kernels.chance import wound_columns
from lattice.observing.scoring import chunk_size, evaluate
from lattice.random_streams import key
from lattice.training.state import TrainingState
from presets.measure import score_by
from presets.schema import RunConfig

UNWOUNDED, WOUNDED = "unwounded", "wounded"
ARMS = (
    Arm(UNWOUNDED, ("training.wounds=0", "training.wound_size=none")),
    Arm(WOUNDED, defaults=("training.wounds=0.5",)),
)

SHARES = (0.0, 1 / 16, 1 / 8, 1 / 4, 1 / 2)
"""Shares of the columns that are zeroed."""

PROBABILITIES = (1.0, 0.9, 0.5)
"""Probabilities of a cell to update."""

MAIN_SHARE, MAIN_PROBABILITY = 1 / 4, 1.0

Condition = tuple[float, float]
"""Share of the columns that is zeroed, and probability of a cell to update."""


class RepairLooks(Looks):
    """Also decodes the sentences to score under each damage, after the last step."""

    def finish(self, state: TrainingState, text: ExperimentText) -> None:
        config, model = state.config, state.model
        chunk = chunk_size(config, state.stage, state.plan.micro_batch)
        damage = key(config.run.seed, "repair")
        for share, probability in conditions(config):
            size = share or 1.0  # without a share nobody is wounded
            with model.drawn(key=damage, update_probability=probability, wounds=float(share > 0), wound_size=size):
                quality, _ = evaluate(model, text.scored, text.corpus.tokenizer, chunk)
            self.repaired.append((share, probability, score_by(config.data.measure, quality.bleu, quality.exact)))


def true_share(config: RunConfig, share: float) -> float:
    """The share of the last stage's face that the rectangle nearest to `share` takes."""
    x, y, _ = config.stages[-1].shape
    return math.prod(wound_columns(share, x, y)) / (x * y) if share else 0.0


def conditions(config: RunConfig) -> list[Condition]:
    """All damage that is scored, none first.  On a small face, shares that are one number of columns count once."""
    shares = sorted({true_share(config, share) for share in SHARES})
    return [(share, probability) for probability in PROBABILITIES for share in shares]


def run(request: ExperimentRequest) -> None:
    """Trains every arm with every seed, scores it under damage, and prints what was found.  Raises Stop."""
    check_plot(request.plot)
    base = request.source.load().config
    if base.lattice.arm != "lattice":
        raise Stop(ExitCode.USAGE, f"lattice.arm: {base.lattice.arm} has no cells that could be damaged; use lattice")
    arms = choose(ARMS, request.arms, request.own_arms)
    if any(arm.name == WOUNDED and not request.source.config(arm, base.run.seed).training.wounds for arm in arms):
        raise Stop(ExitCode.USAGE, f"training.wounds: 0 leaves nothing to tell {WOUNDED} from {UNWOUNDED}; use more")
    without_bleu = dataclasses.replace(request.conditions, score=False)
    experiment = Experiment("repair", request.source, without_bleu, arms, request.out, RepairLooks)
    results = experiment.run(arms, request.seeds)
    if request.plot:
        draw(request.plot, results, base)
    if request.as_json:
        print(json.dumps(as_json(arms, results, base, request.seeds), allow_nan=False))
        return
    console = Console(highlight=False, emoji=False)
    console.print(table(results, base))
    for line in sentences(results, base, request.seeds, experiment.scored):
        console.print(line, markup=False)


def scores(runs: list[Outcome], condition: Condition) -> list[float | None]:
    """The score of each run under a condition; None if the run failed."""
    by_run = [{(share, probability): score for share, probability, score in run.repaired} for run in runs]
    return [found.get(condition) for found in by_run]


def effect(results: Results, condition: Condition) -> Effect:
    """What the arm with wounds has over the one without; unknown if one of them is left out."""
    if not {WOUNDED, UNWOUNDED} <= results.keys():
        return UNKNOWN
    return difference(scores(results[WOUNDED], condition), scores(results[UNWOUNDED], condition))


def table(results: Results, base: RunConfig) -> Table:
    """Mean scores over seeds: a row per arm and probability, a column per share."""
    shares = sorted({share for share, _ in conditions(base)})
    found = Table("arm", "p", *(f"{share:.1%}" if share else "whole" for share in shares), box=None, pad_edge=False)
    for column in found.columns[1:]:
        column.justify = "right"
    for name, runs in results.items():
        for probability in PROBABILITIES:
            cells = (scores(runs, (share, probability)) for share in shares)
            found.add_row(name, f"{probability:g}", *(_mean(each) for each in cells))
    return found


def _mean(found: list[float | None]) -> str:
    known = [score for score in found if score is not None]
    return f"{statistics.mean(known):.1f}" if len(known) == len(found) else "failed"


def sentences(results: Results, base: RunConfig, seeds: int, scored: int) -> Iterator[str]:
    """What the numbers are, and what training under wounds gains at p = 1."""
    unit = "BLEU" if base.data.measure == "bleu" else "exact answers in percent"
    over = f"means over {seeds} seeds, 95 % bootstrap intervals" if seeds > 1 else "one seed, no intervals"
    yield (
        f"{unit}, {over}, on {formats.count(scored)} sentences; columns: share of the face zeroed before one tick of each "
        "sentence; p: probability of a cell to update in a tick"
    )
    for share, probability in conditions(base):
        found = effect(results, (share, probability))
        if probability != MAIN_PROBABILITY or found.mean is None:
            continue
        spread = "" if found.low is None or found.high is None else f" ({found.low:+z.1f} to {found.high:+z.1f})"
        damage = f"{share:.1%} zeroed" if share else "nothing zeroed"
        yield f"{WOUNDED} against {UNWOUNDED}, {damage}: {found.mean:+z.1f}{spread}"
    for runs in results.values():
        yield from (f"{run.arm}, seed {run.seed} failed at step {run.steps + 1}: {run.failure}" for run in runs if run.failure)


def as_json(arms: list[Arm], results: Results, base: RunConfig, seeds: int) -> dict[str, Any]:
    main = effect(results, (true_share(base, MAIN_SHARE), MAIN_PROBABILITY))
    return {
        "name": "repair",
        "arms": [{"arm": arm.name, "settings": arm.settings, "runs": _runs(results[arm.name])} for arm in arms],
        "effect": main.mean,
        "low": main.low,
        "high": main.high,
        "seeds": seeds,
        "measure": base.data.measure,
        "effects": [_damage(*condition) | dataclasses.asdict(effect(results, condition)) for condition in conditions(base)],
    }


def _runs(runs: list[Outcome]) -> list[dict[str, Any]]:
    return [
        {"seed": run.seed, "steps": run.steps, "cpu_s": run.cpu_s, "loss": run.loss, "failure": run.failure}
        | {"scores": [_damage(share, probability) | {"score": score} for share, probability, score in run.repaired]}
        for run in runs
    ]


def _damage(share: float, probability: float) -> dict[str, float]:
    return {"share": share, "update_probability": probability}


def draw(path: Path, results: Results, base: RunConfig) -> None:
    """Writes the self-repair curve as a PNG: score against damaged share, a line per arm and probability, bands over seeds.

    Raises Stop if that fails.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.4), layout="constrained")
    axes, colours = figure.subplots(), colormaps["tab10"]
    shares = sorted({share for share, _ in conditions(base)})
    for row, (name, runs) in enumerate(results.items()):
        done = [run for run in runs if not run.failure]
        for probability, style in zip(PROBABILITIES, ("-", "--", ":"), strict=True):
            columns = [[score for score in scores(done, (share, probability)) if score is not None] for share in shares]
            if not done:
                continue
            means, label = [statistics.mean(column) for column in columns], f"{name}, p = {probability:g}"
            axes.plot(shares, means, style, color=colours(row % 10), marker=".", linewidth=1.8, label=label)
            axes.fill_between(shares, list(map(min, columns)), list(map(max, columns)), color=colours(row % 10), alpha=0.15)
    unit = "BLEU" if base.data.measure == "bleu" else "exact answers, %"
    axes.set(xlabel="share of the columns zeroed before one tick", ylabel=unit, title="mean, least and most over seeds")
    axes.set_xticks(shares, [f"{share:.3g}" for share in shares])
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    figure.legend(loc="outside lower center", ncols=max(1, len(results)), fontsize="small", frameon=False, handlelength=4)
    figure.suptitle("self-repair: p is the probability of a cell to update in a tick")
    save_plot(figure, path, dpi=130)
