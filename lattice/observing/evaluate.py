"""How well sentences come back: greedy decoding, held-out loss, and the scores of monitors.quality."""

from __future__ import annotations

import torch

from lattice.data.batches import Sentences
from lattice.data.tokenizer import Tokenizer
from lattice.model.text_lattice import TextLattice
from monitors.quality import Quality, score
from presets.components import TICK_GRADIENTS, states_kept
from presets.schema import RunConfig
from presets.stage import Stage

EVALUATION_STATES = 3
"""States a sentence that evaluation holds at once: a tick's two, and room for what reads them."""


def chunk_size(config: RunConfig, stage: Stage, micro_batch: int) -> int:
    """Sentences decoded at once: as many as take no more memory than the states and gradients of a micro-batch in training."""
    return max(1, micro_batch * (states_kept(config, stage) + TICK_GRADIENTS) // EVALUATION_STATES)


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
