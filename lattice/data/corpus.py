"""Training and held-out text: plain text, JSONL, TSV, or a folder of them, in any language, UTF-8; or a bundled task.

There is one sentence per line.  For the task `pairs`, a line is a JSON object {"source", "target"} or source TAB target.
Sentences that differ only in case or spacing count as one, so that no held-out text is also trained on.  `task:NAME` stands for
the pairs of a task of lattice.data.tasks, which has a training side and a test side of its own.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lattice.data.grammar import CORPUS_SIZE, generate
from lattice.data.pair import DataError, Pair
from lattice.data.tasks.named import named
from lattice.data.tasks.sides import Side
from lattice.data.text_tasks import FEWEST_WORDS, NOISE, continuation, denoise
from presets.schema import RunConfig
from presets.task_name import is_task

SUFFIXES = (".txt", ".jsonl", ".tsv")

_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
"""Lone surrogates, which a JSON escape can write and UTF-8 can't."""


@dataclass(frozen=True)
class Corpus:
    """Training and held-out pairs.  `name` is where they came from, `left_out` how many lines were dropped for which reason."""

    name: str
    train: tuple[Pair, ...]
    valid: tuple[Pair, ...]
    left_out: dict[str, int]

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
    if train is None:
        if task == "pairs":
            raise DataError("the task pairs needs --data: the bundled corpus has no pairs")
        name, items = "bundled", [Pair(text, text) for text in generate(CORPUS_SIZE, seed=0)]
    else:
        name, items = train, _distinct(_read(train, "train", task), left_out)
    if valid is None and is_task(train):
        valid = train
    if valid is not None:
        held = _distinct(_read(valid, "test", task), left_out)
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
    return Corpus(name, train_pairs, valid_pairs, left_out)


def pairs_to_score(source: Path, config: RunConfig, left_out: dict[str, int]) -> tuple[Pair, ...]:
    """The pairs that a model is scored on: of a file or folder, as data.task says, or of the test side of a bundled task.

    Counts in `left_out` what the task can't use.  Raises DataError.
    """
    name = str(source)
    pairs = _read(name, "test", config.data.task)
    found = tuple(pairs if is_task(name) else _as_task(pairs, config, left_out))
    if not found:
        raise DataError(f"{name}: no sentence has the {FEWEST_WORDS} words that the task continue needs")
    return found


def _read(source: str, side: Side, task: str) -> Iterator[Pair]:
    """A file's pairs, all of them for either side, or a bundled task's pairs of this side."""
    return named(source).pairs(side) if is_task(source) else read_pairs(Path(source), task)


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


def read_pairs(path: Path, task: str) -> Iterator[Pair]:
    """The pairs of a file, or of every .txt, .jsonl and .tsv file below a folder, in name order.  Raises DataError."""
    if path.is_dir():
        files = sorted(f for f in path.rglob("*") if f.suffix in SUFFIXES and f.is_file())
        if not files:
            raise DataError(f"{path}: no {', '.join(SUFFIXES)} file in this folder")
    elif path.exists():
        files = [path]
    else:
        raise DataError(f"{path}: no such file or folder")
    found = False
    for file in files:
        for pair in _read_file(file, task):
            found = True
            yield pair
    if not found:
        raise DataError(f"{path}: no sentence in it; expected one per line")


def _read_file(path: Path, task: str) -> Iterator[Pair]:
    if not path.is_file():
        raise DataError(f"{path}: not a regular file")
    number = 0
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                if b"\0" in raw:
                    raise DataError(f"{path}: line {number} holds a zero byte; this is not a text file")
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip("\r\n")
                if text.strip():
                    yield _parse(text, path, number, task)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: line {number} is not UTF-8 ({error.reason}); convert the file to UTF-8") from error
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror}") from error


def _parse(line: str, path: Path, number: int, task: str) -> Pair:
    if path.suffix == ".jsonl":
        try:
            item = json.loads(line)
            source, target = item["source"], item.get("target", None if task == "pairs" else item["source"])
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):  # ValueError: a number of 5000 digits, too
            raise DataError(f'{path}: line {number} is not a JSON object like {{"source": "...", "target": "..."}}') from None
        if target is None and task == "pairs":
            raise DataError(f"{path}: line {number} has no target; the task pairs takes source and target")
        if not isinstance(source, str) or not isinstance(target, str):
            raise DataError(f"{path}: line {number}: source and target must be strings")
        if _HALF_CHARACTER.search(source + target):
            raise DataError(f"{path}: line {number} holds half of a character (an escape like \\ud800 without its other half)")
    else:
        source, tab, target = line.partition("\t") if path.suffix == ".tsv" else (line, "", "")
        if task == "pairs" and not tab:
            raise DataError(f"{path}: line {number} has no target; the task pairs takes .jsonl, or .tsv with source TAB target")
    source = " ".join(source.split())
    target = " ".join(target.split()) if task == "pairs" else source
    if not source or not target:
        raise DataError(f"{path}: line {number}: source or target is empty")
    return Pair(source, target)


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
