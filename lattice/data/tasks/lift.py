"""`lift`: up and down in a lift that stops at the lowest and at the highest floor."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from lattice.data.tasks.task import Range, WordTask, check_number


@dataclass(frozen=True, kw_only=True)
class Lift(WordTask):
    """Starts on the middle floor.  "up" on the highest and "down" on the lowest floor change nothing."""

    name: ClassVar[str] = "lift"
    asks: ClassVar[str] = "a lift goes up and down and stops at both ends; on which floor is it?"

    words: Range = field(default=Range(6, 28))
    floors: int = 7
    """Floors are numbered from 1.  The middle one is (floors + 1) / 2, rounded down."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("floors", self.floors, 2, 99)

    @property
    def alphabet(self) -> tuple[str, ...]:
        return ("up", "down")

    def answer(self, sentence: str) -> str:
        floor = (self.floors + 1) // 2
        for word in sentence.split():
            floor = min(floor + 1, self.floors) if word == "up" else max(floor - 1, 1)
        return f"floor {floor}"
