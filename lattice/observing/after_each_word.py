"""What a model would answer after each word of a sentence, which is decoded from each of the sentence's beginnings.

A beginning is a sentence of its own: it goes through encoder, lattice and decoder as if no word came after it.  So nothing here
looks into the lattice while it reads the whole sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from lattice.data.pair import Pair
from lattice.data.tokenizer import Tokenizer, pad
from lattice.model.text_lattice import TextLattice
from monitors.events import AfterWord

MOST_WORDS = 32
"""Most words of a sentence that an event tells about."""

MOST_CHARACTERS = 80
"""Longest word, and longest answer, in an event."""


class SoFar(NamedTuple):
    """What was said to a sentence up to a word, and the right answer up to there; None if there is none, or it is not known."""

    word: str
    said: str
    right: str | None


@torch.no_grad()
def after_each_word(
    model: TextLattice,
    tokenizer: Tokenizer,
    words: Sequence[str],
    right: Callable[[str], str | None],
    max_tokens: int,
    chunk: int,
) -> list[SoFar]:
    """Decodes the text up to each word, `chunk` beginnings at once; leaves out those of more than `max_tokens` tokens.

    `right` gives the right answer to a beginning, if it is known.
    """
    device = next(model.parameters()).device
    beginnings = [" ".join(words[:count]) for count in range(1, len(words) + 1)]
    tokens = [row for row in tokenizer.encode(beginnings) if len(row) <= max_tokens]
    said: list[str] = []
    for start in range(0, len(tokens), chunk):
        with model.drawn(first=start):
            said += tokenizer.decode(model.say(pad(tokens[start : start + chunk]).to(device)))
    return [SoFar(word, text, right(read)) for word, text, read in zip(words, said, beginnings, strict=False)]


def most_to_tell(pairs: Sequence[Pair]) -> Pair:
    """The pair with the longest source of at most MOST_WORDS words; if all are longer, the one with the shortest."""
    lengths = {pair: len(pair.source.split()) for pair in pairs}
    fitting = [pair for pair in pairs if lengths[pair] <= MOST_WORDS]
    return max(fitting, key=lengths.__getitem__) if fitting else min(pairs, key=lengths.__getitem__)


def as_event(so_far: SoFar) -> AfterWord:
    """The answer as a part of an event, where long text is cut."""
    is_right = None if so_far.right is None else so_far.said == so_far.right
    return AfterWord(word=_cut(so_far.word), said=_cut(so_far.said), right=is_right)


def _cut(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 1] + "…"
