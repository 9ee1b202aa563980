"""`house`: a walk through a house whose doors have to be learned."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from random import Random
from typing import ClassVar

from lattice.data.tasks.task import Range, WordTask, check_number

ROOMS = (
    ("kitchen", "pantry", "office", "laundry"),
    ("lounge", "hall", "library", "bathroom"),
    ("garage", "workshop", "nursery", "bedroom"),
)
"""The rooms from north to south, each row from west to east."""

START = "hall"

SIDES = {"north": (-1, 0), "south": (1, 0), "east": (0, 1), "west": (0, -1)}
"""What each word adds to row and column."""

NEIGHBOURS = tuple(
    (ROOMS[row][column], word, ROOMS[row + down][column + right])
    for row in range(len(ROOMS))
    for column in range(len(ROOMS[0]))
    for word, (down, right) in SIDES.items()
    if word in ("south", "east") and row + down < len(ROOMS) and column + right < len(ROOMS[0])
)
"""The 17 pairs of rooms that share a wall: a room, the way to the other (south or east), and the other."""

BACK = {"south": "north", "east": "west"}

MOST_DOORS = len(NEIGHBOURS) - (sum(map(len, ROOMS)) - 1)
"""Walls that a spanning tree leaves without a door."""


@dataclass(frozen=True, kw_only=True)
class House(WordTask):
    """Starts in the hall.  A word that leads against a wall changes nothing."""

    name: ClassVar[str] = "house"
    asks: ClassVar[str] = "somebody walks through a house of 12 rooms, never through walls; in which room do they end?"

    words: Range = field(default=Range(4, 28))
    doors: int = 0
    """Doors beyond the 11 of a random spanning tree, which leads from each room to each other in one way only."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("doors", self.doors, 0, MOST_DOORS)

    @property
    def alphabet(self) -> tuple[str, ...]:
        return tuple(SIDES)

    @cached_property
    def plan(self) -> dict[tuple[str, str], str]:
        """Where a word leads from a room, for each door and both of its sides.  The seed alone decides.

        Kruskal's tree: the walls in random order, and a door in each that parts two rooms with no way between them.  The first
        of the other walls get the extra doors.
        """
        rng = Random(f"{self.name}/{self.seed}/doors")
        walls = [wall for _, wall in sorted((rng.random(), wall) for wall in NEIGHBOURS)]
        part = {room: room for row in ROOMS for room in row}
        tree: list[tuple[str, str, str]] = []
        rest: list[tuple[str, str, str]] = []
        for wall in walls:
            one, other = part[wall[0]], part[wall[2]]
            (rest if one == other else tree).append(wall)
            part = {room: one if its == other else its for room, its in part.items()}
        plan = {}
        for room, word, beyond in tree + rest[: self.doors]:
            plan[room, word], plan[beyond, BACK[word]] = beyond, room
        return plan

    def answer(self, sentence: str) -> str:
        room, plan = START, self.plan
        for word in sentence.split():
            room = plan.get((room, word), room)
        return room
