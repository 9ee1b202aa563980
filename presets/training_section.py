"""The settings of the training loop."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from presets.section import Count, Section, Share

WOUND_SIZE = 0.25
"""Default of training.wound_size."""


class Training(Section):
    """The training loop."""

    batch: Annotated[int, Field(ge=1, le=2**20)] = Field(32, description="sentences per step, whatever the micro-batch")
    micro_batch: Annotated[int, Field(ge=0)] = Field(0, description="sentences held in memory at once; 0 = as the plan allows")
    checkpoint_ticks: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        "auto",
        description="ticks per segment; only the first state of a segment is kept, and the backward computes the others again; "
        "0 = all states are kept, about the root of a stage's ticks saves most, auto = what the plan finds best",
    )
    bad_steps: Count = Field(
        5, description="after so many skipped steps in a row the run goes back to good weights; the second time it ends"
    )
    spike_deviations: Annotated[float, Field(ge=0)] = Field(
        6.0,
        description="a step is skipped if its loss is so many standard deviations (and a nat) above the running mean; 0 = none",
    )
    wounds: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="share of a step's sentences in which a block of cells is silenced before one of the ticks"
    )
    wound_size: Share | None = Field(
        None, description=f"share of the x-y face that a wound takes, as whole columns; none = {WOUND_SIZE}"
    )

    @property
    def wound_share(self) -> float:
        """Share of the face that a wound takes."""
        return self.wound_size or WOUND_SIZE

    @model_validator(mode="after")
    def _wounds_have_a_size(self) -> Training:
        if self.wound_size is not None and not self.wounds:
            raise ValueError(f"wound_size: is {self.wound_size:g}, and no sentence is wounded with wounds = 0; leave it out")
        return self

    @model_validator(mode="after")
    def _micro_batch_divides(self) -> Training:
        if self.micro_batch and self.batch % self.micro_batch:
            nearest = next(size for size in range(min(self.micro_batch, self.batch), 0, -1) if self.batch % size == 0)
            raise ValueError(f"micro_batch: {self.micro_batch} does not divide training.batch {self.batch}; {nearest} does")
        return self
