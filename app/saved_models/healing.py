"""The body of `heal`: destroys a part of a saved lattice, heals it, and scores it before, between and after."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from app import formats
from app.exit_codes import ExitCode, Stop
from app.finding import find_run
from app.run_process.prepare import choose_device, read_corpus
from app.saved_models.opening import Opened, open_run
from lattice.data.batches import Sentences
from lattice.data.corpus import pairs_to_score
from lattice.data.pair import DataError, Pair
from lattice.data.script import script_shares
from lattice.healing.regrowth import regrow, smooth
from lattice.healing.waves import SENTENCES, NothingFires, heal
from lattice.healing.wounding import Lost, wound
from lattice.model.lattice3d import Lattice
from lattice.observing.scoring import evaluate
from lattice.random_streams import generator
from monitors.quality import Quality
from monitors.text_safety import printable
from presets.control_commands import HealBy
from presets.wound import Wound

SCORED = 500
"""Most held-out sentences that are decoded for each score."""

KNOWN_SHARE = 0.01
"""A script is known to a run if so many of the letters that it was trained on are of it."""


@dataclasses.dataclass(frozen=True)
class Spoken:
    """What the lattice says at one moment: scores of the held-out sentences, and the answer to the first of them."""

    quality: Quality
    said: str

    def as_json(self) -> dict[str, float]:
        return {"bleu": self.quality.bleu, "chrf": self.quality.chrf, "exact": self.quality.exact}


@dataclasses.dataclass(frozen=True)
class How:
    """How a wound was healed."""

    waves: int
    """Waves of STDP; 0 by neighbours."""
    settled: bool
    """True if more of it would change nothing to speak of."""
    still_lost: int
    """Connections that no neighbour could show."""

    def __str__(self) -> str:
        if self.waves or not self.settled:
            waves = "1 wave" if self.waves == 1 else f"{formats.count(self.waves)} waves"
            more = "" if self.settled else "; more would still change it"
            return f"healed by STDP: {waves} of {SENTENCES} sentences without labels{more}"
        left = f"; {formats.count(self.still_lost)} that no neighbour has stay lost" if self.still_lost else ""
        return f"healed by neighbours: took the mean of what lives beside it{left}"


def heal_run(
    run: str, what: Wound, data: Path | None, method: HealBy, most: int, seed: int, best: bool, device: str,
    runs_dir: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Prints the scores of a run's lattice: intact, wounded, and healed.

    STDP takes at most so many waves of the sentences of `data`, or of the training text.
    Raises Stop if there is no trained lattice, if the wound does not fit it, if STDP has to heal and no cell fires, or if the
    text can't be read.
    """
    folder = find_run(runs_dir, run)
    opened = open_run(folder, choose_device(device), best)
    lattice = opened.model.lattice
    if lattice is None:
        arm = opened.config.lattice.arm
        raise Stop(ExitCode.USAGE, f"{folder.name} was trained without a lattice (lattice.arm = {arm}): nothing can be wounded")
    if opened.progress.step == 0:
        raise Stop(ExitCode.USAGE, f"{folder.name} has not trained a step, so there is nothing that could be lost")
    try:
        what.check_fit(lattice.topology.shape)
    except ValueError as error:
        raise Stop(ExitCode.USAGE, f"--wound: {error}") from error
    corpus = read_corpus(opened.config)
    by = corpus.train if data is None else _unlabelled(data, opened, corpus.train)
    held = _sentences(opened, corpus.valid[:SCORED])

    looks, clock = {"intact": _look(opened, held)}, time.perf_counter()
    lost = wound(lattice, what, generator(seed, "wound"))
    looks["wounded"] = _look(opened, held)
    how = (
        _by_neighbours(lattice, what) if method == "neighbours" else _by_stdp(opened, _sentences(opened, by), what, seed, most)
    )
    looks["healed"] = _look(opened, held)
    if as_json:
        scores: dict[str, Any] = {name: look.as_json() for name, look in looks.items()}
        counts = {"waves": how.waves, "sentences": how.waves * SENTENCES, "wound": str(what), "scored": len(held)}
        damage = {
            "connections": lost.count,
            "cells": lost.cells,
            "by": method,
            "still_lost": how.still_lost,
            "settled": how.settled,
        }
        told = {"seconds": time.perf_counter() - clock, "step": opened.progress.step, "run": folder.name}
        told |= {"signature": looks["intact"].quality.signature}
        print(json.dumps(scores | counts | damage | told, allow_nan=False))
        return
    console = Console(highlight=False, emoji=False)
    console.print(f"{printable(folder.name)}, step {opened.progress.step}, wound {what}", markup=False, soft_wrap=True)
    console.print(_table(looks))
    console.print(_told(what, lost, how, len(held)), markup=False)


