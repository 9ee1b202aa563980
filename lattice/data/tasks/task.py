"""What all tasks have: a frozen dataclass of difficulty and seed that draws sentences and knows their answers.

A sentence is words in lower case with single spaces.  Random numbers come from `Random.random` alone, the one method whose
stream Python promises to keep.
"""

from __future__ import annotations

import itertools
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar, NamedTuple, TypeVar

LONGEST = 256
"""Most words, or most parts that repeat, in a sentence: text.max_tokens can't be more either."""

T = TypeVar("T")


class Range(NamedTuple):
    """The whole numbers from `low` to `high`, both included."""

    low: int
    high: int

    @classmethod
    def read(cls, text: str) -> Range:
        """The range in "4-28", or in "8" for 8 to 8.  Raises ValueError."""
        if not (match := re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", text, re.ASCII)):
            raise ValueError(f"{text!r} is no range; write it as 4-28, or as 8 for 8 alone")
        return cls(int(match[1]), int(match[2] or match[1]))

    def __str__(self) -> str:
        return f"{self.low}-{self.high}"


def check_range(name: str, value: Range, least: int = 1) -> None:
    """Raises ValueError, naming the field, unless `least` <= low <= high <= LONGEST."""
    if not least <= value.low <= value.high <= LONGEST:
        raise ValueError(f"{name}: {value} is no range within {least} to {LONGEST}, the smaller number first")


def check_number(name: str, value: int, least: int, most: int) -> None:
    """Raises ValueError, naming the field, unless `least` <= value <= `most`."""
    if not least <= value <= most:
        raise ValueError(f"{name}: {value} is not within {least} to {most}")


def pick(rng: Random, options: Sequence[T]) -> T:
    """One of the options, each as likely as any other."""
    return options[int(rng.random() * len(options))]


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """A task of some difficulty.  Subclasses check their fields and raise ValueError that names the field and its value."""

    name: ClassVar[str]
    asks: ClassVar[str]
    """What a sentence tells and what its answer is, in one line."""

    longer: ClassVar[str] = "words"
    """The argument that makes more sentences possible, by making them longer."""

    seed: int = 0
    """Another seed gives other sentences, and another world if the task draws one."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed: {self.seed} is negative; 0 or more")

    @property
    @abstractmethod
    def lengths(self) -> Range:
        """The lengths of sentences, in what the argument `longer` counts."""

    @property
    @abstractmethod
    def most_words(self) -> int:
        """Words of the longest sentence."""

    @abstractmethod
    def distinct(self, length: int) -> int:
        """How many sentences of this length there are."""

    @property
    def all_distinct(self) -> int:
        """How many sentences there are."""
        return sum(self.distinct(length) for length in range(self.lengths.low, self.lengths.high + 1))

    @abstractmethod
    def every(self, length: int) -> Iterator[str]:
        """Each sentence of this length once."""

    @abstractmethod
    def draw(self, length: int, rng: Random) -> str:
        """A sentence of this length; every sentence of this length can come."""

    @abstractmethod
    def answer(self, sentence: str) -> str:
        """The answer to a sentence of this task: where all of its words lead."""

    def answer_so_far(self, beginning: str) -> str | None:
        """The answer to the first words of a sentence; None if these ask nothing, or if there is a word of no such sentence."""
        return None


@dataclass(frozen=True, kw_only=True)
class WordTask(Task):
    """A task whose sentences are any words of `alphabet`, independent of each other and equally likely."""

    words: Range
    """Fewest and most words of a sentence; each length is as likely as any other."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("words", self.words)

    @property
    @abstractmethod
    def alphabet(self) -> tuple[str, ...]: ...

    @property
    def lengths(self) -> Range:
        return self.words

    @property
    def most_words(self) -> int:
        return self.words.high

    def answer_so_far(self, beginning: str) -> str | None:
        return self.answer(beginning) if set(beginning.split()) <= set(self.alphabet) else None

    def distinct(self, length: int) -> int:
        return len(self.alphabet) ** length

    def every(self, length: int) -> Iterator[str]:
        return map(" ".join, itertools.product(self.alphabet, repeat=length))

    def draw(self, length: int, rng: Random) -> str:
        return " ".join([pick(rng, self.alphabet) for _ in range(length)])
