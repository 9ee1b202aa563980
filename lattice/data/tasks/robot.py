"""`robot`: steps in a square yard with a wall around it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from lattice.data.tasks.task import Range, WordTask, check_number

COLUMNS = "abcdefghi"

STEPS = {"up": (0, 1), "down": (0, -1), "left": (-1, 0), "right": (1, 0)}
"""What each word adds to column and row."""


@dataclass(frozen=True, kw_only=True)
class Robot(WordTask):
    """Starts in the middle.  A step against the wall changes nothing."""

    name: ClassVar[str] = "robot"
    asks: ClassVar[str] = "a robot walks in a yard with a wall around it; on which square is it?"

    words: Range = field(default=Range(4, 28))
    side: int = 5
    """Squares along each side.  Columns are letters from the left, rows are numbers from below, as on a chessboard."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("side", self.side, 2, len(COLUMNS))

    @property
    def alphabet(self) -> tuple[str, ...]:
        return tuple(STEPS)

    def answer(self, sentence: str) -> str:
        last = self.side - 1
        column = row = last // 2
        for word in sentence.split():
            right, up = STEPS[word]
            column, row = min(max(column + right, 0), last), min(max(row + up, 0), last)
        return f"{COLUMNS[column]} {row + 1}"
