"""`task:NAME,argument=value,...`: the name of a bundled task, where the path of a file of text could stand.

Examples are `task:house` and `task:lift,words=4-12,count=5000`.  Commas are used because no shell gives them a meaning of their
own.  Which tasks and arguments there are, lattice.data.tasks knows.
"""

from __future__ import annotations

from typing import TypeGuard

PREFIX = "task:"

TRAINING_SENTENCES = 25_000
"""Default of the argument `count`, which every task has: the sentences to train on."""

TEST_SENTENCES = 1_000
"""Default of the argument `held`, which every task has: the sentences held out."""


def is_task(source: object) -> TypeGuard[str]:
    """True if this setting names a task.  A file whose name begins with `task:` needs its folder before it."""
    return isinstance(source, str) and source.startswith(PREFIX)


def split(source: str) -> tuple[str, dict[str, str]]:
    """The name and the arguments in `task:NAME,argument=value,...`.  Raises ValueError if it is not of this form."""
    name, *assignments = (part.strip() for part in source.removeprefix(PREFIX).split(","))
    arguments: dict[str, str] = {}
    for assignment in assignments:
        argument, equals, value = (part.strip() for part in assignment.partition("="))
        if not (argument and equals and value):
            raise ValueError(f"{source!r}: {assignment!r} is no argument=value; a task is {PREFIX}NAME,argument=value,...")
        if argument in arguments:
            raise ValueError(f"{source!r}: {argument} is given twice; give it once")
        arguments[argument] = value
    if not name or not name.isidentifier():
        raise ValueError(f"{source!r}: {name!r} is no name of a task; a task is {PREFIX}NAME,argument=value,...")
    return name, arguments


def sentences(source: str) -> int:
    """How many sentences of both sides a task has; the default where a count is no number, which opening the task refuses."""
    _, arguments = split(source)
    asked = ((arguments.get("count"), TRAINING_SENTENCES), (arguments.get("held"), TEST_SENTENCES))
    return sum(int(given) if given and given.isdecimal() and len(given) < 19 else default for given, default in asked)
