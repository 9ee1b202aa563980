"""How far one gets on a task without reading it: by one answer for all, or from the last words of a sentence alone.

A model that does not beat these has not read.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from lattice.data.pair import Pair

LAST_WORDS = (1, 2, 3)
"""Numbers of last words that readers see."""


@dataclass(frozen=True)
class WithoutReading:
    """Shares of exact answers, 0 to 1, on pairs that were not learned from."""

    constant: float
    """Of the most frequent answer."""

    last_words: dict[int, float]
    """Of the most frequent answer to the same last k words, by k."""


def without_reading(train: Sequence[Pair], test: Sequence[Pair]) -> WithoutReading:
    """What the constant answer and the readers, learned on `train`, score on `test`; neither may be empty."""
    shares = {words: _share_right(train, test, words) for words in (0, *LAST_WORDS)}
    return WithoutReading(shares.pop(0), shares)


def _share_right(train: Sequence[Pair], test: Sequence[Pair], words: int) -> float:
    """A reader of so many last words, which falls back on fewer if it never saw these."""
    answers: defaultdict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for pair in train:
        last = _last(pair, words)
        for seen in range(len(last) + 1):
            answers[last[len(last) - seen :]][pair.target] += 1
    likeliest = {last: counts.most_common(1)[0][0] for last, counts in answers.items()}
    right = 0
    for pair in test:
        last = _last(pair, words)
        while last not in likeliest:
            last = last[1:]
        right += likeliest[last] == pair.target
    return right / len(test)


def _last(pair: Pair, words: int) -> tuple[str, ...]:
    return tuple(pair.source.split()[-words:]) if words else ()
