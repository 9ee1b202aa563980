"""Batches: which sentences a step sees is a pure function of (seed, stage, step), so that nothing of it must be saved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from lattice.data.corpus import Corpus, Pair
from lattice.data.special_tokens import PAD
from lattice.data.tokenizer import Tokenizer, pad
from lattice.random_streams import generator
from presets.schema import RunConfig

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Source tokens [B, N]; target tokens after BEGIN [B, M]; target tokens before END [B, M]."""


def corpus_tokenizer(corpus: Corpus, vocabulary: int) -> Tokenizer:
    """BPE trained on the training side of the corpus: source and target text."""
    return Tokenizer.train((text for pair in corpus.train for text in {pair.source: 0, pair.target: 0}), vocabulary)


class Sentences:
    """Tokenized pairs of sentences.

    `cut` counts the sources and targets that were longer than max_tokens and lost their end.  `same` says that every target
    equals its source.
    """

    def __init__(self, pairs: tuple[Pair, ...], tokenizer: Tokenizer, max_tokens: int) -> None:
        self.pairs = pairs
        sources = tokenizer.encode([pair.source for pair in pairs])
        self.same = all(pair.source == pair.target for pair in pairs)
        targets = sources if self.same else tokenizer.encode([pair.target for pair in pairs])
        sides = {"source": sources, "target": targets}
        self.cut = Counter(side for side, rows in sides.items() for row in rows if len(row) > max_tokens)
        self._limit, self._most = max_tokens, {side: max(map(len, rows), default=0) for side, rows in sides.items()}
        self._sources = [row[:max_tokens] for row in sources]
        # END takes a place of its own behind the last token; a cut target has none, for its end was never reached.
        self._targets = self._sources if self.same else [row[:max_tokens] for row in targets]
        self._ends = [len(row) <= max_tokens for row in targets]

    def __len__(self) -> int:
        return len(self.pairs)

    def cuts(self, name: str) -> Iterator[str]:
        """Says of each side of these `name` sentences how many lost their end, and how long the longest is."""
        for side, count in sorted(self.cut.items()):
            if self.same and side == "target":
                continue
            yield (
                f"{count} of {len(self)} {name} {'sentence' if self.same else side}s are longer than text.max_tokens = "
                f"{self._limit} and are cut there; the longest has {self._most[side]} tokens"
            )

    def longest(self, count: int) -> list[int]:
        """Numbers of the `count` sentences with most tokens in source and target together; they repeat if there are fewer."""
        order = sorted(range(len(self)), key=lambda i: -len(self._sources[i]) - len(self._targets[i]))
        return [order[i % len(order)] for i in range(count)]

    def batch(self, rows: list[int], device: torch.device) -> Batch:
        targets = [self._targets[i] for i in rows]
        source, begun, ended = pad([self._sources[i] for i in rows]), pad(targets, begin=True), pad(targets, end=True)
        for at, (i, target) in enumerate(zip(rows, targets, strict=True)):
            if not self._ends[i]:
                ended[at, len(target)] = PAD
        source, begun, ended = (tensor.to(device, non_blocking=True) for tensor in (source, begun, ended))
        return source, begun, ended


@dataclass(frozen=True)
class TokenizedCorpus:
    """A corpus as a model reads it."""

    tokenizer: Tokenizer
    train: Sentences
    valid: Sentences

    @classmethod
    def of(cls, corpus: Corpus, config: RunConfig, tokenizer: Tokenizer | None = None) -> TokenizedCorpus:
        """With this tokenizer, or with one that is trained on the corpus."""
        tokenizer = tokenizer or corpus_tokenizer(corpus, config.text.vocabulary)
        limit = config.text.max_tokens
        return cls(tokenizer, Sentences(corpus.train, tokenizer, limit), Sentences(corpus.valid, tokenizer, limit))


class Schedule:
    """Shuffled passes over a stage's share of the sentences; a batch may be part of two passes.

    A batch has sentences of all lengths.  Batches of similar lengths would need less padding and save a tenth of a step's
    time, but which slots are filled would then differ from step to step, and learning nearly stopped (docs/LOG.md).
    """

    def __init__(self, count: int, share: float, batch: int, seed: int, stage: int) -> None:
        """Uses this share of the `count` sentences, the same ones in every pass."""
        self._batch, self._seed, self._stage = batch, seed, stage
        self._chosen = torch.randperm(count, generator=generator(seed, "share", stage))[: max(1, round(count * share))]
        self._pass, self._order = -1, torch.empty(0, dtype=torch.long)

    def rows(self, step: int) -> list[int]:
        """The numbers of the sentences of a step of the stage (from 0)."""
        return [self._row(step * self._batch + i) for i in range(self._batch)]

    def _row(self, position: int) -> int:
        which, at = divmod(position, len(self._chosen))
        if which != self._pass:
            stream = generator(self._seed, "order", self._stage, which)
            self._pass, self._order = which, self._chosen[torch.randperm(len(self._chosen), generator=stream)]
        return int(self._order[at])
