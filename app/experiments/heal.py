"""`experiment heal`: which method gives back what a wound destroyed, and how soon.

The arms are trained as usual.  Then each trained lattice is wounded, healed by each method in turn, and scored on its way, all
on held-out sentences.  In a seed all methods meet the same wound and the same sentences.

The effect is what the first method has gained at the end over the wounded lattice, with the first of the wounds: points of
BLEU, or for a bundled task percent of exact answers.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from app import formats
from app.exit_codes import ExitCode, Stop
from app.experiments.experiment import Arm, Experiment, ExperimentRequest, choose
from app.experiments.healing_methods import METHODS, Patient
from app.experiments.measure import ExperimentText, Looks, Outcome
from app.experiments.report import Results
from app.experiments.statistics import Effect, difference
from app.pictures import check_plot, save_plot
from lattice.data.batches import Sentences
from lattice.healing.wounding import wound
from lattice.observing.scoring import chunk_size, evaluate
from lattice.random_streams import generator
from lattice.training.state import TrainingState
from presets import wound as wounds
from presets.measure import score_by
from presets.wound import Wound

ARMS = (Arm("trained"),)
SCORED = 200
"""Most sentences that a lattice is scored on."""

WAVES = (1, 5, 20, 40, 160, 400)
"""Waves after which a lattice is scored, besides the end."""

NONE = "none"
"""The method that does nothing: the wounded lattice."""

INTACT = "intact"
"""In the place of a wound and of a method: the lattice before it."""


class Healed(NamedTuple):
    """The score of a lattice after so many waves of a method, and the CPU seconds that these took."""

    wound: str
    method: str
    waves: int
    score: float
    cpu_s: float


def looks_for(harm: list[Wound], methods: list[str], most: int) -> type[Looks]:
    """The class of looks that also wounds the trained lattice, heals it and scores it, after the last step."""

    class HealLooks(Looks):
        def finish(self, state: TrainingState, text: ExperimentText) -> None:
            pairs = text.scored.pairs[:SCORED]
            held = Sentences(pairs, text.corpus.tokenizer, state.config.text.max_tokens)
            self.healed = list(_healed(state, held, harm, methods, most))

    HealLooks.__name__ = f"HealLooks of {', '.join(map(str, harm))} by {', '.join(methods)} in {most}"  # a part of a run's key
    return HealLooks


def _healed(state: TrainingState, held: Sentences, harm: list[Wound], methods: list[str], most: int) -> Iterator[Healed]:
    """All scores of a trained model, which is intact again afterwards."""
    model, config = state.model, state.config
    chunk = chunk_size(config, state.stage, state.plan.micro_batch)

    def score() -> float:
        quality, _ = evaluate(model, held, state.tokenizer, chunk)
        return score_by(config.data.measure, quality.bleu, quality.exact)

    whole = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    yield Healed(INTACT, INTACT, 0, score(), 0.0)
    for what, method in itertools.product(harm, [NONE, *methods]):
        lost = wound(state.lattice, what, generator(config.run.seed, "wound"))
        if method == NONE:
            yield Healed(str(what), NONE, 0, score(), 0.0)
        else:
            patient = Patient(config, model, state.train_sentences, lost, config.run.seed, chunk)
            yield from _course(patient, str(what), method, most, score)
        state.lattice.lose(None)
        model.load_state_dict(whole)


def _course(patient: Patient, what: str, method: str, most: int, score: Callable[[], float]) -> Iterator[Healed]:
    """The scores of a patient on the way through a method, and at its end."""
    done, told, spent, clock = 0, -1, 0.0, time.process_time()
    for done, _ in enumerate(METHODS[method](patient, most), 1):
        if done in WAVES:
            spent += time.process_time() - clock
            yield Healed(what, method, done, score(), spent)
            told, clock = done, time.process_time()
    if told != done:
        yield Healed(what, method, done, score(), spent + time.process_time() - clock)


def run(request: ExperimentRequest, harm: list[str], methods: str | None, most: int) -> None:
    """Trains every arm with every seed, wounds it, heals it, and prints what was found.  Raises Stop."""
    check_plot(request.plot)
    chosen = [arm.name for arm in choose([Arm(name) for name in METHODS], methods, [])] if methods else list(METHODS)
    base = request.source.load().config
    arms = choose(ARMS, request.arms, request.own_arms)
    configs = [request.source.config(arm, base.run.seed) for arm in arms]
    if without := [config.lattice.arm for config in configs if config.lattice.arm != "lattice"]:
        raise Stop(ExitCode.USAGE, f"lattice.arm: {without[0]} has no lattice that could be wounded; use lattice")
    try:
        parsed = [wounds.parse(text) for text in harm]
        for config, each in itertools.product(configs, parsed):
            each.check_fit(config.stages[-1].shape)
    except ValueError as error:
        raise Stop(ExitCode.USAGE, f"--wound: {error}") from error
    without_bleu = dataclasses.replace(request.conditions, score=False)
    looking = looks_for(parsed, chosen, most)
    experiment = Experiment("heal", request.source, without_bleu, arms, request.out, looking)
    results = experiment.run(arms, request.seeds)
    if request.plot:
        draw(request.plot, results, base.data.measure)
    if request.as_json:
        print(json.dumps(as_json(arms, results, request.seeds, base.data.measure), allow_nan=False))
        return
    console = Console(highlight=False, emoji=False)
    for name, runs in results.items():
        for what in dict.fromkeys(harm for harm, _ in cases(runs)):
            console.print(f"{name}, {what}", markup=False)
            console.print(table(runs, what))
    unit = "BLEU" if base.data.measure == "bleu" else "exact answers in percent"
    console.print(
        f"{unit}, means over {request.seeds} seeds, with 95 % bootstrap intervals at the end, on "
        f"{formats.count(min(SCORED, experiment.scored))} sentences; CPU: milliseconds of a wave",
        markup=False,
    )


def rows(run: Outcome) -> list[Healed]:
    return [Healed(*row) for row in run.healed]


def cases(runs: list[Outcome]) -> list[tuple[str, str]]:
    """The wounds with the methods that healed them, in the order of the command line."""
    found = ((one.wound, one.method) for run in runs for one in rows(run))
    return list(dict.fromkeys(case for case in found if case[1] not in (INTACT, NONE)))


def scores(runs: list[Outcome], what: str, method: str, waves: int | None) -> list[float | None]:
    """The score of each run after so many waves, or at the end if that came earlier; None = at the end."""
    found: list[float | None] = []
    for run in runs:
        own = [one for one in rows(run) if (one.wound, one.method) == (what, method)]
        until = [one for one in own if waves is None or one.waves <= waves]
        found.append(until[-1].score if until else None)
    return found


def table(runs: list[Outcome], what: str) -> Table:
    """Mean scores over seeds with one wound: a row per method, a column for each number of waves that one of them came to."""
    intact, wounded = (scores(runs, *of, None) for of in ((INTACT, INTACT), (what, NONE)))
    own = {method: _ends(runs, what, method) for harm, method in cases(runs) if harm == what}
    most = max((one.waves for ends in own.values() for one in ends), default=0)
    shown = [waves for waves in WAVES if waves <= most]
    found = Table("method", *map(str, shown), "end", "95 %", "waves", "CPU", box=None, pad_edge=False)
    for column in found.columns[1:]:
        column.justify = "right"
    for name, start in ((INTACT, intact), ("wounded", wounded)):
        found.add_row(name, *[""] * len(shown), _mean(start), *[""] * 3)
    for method, ends in own.items():
        end = scores(runs, what, method, None)
        spread = difference(end, [0.0] * len(end))
        interval = "" if spread.low is None or spread.high is None else f"{spread.low:.1f} to {spread.high:.1f}"
        done = statistics.mean(one.waves for one in ends)
        cost = statistics.mean(1000 * one.cpu_s / max(1, one.waves) for one in ends)
        on_the_way = (_mean(scores(runs, what, method, waves)) if waves <= done else "" for waves in shown)
        found.add_row(method, *on_the_way, _mean(end), interval, f"{done:.0f}", f"{cost:.0f}" if done else "")
    return found


def _ends(runs: list[Outcome], what: str, method: str) -> list[Healed]:
    """The last score of each run with a wound and a method."""
    own = ([one for one in rows(run) if (one.wound, one.method) == (what, method)] for run in runs)
    return [some[-1] for some in own if some]


def _mean(found: list[float | None]) -> str:
    known = [score for score in found if score is not None]
    return f"{statistics.mean(known):.1f}" if known and len(known) == len(found) else "-"


def gain(runs: list[Outcome], what: str, method: str) -> Effect:
    """What a method has at the end over the wounded lattice."""
    return difference(scores(runs, what, method, None), scores(runs, what, NONE, None))


def as_json(arms: list[Arm], results: Results, seeds: int, measure: str) -> dict[str, Any]:
    first = results[arms[0].name]
    effects = [
        {"wound": what, "method": method} | dataclasses.asdict(gain(first, what, method)) for what, method in cases(first)
    ]
    main = effects[0] if effects else {"mean": None, "low": None, "high": None}
    return {
        "name": "heal",
        "arms": [{"arm": arm.name, "settings": arm.settings, "runs": _runs(results[arm.name])} for arm in arms],
        "effect": main["mean"],
        "low": main["low"],
        "high": main["high"],
        "seeds": seeds,
        "measure": measure,
        "effects": effects,
    }


def _runs(runs: list[Outcome]) -> list[dict[str, Any]]:
    return [
        {"seed": run.seed, "steps": run.steps, "cpu_s": run.cpu_s, "loss": run.loss, "failure": run.failure}
        | {"scores": [one._asdict() for one in rows(run)]}
        for run in runs
    ]


def draw(path: Path, results: Results, measure: str) -> None:
    """Writes a PNG: score against waves, a panel per wound of the first arm, a line per method, bands over seeds.

    Raises Stop if that fails.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    runs = [run for run in next(iter(results.values())) if not run.failure]
    kinds = cases(runs)
    harm, methods = ([*dict.fromkeys(names)] for names in zip(*kinds, strict=True)) if kinds else ([], [])
    if not harm:
        raise Stop(ExitCode.FAILED, "--plot: no run ended, so there is nothing to draw")
    figure = Figure(figsize=(max(8.0, 4.2 * len(harm)), 4.6), layout="constrained")
    panels, colours = figure.subplots(1, len(harm), sharey=True, squeeze=False)[0], colormaps["tab10"]
    for axes, what in zip(panels, harm, strict=True):
        intact = (score for score in scores(runs, INTACT, INTACT, None) if score is not None)
        axes.axhline(statistics.mean(intact), color="black", linestyle=":", linewidth=1)
        for number, method in enumerate(methods):
            waves = sorted({one.waves for run in runs for one in rows(run) if (one.wound, one.method) == (what, method)})
            columns = [scores(runs, what, NONE, None), *(scores(runs, what, method, wave) for wave in waves)]
            known = [[score for score in column if score is not None] for column in columns]
            along = [0, *waves]
            axes.plot(along, list(map(statistics.mean, known)), color=colours(number), marker=".", label=method)
            axes.fill_between(along, list(map(min, known)), list(map(max, known)), color=colours(number), alpha=0.12)
        axes.set_xscale("symlog")
        axes.set(title=what, xlabel="waves of 8 sentences")
        axes.grid(alpha=0.25)
    panels[0].set(ylabel="BLEU" if measure == "bleu" else "exact answers, %", ylim=(0, None))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), fontsize="small", frameon=False)
    figure.suptitle("healing of a wounded lattice; the dotted line is the intact one")
    save_plot(figure, path, dpi=130)
