"""Opens a task by its name and arguments, as in `task:house,words=4-12,count=5000`."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from lattice.data.pair import DataError, Pair
from lattice.data.tasks.gossip import Gossip
from lattice.data.tasks.house import House
from lattice.data.tasks.lift import Lift
from lattice.data.tasks.mirror import Mirror
from lattice.data.tasks.robot import Robot
from lattice.data.tasks.sides import Side, drawn
from lattice.data.tasks.task import Range, Task
from presets.schema import Data
from presets.task_name import TEST_SENTENCES, TRAINING_SENTENCES, is_task, split

TASKS: dict[str, type[Task]] = {task.name: task for task in (House, Lift, Robot, Gossip, Mirror)}
"""All tasks by name, in the order in which they are listed."""

MOST = 10_000_000
"""Most sentences of a side."""


@dataclass(frozen=True)
class NamedTask:
    """A task, and how many sentences of each side are used."""

    task: Task
    count: int = TRAINING_SENTENCES
    """Sentences to train on."""

    held: int = TEST_SENTENCES
    """Sentences held out for the test."""

    def __post_init__(self) -> None:
        for name in ("count", "held"):
            if not 1 <= (value := getattr(self, name)) <= MOST:
                raise ValueError(f"{name}: {value} is not within 1 to {MOST}")

    def pairs(self, side: Side) -> Iterator[Pair]:
        """The pairs of a side.  Raises DataError where the difficulty has too few distinct sentences."""
        return drawn(self.task, side, self.count if side == "train" else self.held)


def named(source: str) -> NamedTask:
    """The task in `task:NAME,argument=value,...`.  Raises DataError that says which names, arguments and values there are."""
    try:
        name, given = split(source)
    except ValueError as error:
        raise DataError(str(error)) from error
    if name not in TASKS:
        raise DataError(f"{source}: there is no task {name!r}{_there_are(name, TASKS)}")
    kind = TASKS[name]
    known = arguments(kind)
    values: dict[str, int | Range] = {}
    for argument, text in given.items():
        if argument not in known:
            raise DataError(f"{source}: {name} has no argument {argument!r}{_there_are(argument, known)}")
        try:
            values[argument] = known[argument](text)
        except ValueError as error:
            raise DataError(f"{source}: {argument}: {error}") from error
    sizes = {argument: values.pop(argument) for argument in ("count", "held") if argument in values}
    try:
        return NamedTask(kind(**values), **sizes)  # type: ignore[arg-type]  # each value is of the field's type, by `arguments`
    except ValueError as error:
        raise DataError(f"{source}: {error}") from error


def held_out_task(data: Data) -> Task | None:
    """The task whose sentences are held out with these settings; None if other text is."""
    source = data.valid or data.train
    return named(source).task if is_task(source) else None


def arguments(kind: type[Task]) -> dict[str, Callable[[str], int | Range]]:
    """The arguments that a task takes, with the function that reads the value of each.  The functions raise ValueError."""
    readers: dict[str, Callable[[str], int | Range]] = {}
    for field in dataclasses.fields(kind):
        readers[field.name] = Range.read if isinstance(field.default, Range) else _whole_number
    readers["seed"] = readers.pop("seed")  # after those of the task alone
    return readers | {"count": _whole_number, "held": _whole_number}


def values(opened: NamedTask) -> dict[str, int | str]:
    """What each argument of a task is; ranges as they are written."""
    of: dict[str, int | Range] = vars(opened.task) | {"count": opened.count, "held": opened.held}
    in_order = ((name, of[name]) for name in arguments(type(opened.task)))
    return {name: str(value) if isinstance(value, Range) else value for name, value in in_order}


def _whole_number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise ValueError(f"{text!r} is not a whole number")
    return int(text)


def _there_are(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word: all that are known, and the one that was probably meant."""
    close = difflib.get_close_matches(word, known := list(known), n=1)
    return f"; there are {', '.join(known)}" + (f"; did you mean {close[0]!r}?" if close else "")
