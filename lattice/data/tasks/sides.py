"""Draws a task's sentences for training and for the test, so that no sentence is ever on both sides.

A hash of the sentence itself, with the task's name and seed, decides its side: one in TEST_SHARE is for the test.  So no test
sentence is a training sentence of the same seed, whatever the difficulty and the counts, and a model that was trained on 4 to
28 words can be scored on 4 to 8.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from random import Random
from typing import Literal

from lattice.data.pair import DataError, Pair
from lattice.data.tasks.task import LONGEST, Range, Task, pick

Side = Literal["train", "test"]

TEST_SHARE = 10
"""One sentence in so many is for the test."""

COUNTED_BY = {"train": "count", "test": "held"}
"""The argument that says how many sentences of a side there are."""

MANY = 1_000
"""Sentences are counted one by one unless so many more than twice those asked for are expected."""


def side_of(task: Task, sentence: str) -> Side:
    """The side of a sentence of this task."""
    digest = hashlib.blake2b(f"{task.name}/{task.seed}/{sentence}".encode(), digest_size=8).digest()
    return "test" if int.from_bytes(digest, "big") % TEST_SHARE == 0 else "train"


def drawn(task: Task, side: Side, count: int) -> Iterator[Pair]:
    """`count` pairs of distinct sentences of a side.  Fewer are the beginning of more.

    Lengths are drawn uniformly from those of which sentences are left.  Raises DataError where there are not that many.
    """
    left = {length: _there_are(task, side, length, count) for length in range(task.lengths.low, task.lengths.high + 1)}
    if (possible := sum(left.values())) < count:
        raise DataError(_too_few(task, side, int(possible), count))
    rng = Random(f"{task.name}/{task.seed}/{side}")
    lengths = [length for length, there in left.items() if there]
    seen: set[str] = set()
    while len(seen) < count:
        length = pick(rng, lengths)
        while (sentence := task.draw(length, rng)) in seen or side_of(task, sentence) != side:
            pass
        seen.add(sentence)
        left[length] -= 1
        if not left[length]:
            lengths.remove(length)
        yield Pair(sentence, task.answer(sentence))


def _there_are(task: Task, side: Side, length: int, count: int) -> float:
    """How many sentences of a length a side has; infinity where they are far more than `count`."""
    expected = task.distinct(length) * (1 / TEST_SHARE if side == "test" else 1 - 1 / TEST_SHARE)
    if expected > 2 * count + MANY:
        return math.inf
    return sum(side_of(task, sentence) == side for sentence in task.every(length))


def _too_few(task: Task, side: Side, possible: int, count: int) -> str:
    low = task.lengths.low
    fewer = f"for {COUNTED_BY[side]}={possible}, or " if possible else ""
    enough = low
    while sum(map(task.distinct, range(low, enough + 1))) < TEST_SHARE * (count + MANY) and enough < LONGEST:
        enough += 1
    return (
        f"task:{task.name}: with {task.longer}={task.lengths} there are {task.all_distinct} distinct sentences, {possible} of "
        f"them to {side} on, and {count} were asked for; ask {fewer}for longer ones ({task.longer}={Range(low, enough)})"
    )
