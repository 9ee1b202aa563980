"""`gossip`: people tell each other all that they know."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import ClassVar

from lattice.data.tasks.task import Range, Task, check_number, check_range, pick

PEOPLE = ("ann", "bob", "carl", "dora", "emil", "fay", "gus", "hana", "ivan", "june", "kurt", "lena")

WORDS_PER_TELLING = 3
WORDS_OF_THE_QUESTION = 4

Two = tuple[str, str]
"""Who tells and who is told; or who might know, and whose secret it is."""


def known(people: Sequence[str], tellings: Sequence[Two]) -> dict[str, set[str]]:
    """Whose secrets each of the people knows in the end.  At first everybody knows their own."""
    secrets = {person: {person} for person in people}
    for teller, told in tellings:
        secrets[told] |= secrets[teller]
    return secrets


@dataclass(frozen=True, kw_only=True)
class Gossip(Task):
    """ "ann tells bob" passes on all that ann knows by then; "does carl know dora" asks for dora's secret.

    Yes and no are drawn with the same probability, whatever the length; where the tellings allow only one of the two, it is
    that one.
    """

    name: ClassVar[str] = "gossip"
    asks: ClassVar[str] = "people tell each other all the secrets they know; does one know another's secret in the end?"
    longer: ClassVar[str] = "sentences"

    sentences: Range = field(default=Range(4, 14))
    """Fewest and most tellings before the question; each number is as likely as any other."""

    people: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("sentences", self.sentences)
        check_number("people", self.people, 2, len(PEOPLE))

    @property
    def names(self) -> tuple[str, ...]:
        return PEOPLE[: self.people]

    @property
    def lengths(self) -> Range:
        return self.sentences

    @property
    def most_words(self) -> int:
        return WORDS_PER_TELLING * self.sentences.high + WORDS_OF_THE_QUESTION

    def distinct(self, length: int) -> int:
        return (self.people * (self.people - 1)) ** (length + 1)

    def every(self, length: int) -> Iterator[str]:
        for *tellings, question in itertools.product(self._twos(), repeat=length + 1):
            yield _written(tellings, question)

    def draw(self, length: int, rng: Random) -> str:
        twos = self._twos()
        tellings = [pick(rng, twos) for _ in range(length)]
        secrets, wanted = known(self.names, tellings), rng.random() < 0.5
        fitting = [(person, owner) for person, owner in twos if (owner in secrets[person]) == wanted]
        return _written(tellings, pick(rng, fitting or twos))

    def answer(self, sentence: str) -> str:
        words = sentence.split()
        body, (_, person, _, owner) = words[:-WORDS_OF_THE_QUESTION], words[-WORDS_OF_THE_QUESTION:]
        tellings = list(zip(body[::WORDS_PER_TELLING], body[2::WORDS_PER_TELLING], strict=True))
        return "yes" if owner in known(self.names, tellings)[person] else "no"

    def _twos(self) -> list[Two]:
        return list(itertools.permutations(self.names, 2))


def _written(tellings: Sequence[Two], question: Two) -> str:
    person, owner = question
    return " ".join([*(f"{teller} tells {told}" for teller, told in tellings), f"does {person} know {owner}"])
