"""The body of `morphology`: tests a run's connections for order in space, and compares its emergence score with those of a
fresh lattice and of a shuffled one."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from app.exit_codes import ExitCode, Stop
from app.finding import find_run
from app.run_process.prepare import choose_device, read_corpus
from app.saved_models.opening import Opened, open_run
from lattice.data.batches import Sentences
from lattice.data.corpus import pairs_to_score
from lattice.data.pair import DataError
from lattice.kernels.sparse import Pattern
from lattice.model.lattice3d import Lattice
from lattice.model.text_lattice import TextLattice
from lattice.random_streams import generator
from lattice.structure.clusters import spherical_kmeans
from lattice.structure.direction import forward_shares
from lattice.structure.emergence import Emergence, emergence, stability
from lattice.structure.spatial_order import Reading, fields, read_all, shuffle
from lattice.training import checkpoint
from lattice.training.progress import Progress
from monitors.runs import RunFolder
from monitors.text_safety import printable

SENTENCES = 128
"""Most sentences that drive the cells.  Each half of them gives one clustering."""

CLUSTERS = 8
"""The number of clusters if the stage has none of its own."""


def report(run: str, data: Path | None, surrogates: int, best: bool, device: str, runs_dir: Path | None, as_json: bool) -> None:
    """Prints the readings and scores of a run's newest checkpoint, or of its best one.

    `surrogates` is the number of fields that are drawn for each null.  Raises Stop if the model or the text can't be read, or
    if there is no lattice.
    """
    folder = find_run(runs_dir, run)
    opened = open_run(folder, choose_device(device), best)
    trained = opened.model
    if trained.lattice is None:
        raise Stop(ExitCode.USAGE, f"{folder.name} was trained without a lattice (lattice.arm = {opened.config.lattice.arm})")
    tokens = _tokens(opened, data)
    topology, seed = trained.lattice.topology, opened.config.run.seed
    fresh = _fresh(opened)
    start, since = _start(folder, opened, fresh)
    if start is None:
        print("note: the stage's start is not kept; what it began with can't be told from what it learned", file=sys.stderr)
    began = None if start is None else fields(start, topology)
    learned = trained.lattice.dense()
    cases = {
        "fresh": (fresh, _lattice(fresh).dense(), None),
        "trained": (trained, learned, began),
        "shuffled": (trained, shuffle(learned, topology, generator(seed, "morphology", "shuffle")), began),
    }
    readings: dict[str, dict[str, Reading]] = {}
    scores: dict[str, Emergence] = {}
    ways = {
        name: forward_shares(weights, topology)
        for name, weights in (("start", start), ("trained", learned))
        if weights is not None
    }
    for name, (model, weights, before) in cases.items():
        stream = generator(seed, "morphology", name)
        try:
            readings[name] = read_all(fields(weights, topology), topology.boundary, stream, before, surrogates)
            _lattice(model).become(weights, None)
            scores[name] = _score(model, tokens, opened, readings[name], stream)
        except ValueError as error:
            raise Stop(ExitCode.USAGE, f"{folder.name}, {name} lattice: {error}") from error
    if as_json:
        shown = {"run": folder.name, "step": opened.progress.step, "since": since}
        shown["fields"] = {name: dataclasses.asdict(reading) for name, reading in readings["trained"].items()}
        shown["emergence"] = {name: dataclasses.asdict(score) for name, score in scores.items()}
        shown["forward"] = ways
        print(json.dumps(shown, allow_nan=False))
        return
    _show(folder, opened.progress.step, since, readings["trained"], scores, ways)


def _tokens(opened: Opened, data: Path | None) -> list[torch.Tensor]:
    """The token ids [B, N] of each half of the sentences.  Raises Stop if there are fewer than two sentences."""
    try:
        pairs = pairs_to_score(data, opened.config, {}) if data else read_corpus(opened.config).valid
    except DataError as error:
        raise Stop(ExitCode.USAGE, str(error)) from error
    if len(pairs) < 2:
        raise Stop(ExitCode.USAGE, f"{data or 'the held-out text'}: at least two sentences are needed to cluster cells twice")
    sentences = Sentences(pairs[:SENTENCES], opened.tokenizer, opened.config.text.max_tokens)
    device = next(opened.model.parameters()).device
    return [sentences.batch(list(range(half, len(sentences), 2)), device)[0] for half in (0, 1)]


def _fresh(opened: Opened) -> TextLattice:
    """The model of the same stage, untrained.  It is pruned like the trained one, so that they can be compared."""
    device = next(opened.model.parameters()).device
    model = TextLattice(opened.config, opened.progress.stage, opened.tokenizer.vocabulary, device).eval()
    _lattice(model).rewire(_lattice(opened.model).pattern, torch.Generator())
    return model


def _lattice(model: TextLattice) -> Lattice:
    assert model.lattice is not None, "refused before"
    return model.lattice


def _start(folder: RunFolder, opened: Opened, fresh: TextLattice) -> tuple[torch.Tensor | None, int | None]:
    """The weights [K, X, Y, Z] at the stage's start, and their step.

    The first stage starts with random weights, which its random seed gives again, unless they grew.  What grew, and what a
    later stage took over, only checkpoints hold: the stage's oldest is taken, or (None, None) is returned if there is none.
    """
    if opened.progress.stage == 0 and opened.config.connections.start == "drawn":
        return _lattice(fresh).dense().clone(), 0
    for step, path in reversed(checkpoint.steps(folder.checkpoints)):
        if step >= opened.progress.step:
            break
        try:
            saved = checkpoint.load(path)
        except checkpoint.CheckpointError as error:
            print(f"note: {error}", file=sys.stderr)
            continue
        if Progress.from_json(saved.state["progress"]).stage == opened.progress.stage:
            own = _lattice(fresh)
            device, offsets, pattern = own.weights.device, len(own.topology.offsets), own.pattern
            weights, index = saved.model["lattice.weights"].to(device), saved.model.get("lattice.index")
            if index is not None:
                weights = Pattern(index.to(device), offsets).expand(weights)
            return (weights if pattern is None else weights * pattern.mask(weights.shape[-1])), step
    return None, None


@torch.no_grad()
def _score(
    model: TextLattice, halves: list[torch.Tensor], opened: Opened, readings: dict[str, Reading], stream: torch.Generator
) -> Emergence:
    lattice, labels = _lattice(model), []
    total = torch.zeros((), device=lattice.weights.device)
    clusters = lattice.clusters or CLUSTERS
    for tokens in halves:
        mean = torch.zeros((), device=lattice.weights.device)
        for part in tokens.split(opened.chunk):
            state = model.state(part).float()
            mean = mean + state.sum(0)
            total = total + state.square().sum(dim=(0, 3))
        rows = mean.permute(0, 1, 3, 2).reshape(lattice.topology.cells, -1).cpu()
        labels.append(spherical_kmeans(rows, clusters, stream).labels)
    sentences = sum(len(tokens) for tokens in halves)
    activity = (total / (sentences * lattice.channels)).sqrt()
    return emergence(stability(labels[0], labels[1], stream), readings.values(), activity.cpu())


def _show(
    folder: RunFolder, step: int, since: int | None, readings: dict[str, Reading], scores: dict[str, Emergence],
    ways: dict[str, list[float]],
) -> None:  # fmt: skip
    console = Console(highlight=False, emoji=False)
    what = f"change since step {since}" if since is not None else "connections"
    console.print(f"{printable(folder.name)}, step {step}: {what}", markup=False, soft_wrap=True)
    table = Table("field", "reading", "wavelength", "share", "p shuffled", "p red", "p start", box=None, pad_edge=False)
    for name, r in readings.items():
        wavelength = "-" if r.wavelength is None else f"{r.wavelength:.1f} cells"
        start = "-" if r.p_start is None else f"{r.p_start:.3f}"
        table.add_row(name, r.verdict, wavelength, f"{r.strength:.1%}", f"{r.p_shuffled:.3f}", f"{r.p_red:.3f}", start)
    console.print(table)
    table = Table("lattice", "emergence score", "stability", "morphology", "participation", box=None, pad_edge=False)
    for name, score in scores.items():
        table.add_row(name, *(f"{value:.3f}" for value in dataclasses.astuple(score)))
    console.print(table)
    parts = [f"{quarter} quarter" for quarter in ("first", "second", "third", "last")]
    table = Table("weight from nearer the input", *parts, box=None, pad_edge=False)
    for name, shares in ways.items():
        table.add_row(name, *(f"{share:.1%}" for share in shares))
    console.print(table)
