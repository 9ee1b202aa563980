"""A pair of texts, and the error of all that reads or makes them."""

from __future__ import annotations

from dataclasses import dataclass


class DataError(ValueError):
    """Unusable data; the message names file and line, or the task and its argument, and says what is expected."""


@dataclass(frozen=True)
class Pair:
    """The text that goes in and the text that should come out, which are equal for the task `reconstruct`."""

    source: str
    target: str
