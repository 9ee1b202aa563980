"""`mirror`: the same words from the last to the first."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from lattice.data.tasks.task import Range, WordTask, check_number

WORDS = (
    "red", "sun", "tree", "fish", "bell", "milk", "hat", "moon", "rain", "key", "boat", "lamp", "coin", "leaf", "shoe", "cup",
    "bird", "salt", "drum", "wolf", "rope", "nest", "kite", "pear", "sand", "door",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Mirror(WordTask):
    """Every word matters, and so does where it stands."""

    name: ClassVar[str] = "mirror"
    asks: ClassVar[str] = "some words; what are they from the last to the first?"

    words: Range = field(default=Range(3, 12))
    vocabulary: int = 8
    """How many different words there are."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("vocabulary", self.vocabulary, 2, len(WORDS))

    @property
    def alphabet(self) -> tuple[str, ...]:
        return WORDS[: self.vocabulary]

    def answer(self, sentence: str) -> str:
        return " ".join(reversed(sentence.split()))
