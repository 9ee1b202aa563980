"""Which sentences a step sees: a pure function of (seed, stage, step), so that nothing about it needs saving."""

from __future__ import annotations

from collections import Counter

import torch

from lattice.data import Corpus, Pair
from lattice.model import generator
from lattice.text.coder import PAD
from lattice.text.tokenizer import Tokenizer, pad

WINDOW = 16
"""Batches whose sentences are sorted by length together."""

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Source tokens [B, N]; target tokens after BEGIN [B, M]; target tokens before END [B, M]."""


def corpus_tokenizer(corpus: Corpus, vocabulary: int) -> Tokenizer:
    """BPE trained on the training side of the corpus: source and target text."""
    return Tokenizer.train((text for pair in corpus.train for text in {pair.source: 0, pair.target: 0}), vocabulary)


class Sentences:
    """Tokenized pairs; `cut` counts how many sources and targets were longer than max_tokens and lost their end."""

    def __init__(self, pairs: tuple[Pair, ...], tokenizer: Tokenizer, max_tokens: int) -> None:
        self.pairs = pairs
        sources = tokenizer.encode([pair.source for pair in pairs])
        targets = tokenizer.encode([pair.target for pair in pairs])
        self.cut = Counter(
            side for side, rows in (("source", sources), ("target", targets)) for row in rows if len(row) > max_tokens
        )
        self._sources = [row[:max_tokens] for row in sources]
        # END takes a place of its own behind the last token; a cut target has none, for its end was never reached.
        self._targets = [row[:max_tokens] for row in targets]
        self._ends = [len(row) <= max_tokens for row in targets]

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each target, which is what the decoder's work grows with."""
        return [len(row) for row in self._targets]

    def batch(self, rows: list[int], device: torch.device) -> Batch:
        targets = [self._targets[i] for i in rows]
        source, begun, ended = pad([self._sources[i] for i in rows]), pad(targets, begin=True), pad(targets, end=True)
        for at, (i, target) in enumerate(zip(rows, targets, strict=True)):
            if not self._ends[i]:
                ended[at, len(target)] = PAD
        source, begun, ended = (tensor.to(device, non_blocking=True) for tensor in (source, begun, ended))
        return source, begun, ended


class Schedule:
    """Shuffled passes over a stage's share of the sentences; a batch may straddle two passes.

    Within a window of WINDOW batches, sentences of similar length share a batch, so that little of it is padding; which
    window a sentence falls into, and the order of a window's batches, stay random.
    """

    def __init__(self, lengths: list[int], share: float, batch: int, seed: int, stage: int) -> None:
        """`lengths` [sentences]: tokens of each sentence; `share` of them, the same in every pass, is used."""
        self._batch, self._seed, self._stage = batch, seed, stage
        self._lengths = torch.tensor(lengths)
        order = torch.randperm(len(lengths), generator=generator(seed, "share", stage))
        self._chosen = order[: max(1, round(len(lengths) * share))]
        self._pass, self._order = -1, torch.empty(0, dtype=torch.long)

    def rows(self, step: int) -> list[int]:
        """Sentence numbers of the stage's step `step` (from 0)."""
        return [self._row(step * self._batch + i) for i in range(self._batch)]

    def _row(self, position: int) -> int:
        which, at = divmod(position, len(self._chosen))
        if which != self._pass:
            self._pass, self._order = which, self._shuffle(which)
        return int(self._order[at])

    def _shuffle(self, which: int) -> torch.Tensor:
        """The order of pass `which` [chosen sentences]."""
        stream = generator(self._seed, "order", self._stage, which)
        shuffled = self._chosen[torch.randperm(len(self._chosen), generator=stream)]
        ordered = []
        for window in shuffled.split(WINDOW * self._batch):
            window = window[torch.argsort(self._lengths[window], stable=True)]
            batches = window.split(self._batch)
            ordered += [batches[i] for i in torch.randperm(len(batches), generator=stream).tolist()]
        return torch.cat(ordered)
