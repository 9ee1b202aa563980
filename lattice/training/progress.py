"""Where a run is: steps, stage, and what its end rules and its health are judged by.  Plain numbers, saved as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, FiniteFloat, NonNegativeInt, TypeAdapter, ValidationError

from presets.schema import Stage


@dataclass
class Progress:
    """Where a run is.  Plain numbers, saved in every checkpoint."""

    step: NonNegativeInt = 0
    """Optimizer steps done in the whole run, bad ones included."""
    stage: NonNegativeInt = 0
    stage_step: NonNegativeInt = 0
    waves: NonNegativeInt = 0
    """Discovery waves done in this stage."""
    stage_over: str = ""
    """Why the stage ended, once it has."""
    held: bool = False
    """The operator holds the stage: its end rule waits."""
    leave_for: NonNegativeInt | None = None
    """The stage that the operator wants next, at once."""
    edits: NonNegativeInt = 0
    """Commands applied so far; as many `edited` events of the log belong to this state."""
    bad_in_a_row: NonNegativeInt = 0
    rolled_back_at: NonNegativeInt | None = None
    """The step at which the run went back to earlier weights; it does so once."""
    losses_seen: NonNegativeInt = 0
    """Good steps that the two below are taken over (lattice.training.health)."""
    loss_mean: FiniteFloat = 0.0
    loss_variance: Annotated[FiniteFloat, Field(ge=0)] = 0.0
    micro_batch: NonNegativeInt | None = None
    """Sentences at once in this stage, as chosen when it began and lowered where memory did not take them."""
    checkpoint_ticks: NonNegativeInt | None = None
    """Ticks of a segment in this stage, chosen likewise."""
    loss: float | None = None
    bleu: float | None = None
    valid_loss: float | None = None
    best_bleu: float = -1.0
    best_valid_loss: float = math.inf
    looks_without_gain: NonNegativeInt = 0
    """Decodes of this stage since the held-out loss was last better than before."""
    elapsed_s: FiniteFloat = 0.0
    cpu_s: FiniteFloat = 0.0
    saving_s: FiniteFloat = 0.0
    """Seconds for which training stood still while checkpoints were saved."""

    def following(self) -> int:
        """The stage that comes after this one; one past the last where none does."""
        return self.stage + 1 if self.leave_for is None else self.leave_for

    def finished(self, stages: int) -> bool:
        """True where nothing of a run of so many stages is left to train."""
        return bool(self.stage_over) and self.following() >= stages

    def why_over(self, stage: Stage) -> str:
        """Why the stage that the run is in ends here, or "" if it goes on."""
        if self.leave_for is not None:
            return "operator"
        if self.held:
            return ""
        if self.stage_step >= stage.steps:
            return "steps"
        if None not in (stage.until_loss, self.valid_loss) and self.valid_loss <= stage.until_loss:
            return "loss"
        if stage.until_plateau is not None and self.looks_without_gain >= stage.until_plateau:
            return "plateau"
        return ""

    def enter_following(self) -> None:
        """Into the stage that comes after this one, at its start; what the loss was stays (health.forget_losses)."""
        self.stage, self.leave_for, self.held = self.following(), None, False
        self.stage_step, self.waves, self.stage_over, self.looks_without_gain = 0, 0, "", 0
        self.best_valid_loss, self.valid_loss = math.inf, None
        self.micro_batch = self.checkpoint_ticks = None

    def as_json(self) -> dict:
        fields = dataclasses.asdict(self)
        fields["best_valid_loss"] = None if math.isinf(self.best_valid_loss) else self.best_valid_loss
        return fields

    @classmethod
    def from_json(cls, fields: dict) -> Progress:
        """Raises ValueError where a field is of another kind; unknown ones, a newer version's, are left out."""
        if not isinstance(fields, dict):
            raise ValueError("progress: is no object with its fields")
        known = {field.name for field in dataclasses.fields(cls)}
        given = {key: value for key, value in fields.items() if key in known}
        if given.get("best_valid_loss") is None:
            given.pop("best_valid_loss", None)
        try:
            return TypeAdapter(cls).validate_json(json.dumps(given), strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise ValueError(f"progress: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
