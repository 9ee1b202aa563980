"""Evaluation: how well sentences come back.  Greedy decoding, held-out loss, and the scores of monitors.quality."""

from __future__ import annotations

import torch

from lattice.data.batches import Sentences
from lattice.data.script import tokenization
from lattice.data.tokenizer import Tokenizer
from lattice.model.text_lattice import TextLattice
from monitors.quality import Quality, score
from presets.components import TICK_GRADIENTS, states_kept
from presets.schema import RunConfig
from presets.stage import Stage

EVALUATION_STATES = 3
"""States per sentence that evaluation holds at once: the two of a tick, and room for what reads them."""


def chunk_size(config: RunConfig, stage: Stage, micro_batch: int) -> int:
    """How many sentences to decode at once, so that they take no more memory than a micro-batch does in training.

    States and gradients count.  It is at least 1.
    """
    return max(1, micro_batch * (states_kept(config, stage) + TICK_GRADIENTS) // EVALUATION_STATES)


@torch.no_grad()
def say(
    model: TextLattice, sentences: Sentences, rows: list[int], tokenizer: Tokenizer, chunk: int, control: str = "none"
) -> list[str]:
    """Decodes the sentences `rows`, `chunk` of them at once.  Returns one text per sentence."""
    device = next(model.parameters()).device
    said: list[str] = []
    for start in range(0, len(rows), chunk):
        source, _, _ = sentences.batch(rows[start : start + chunk], device)
        with model.drawn(first=start):
            said += tokenizer.decode(model.say(source, control))
    return said


@torch.no_grad()
def held_out_loss(model: TextLattice, sentences: Sentences, rows: list[int], chunk: int) -> float:
    """Mean cross-entropy of the sentences `rows` in nats per target token, by teacher forcing."""
    device = next(model.parameters()).device
    total, tokens = 0.0, 0
    for start in range(0, len(rows), chunk):
        with model.drawn(first=start):
            loss, count = model.loss(*sentences.batch(rows[start : start + chunk], device))
        total, tokens = total + loss.item(), tokens + count
    return total / tokens


def evaluate(
    model: TextLattice, sentences: Sentences, tokenizer: Tokenizer, chunk: int, control: str = "none"
) -> tuple[Quality, list[str]]:
    """Decodes all sentences.  Returns their scores, and the decoded texts.

    The scores compare with whole targets, even if these were cut to text.max_tokens for the model.  BLEU splits text as fits
    the targets.
    """
    rows = list(range(len(sentences)))
    said = say(model, sentences, rows, tokenizer, chunk, control)
    targets = [pair.target for pair in sentences.pairs]
    return score(said, targets, tokenization(targets)), said