def _by_neighbours(lattice: Lattice, what: Wound) -> How:
    regrow(lattice)
    if not what.destroys:
        smooth(lattice)
    return How(0, True, 0 if lattice.lost is None else int(lattice.lost.sum()))


def _by_stdp(opened: Opened, sentences: Sentences, what: Wound, seed: int, most: int) -> How:
    """Raises Stop if no cell fires."""
    lattice = opened.model.lattice
    assert lattice is not None, "refused before"
    try:
        done = list(heal(opened.model, sentences, lattice.lost, seed, opened.chunk, most))
    except NothingFires as error:
        raise Stop(ExitCode.FAILED, f"no cell fires after {what}, so STDP can't heal it; use --by neighbours") from error
    return How(len(done), bool(done) and done[-1].settled, 0)


def _unlabelled(data: Path, opened: Opened, trained: tuple[Pair, ...]) -> tuple[Pair, ...]:
    """The sentences of a text as the run reads them; their targets are never looked at.

    Raises Stop if it can't be read, or if it is in a script that the run knows nothing of.
    """
    config = opened.config
    if config.data.task in ("pairs", "continue"):  # whole sentences will do, and need no target
        config = config.model_copy(update={"data": config.data.model_copy(update={"task": "reconstruct"})})
    try:
        pairs = pairs_to_score(data, config, {})
    except DataError as error:
        raise Stop(ExitCode.USAGE, str(error)) from error
    known, own = script_shares(pair.source for pair in trained), next(iter(script_shares(pair.source for pair in pairs)), None)
    if own is not None and known.get(own, 0.0) < KNOWN_SHARE:
        raise Stop(
            ExitCode.USAGE,
            f"{data} is written in {own} letters, and the run was trained on {next(iter(known), 'no')} ones: it would heal by "
            "noise; give it text like that it was trained on",
        )
    return pairs


def _sentences(opened: Opened, pairs: tuple[Pair, ...]) -> Sentences:
    return Sentences(pairs, opened.tokenizer, opened.config.text.max_tokens)


def _look(opened: Opened, held: Sentences) -> Spoken:
    with torch.no_grad():
        quality, said = evaluate(opened.model, held, opened.tokenizer, opened.chunk)
    return Spoken(quality, said[0])


def _table(looks: dict[str, Spoken]) -> Table:
    """A row per look: its scores, and what came back for the first held-out sentence."""
    table = Table("lattice", "BLEU", "chrF", "exact", "says", box=None, pad_edge=False)
    for column in table.columns[1:4]:
        column.justify = "right"
    for name, look in looks.items():
        quality, said = look.quality, printable(look.said) or "(nothing)"
        numbers = formats.score(quality.bleu), formats.score(quality.chrf), f"{quality.exact:.1%}"
        table.add_row(name, *numbers, Text(said, overflow="ellipsis", no_wrap=True))
    return table


def _told(what: Wound, lost: Lost, how: How, scored: int) -> str:
    """What was damaged, how it healed, and what the scores are of."""
    cells = f" and {formats.count(lost.cells)} cells" if lost.cells else ""
    return (
        f"{formats.count(lost.count)} connections{cells} {'destroyed' if what.destroys else 'changed'}\n{how}\n"
        f"scored on {formats.count(scored)} held-out sentences; the run itself is unchanged"
    )
