"""Byte-level BPE, trained on the user's corpus.  It knows all characters of all languages, and nothing is downloaded."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

import torch

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the library warns, and may deadlock, when a process forks after use

from tokenizers import Tokenizer as _Library
from tokenizers import decoders, models, pre_tokenizers, trainers

from lattice.data.special_tokens import BEGIN, END, PAD

SPECIAL = ("<pad>", "<begin>", "<end>")

LONGEST_WORD = 1000
"""Characters without a space that are learned from together.  The library takes time by their square: minutes for 500 000."""

_OVERLONG = re.compile(rf"(\S{{{LONGEST_WORD}}})(?=\S)")


class Tokenizer:
    """Turns sentences into token ids and back.  Make one with `train` or `from_json`."""

    def __init__(self, library: _Library) -> None:
        ids = [library.token_to_id(token) for token in SPECIAL]
        if ids != [PAD, BEGIN, END]:
            raise ValueError(f"tokenizer: its special tokens {SPECIAL} have ids {ids}, expected {[PAD, BEGIN, END]}")
        self._library = library
        library.encode_special_tokens = True  # "<pad>" in a sentence is five characters, and comes back; not kept in the JSON

    @classmethod
    def train(cls, sentences: Iterable[str], vocabulary: int) -> Tokenizer:
        """Learns at most `vocabulary` tokens, which include 256 bytes and three special tokens.

        What has no space for LONGEST_WORD characters is split there.
        """
        library = _Library(models.BPE())
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        library.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=list(SPECIAL),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        library.train_from_iterator((_OVERLONG.sub(r"\1 ", sentence) for sentence in sentences), trainer)
        return cls(library)

    @classmethod
    def from_json(cls, text: str) -> Tokenizer:
        """Reads what `to_json` wrote.  Raises ValueError for anything else."""
        try:
            library = _Library.from_str(text)
        except Exception as error:  # the library raises no other kind
            raise ValueError(f"tokenizer: not a tokenizer's JSON ({error})") from error
        return cls(library)

    def to_json(self) -> str:
        return self._library.to_str()

    @property
    def vocabulary(self) -> int:
        return self._library.get_vocab_size()

    def encode(self, sentences: list[str]) -> list[list[int]]:
        """Token ids of each sentence, without special tokens; special tokens in the text are ordinary characters."""
        return [item.ids for item in self._library.encode_batch(sentences, add_special_tokens=False)]

    def decode(self, tokens: torch.Tensor) -> list[str]:
        """Texts of token rows [B, N]; PAD and other special tokens are dropped."""
        return [text.strip() for text in self._library.decode_batch(tokens.tolist(), skip_special_tokens=True)]


def pad(rows: list[list[int]], begin: bool = False, end: bool = False) -> torch.Tensor:
    """Token rows as one tensor [B, longest], padded with PAD; BEGIN before and END after each row if asked."""
    rows = [[BEGIN] * begin + row + [END] * end for row in rows]
    out = torch.full((len(rows), max(map(len, rows), default=0)), PAD)
    for i, row in enumerate(rows):
        out[i, : len(row)] = torch.tensor(row)
    return out
