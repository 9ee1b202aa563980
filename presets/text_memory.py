"""The memory that text takes in a run, counted without torch.

This is the memory of encoder, decoder and ports, as lattice.model.coder and lattice.model.ports build them, of a recurrent
network in the lattice's place, of what they keep for the backward, and of the sentences themselves.
"""

from __future__ import annotations

import math
from pathlib import Path

from presets.schema import Data, RunConfig
from presets.stage import Stage
from presets.task_name import is_task, sentences
from presets.text_files import files_below, is_packed, is_text
from presets.text_section import TextSection

CONTROL_POINTS = 3 * 3
"""Points of C numbers through which a slot drives its patch of the face."""

GRU_NUMBERS = 13
"""Numbers per unit and step that torch's GRU takes on the CPU at the peak of its backward (measured: 11.7 to 12.5)."""

TEXT_BYTES = 57
"""Bytes of memory per byte of text: strings, tokens, and what reading them leaves (measured at 36 000 and 59 000 sentences)."""

PACKED_BYTES = 4
"""Bytes of text per byte of a packed file, about."""

BUNDLED_TEXT = 2_500_000
"""Size of the bundled corpus in bytes."""

TASK_SENTENCE = 100
"""Bytes of a bundled task's sentence with its answer, about."""


def encoder_size(text: TextSection) -> int:
    """Number of parameters of lattice.model.coder.Encoder."""
    width, hidden, slots = text.width, text.encoder_feed_forward, text.grid**2
    tokens_per_slot = text.tokens_per_slot
    places = 0 if text.positions == "end" and not text.encoder_layers else slots * tokens_per_slot
    tables = (text.vocabulary + places) * width
    layer = 4 * width * width + 5 * width + hidden * (2 * width + 1)
    return tables + text.encoder_layers * layer + 2 * width + (width * tokens_per_slot + 1) * text.slot_width


def ports_size(text: TextSection, channels: int) -> int:
    """Number of parameters of both ports, lattice.model.ports.Port, which drive and read so many channels."""
    slots, points = text.patches**2, CONTROL_POINTS * channels
    return slots * (2 * text.slot_width * points + points + text.slot_width)


def activations(config: RunConfig, stage: Stage) -> int:
    """Numbers kept for the backward of one sentence in text, loss, and ports or GRU; estimated, without attention maps."""
    text, slots = config.text, config.text.grid**2
    tokens = text.max_tokens + 1
    encoded = slots * text.tokens_per_slot
    encoder = text.encoder_layers * encoded * (12 * text.width + 2 * text.encoder_feed_forward)
    per_token = 16 * text.width + 2 * text.decoder_feed_forward()
    decoder = text.decoder_layers * (tokens * per_token + slots * 2 * text.width)
    loss = 3 * tokens * text.vocabulary  # logits, their log-softmax, and the gradient
    if units := config.lattice.gru_units:
        return encoder + decoder + loss + (slots + (text.lag or 0)) * (text.slot_width + GRU_NUMBERS * units)
    if config.lattice.arm != "lattice":
        return encoder + decoder + loss
    faces = 1 if text.reading == "face" else text.longest_slots
    ports = config.lattice.channels * (slots * CONTROL_POINTS + faces * math.prod(stage.shape[:2]))
    return encoder + decoder + loss + 4 * ports  # both ports' control points and faces, and their gradients


def text_on_disk(data: Data) -> int:
    """Bytes of the text that a run reads.  Missing files count as 0 here; reading them raises the error."""
    if data.train is None:
        return BUNDLED_TEXT
    total = 0
    for name in filter(None, (data.train, data.valid)):
        if is_task(name):
            total += TASK_SENTENCE * sentences(name)
            continue
        path = Path(name)
        try:
            files = [path] if path.is_file() else filter(is_text, files_below(path))
            total += sum(file.stat().st_size * (PACKED_BYTES if is_packed(file) else 1) for file in files)
        except OSError:
            continue
    return total
