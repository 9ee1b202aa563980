"""How well sentences come back: greedy decoding, held-out loss, and the scores of monitors.quality."""

from __future__ import annotations

import torch

from lattice.batches import Sentences
from lattice.model import TextLattice
from lattice.text.tokenizer import Tokenizer
from monitors.quality import Quality, score


def chunk_size(micro_batch: int, ticks: int) -> int:
    """Sentences decoded at once: evaluation keeps 3 states a sentence, training ticks + 1 and their gradients."""
    return max(1, micro_batch * (ticks + 4) // 3)


@torch.no_grad()
def say(
    model: TextLattice, sentences: Sentences, rows: list[int], tokenizer: Tokenizer, chunk: int, control: str = "none"
) -> list[str]:
    """What the decoder says for each of the given sentences."""
    device = next(model.parameters()).device
    said: list[str] = []
    for start in range(0, len(rows), chunk):
        source, _, _ = sentences.batch(rows[start : start + chunk], device)
        said += tokenizer.decode(model.say(source, control))
    return said


@torch.no_grad()
def held_out_loss(model: TextLattice, sentences: Sentences, rows: list[int], chunk: int) -> float:
    """Mean cross-entropy in nats a target token, by teacher forcing."""
    device = next(model.parameters()).device
    total, tokens = 0.0, 0
    for start in range(0, len(rows), chunk):
        loss, count = model.loss(*sentences.batch(rows[start : start + chunk], device))
        total, tokens = total + loss.item(), tokens + count
    return total / tokens


def evaluate(
    model: TextLattice, sentences: Sentences, tokenizer: Tokenizer, chunk: int, control: str = "none"
) -> tuple[Quality, list[str]]:
    """Scores against the whole, uncut targets, and what was said."""
    rows = list(range(len(sentences)))
    said = say(model, sentences, rows, tokenizer, chunk, control)
    return score(said, [pair.target for pair in sentences.pairs]), said
