"""The settings of tokenizer, encoder and decoder."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from presets.section import Section

MAX_ENCODER_LAYERS, MAX_FEED_FORWARD = 8, 2048

MAX_SLOT_NUMBERS = 1024
"""Most numbers that a sentence may take between encoder and decoder."""

MAX_LAG = 128
"""Longest lag in ticks."""

MIN_FEED_FORWARD = 16
"""Smallest width of a decoder's feed-forward layer."""


class TextSection(Section):
    """Tokenizer, encoder and decoder."""

    vocabulary: Annotated[int, Field(ge=260, le=2048)] = Field(2048, description="most BPE tokens, bytes included")
    max_tokens: Annotated[int, Field(ge=4, le=256)] = Field(32, description="longer sentences are cut (and counted)")
    grid: Annotated[int, Field(ge=1, le=16)] = Field(
        4, description="G: a sentence becomes G x G slots, each on its own patch (face), or one after the other (time)"
    )
    reading: Literal["face", "time"] = Field(
        "face",
        description="face = all slots drive the lattice at once, each its own patch, until the last tick; time = slot t drives "
        "the whole input face before tick t, and is read from the whole output face `lag` ticks later",
    )
    lag: Annotated[int, Field(ge=0, le=MAX_LAG)] | None = Field(
        None, description="time: ticks between the tick that a slot drives and the one after which it is read"
    )
    positions: Literal["start", "end"] = Field(
        "start",
        description="where places are counted from, by which encoder and decoder tell tokens and slots apart; end is for "
        "reading = time, and an encoder without layers then knows no places: a word means the same wherever it stands",
    )
    slot_width: Annotated[int, Field(ge=4, le=256)] = Field(64, description="numbers per slot")
    width: Annotated[int, Field(ge=16, le=512, multiple_of=8)] = Field(128, description="width of encoder and decoder layers")
    heads: Annotated[int, Field(ge=1, le=16)] = Field(4, description="attention heads")
    encoder_layers: Annotated[int, Field(ge=0, le=MAX_ENCODER_LAYERS)] = Field(
        1, description="encoder layers; 0 = a slot knows its own tokens only"
    )
    encoder_feed_forward: Annotated[int, Field(ge=16, le=MAX_FEED_FORWARD)] = Field(
        256, description="encoder feed-forward width"
    )
    decoder_layers: Annotated[int, Field(ge=1, le=8)] = Field(2, description="decoder layers")
    decoder_parameters: Annotated[int, Field(ge=10_000, le=4_000_000)] = Field(
        800_000, description="decoder size; its feed-forward width is solved from it"
    )

    @property
    def slots(self) -> int:
        """Slots of a sentence."""
        return self.grid**2

    @property
    def tokens_per_slot(self) -> int:
        """Neighbouring tokens that become one slot."""
        return math.ceil(self.max_tokens / self.slots)

    @property
    def longest_slots(self) -> int:
        """Slots of a sentence of max_tokens; the others are never filled."""
        return math.ceil(self.max_tokens / self.tokens_per_slot)

    @property
    def patches(self) -> int:
        """Patches along each side of a face: each slot has its own, or the whole face is one."""
        return self.grid if self.reading == "face" else 1

    @model_validator(mode="after")
    def _the_end_is_known(self) -> TextSection:
        if self.positions == "end" and self.reading == "face":
            raise ValueError("positions: end is for reading = time; with reading = face all slots are read, use start")
        return self

    @model_validator(mode="after")
    def _slots_fit(self) -> TextSection:
        if (numbers := self.grid**2 * self.slot_width) > MAX_SLOT_NUMBERS:
            raise ValueError(
                f"slot_width: {self.grid}x{self.grid} slots of {self.slot_width} are {numbers} numbers per sentence; "
                f"at most {MAX_SLOT_NUMBERS} (slot_width <= {MAX_SLOT_NUMBERS // self.grid**2} with this grid)"
            )
        if self.width % self.heads:
            raise ValueError(f"heads: {self.heads} does not divide width {self.width}")
        return self

    @model_validator(mode="after")
    def _decoder_fits(self) -> TextSection:
        if self.decoder_feed_forward() < MIN_FEED_FORWARD:
            raise ValueError(
                f"decoder_parameters: {self.decoder_parameters} is too few for a vocabulary of {self.vocabulary} at width "
                f"{self.width}; at least {self.decoder_size(MIN_FEED_FORWARD)} are needed"
            )
        return self

    def decoder_size(self, feed_forward: int) -> int:
        """Number of parameters of lattice.model.coder's decoder with the full vocabulary and this feed-forward width."""
        width, slot = self.width, self.slot_width
        tables = (self.vocabulary + self.max_tokens + 1) * width + self.grid**2 * slot
        norms = 2 * slot + 2 * width
        layer = 6 * width * width + 2 * slot * width + 7 * width + feed_forward * (2 * width + 1)
        return tables + norms + self.decoder_layers * layer

    def decoder_feed_forward(self) -> int:
        """The feed-forward width for which the decoder's size is closest to `decoder_parameters`."""
        return round((self.decoder_parameters - self.decoder_size(0)) / (self.decoder_layers * (2 * self.width + 1)))
