"""Training and held-out text: files of lattice.data.reading, or a bundled task.

Sentences that differ only in case or spacing count as one, so that no held-out text is also trained on.  `task:NAME` stands for
the pairs of a task of lattice.data.tasks, which has a training side and a test side of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lattice.data.grammar import CORPUS_SIZE, generate
from lattice.data.pair import DataError, Pair
from lattice.data.reading import read_pairs
from lattice.data.tasks.named import named
from lattice.data.tasks.sides import Side
from lattice.data.text_tasks import FEWEST_WORDS, NOISE, continuation, denoise
from presets.schema import RunConfig
from presets.task_name import is_task


@dataclass(frozen=True)
class Corpus:
    """Training and held-out pairs.  `name` is where they came from, `left_out` how many lines were dropped for which reason.

    `notes` are what else there is to say of the files, such as which were not read.
    """

    name: str
    train: tuple[Pair, ...]
    valid: tuple[Pair, ...]
    left_out: dict[str, int]
    notes: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """A hash of all text, so that a resumed run can tell that its data has changed."""
        digest = hashlib.sha256()
        for part in (self.train, self.valid):
            for pair in part:
                digest.update(f"{pair.source}\t{pair.target}\n".encode())
            digest.update(b"\0")
        return digest.hexdigest()


def load_corpus(config: RunConfig) -> Corpus:
    """The corpus that a config names: its files, a bundled task, or the bundled grammar.  Raises DataError."""
    data, seed = config.data, config.run.seed
    task, train, valid = data.task, data.train, data.valid
    left_out: dict[str, int] = {}
    notes: list[str] = []
    if train is None:
        if task == "pairs":
            raise DataError("the task pairs needs --data: the bundled corpus has no pairs")
        name, items = "bundled", [Pair(text, text) for text in generate(CORPUS_SIZE, seed=0)]
    else:
        name, items = train, _distinct(_read(train, "train", task, notes), left_out)
    if valid is None and is_task(train):
        valid = train
    if valid is not None:
        held = _distinct(_read(valid, "test", task, notes), left_out)
        seen = {_key(pair.source) for pair in held}
        kept = [pair for pair in items if _key(pair.source) not in seen]
        if len(kept) < len(items):
            left_out["also in the held-out file"] = len(items) - len(kept)
    else:
        if len(items) < 2:
            raise DataError(f"{name}: {len(items)} usable line(s); at least 2 are needed to train on one and hold one out")
        count = max(1, min(data.max_held_out, round(len(items) * data.held_out)))
        # By hash, not by position: adding lines to a corpus moves hardly any sentence between training and held-out.
        order = sorted(range(len(items)), key=lambda i: _rank(items[i].source, seed))
        chosen = set(order[:count])
        held = [items[i] for i in order[:count]]
        kept = [pair for i, pair in enumerate(items) if i not in chosen]
    if not kept:
        raise DataError(f"{name}: nothing is left to train on once the held-out sentences are taken out")
    train_pairs, valid_pairs = (tuple(_as_task(side, config, left_out)) for side in (kept, held))
    for pairs, what in ((train_pairs, "training"), (valid_pairs, "held-out")):
        if not pairs:
            raise DataError(f"{name}: no {what} sentence has the {FEWEST_WORDS} words that the task continue needs")
    return Corpus(name, train_pairs, valid_pairs, left_out, tuple(notes))


def pairs_to_score(
    source: Path, config: RunConfig, left_out: dict[str, int], notes: list[str] | None = None
) -> tuple[Pair, ...]:
    """The pairs that a model is scored on: of a file or folder, as data.task says, or of the test side of a bundled task.

    Counts in `left_out` what the task can't use, and adds to `notes` what else there is to say.  Raises DataError.
    """
    name = str(source)
    pairs = _read(name, "test", config.data.task, [] if notes is None else notes)
    found = tuple(pairs if is_task(name) else _as_task(pairs, config, left_out))
    if not found:
        raise DataError(f"{name}: no sentence has the {FEWEST_WORDS} words that the task continue needs")
    return found


def _read(source: str, side: Side, task: str, notes: list[str]) -> Iterator[Pair]:
    """A file's pairs, all of them for either side, or a bundled task's pairs of this side."""
    return named(source).pairs(side) if is_task(source) else read_pairs(Path(source), task, notes)


def _as_task(pairs: Iterable[Pair], config: RunConfig, left_out: dict[str, int]) -> Iterator[Pair]:
    """The pairs that data.task makes of clean text; those of `reconstruct` and `pairs` as they are."""
    match config.data.task:
        case "denoise":
            noise = NOISE if config.data.noise is None else config.data.noise
            yield from (denoise(pair.source, noise, config.run.seed) for pair in pairs)
        case "continue":
            for pair in pairs:
                if halves := continuation(pair.source):
                    yield halves
                else:
                    reason = f"fewer than {FEWEST_WORDS} words"
                    left_out[reason] = left_out.get(reason, 0) + 1
        case _:
            yield from pairs


def _key(text: str) -> str:
    return " ".join(text.casefold().split())


def _rank(text: str, seed: int) -> bytes:
    return hashlib.blake2b(_key(text).encode(), digest_size=8, key=str(seed).encode()).digest()


def _distinct(pairs: Iterator[Pair], left_out: dict[str, int]) -> list[Pair]:
    """The first pair of each source.  If others were kept, one source could be on both sides of the split."""
    seen: set[str] = set()
    kept = []
    for pair in pairs:
        key = _key(pair.source)
        if key in seen:
            left_out["repeated"] = left_out.get("repeated", 0) + 1
        else:
            seen.add(key)
            kept.append(pair)
    return kept
