"""Where a run is: steps, stage, and what its end rules and its health are judged by.  Plain numbers, saved as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, FiniteFloat, NonNegativeInt, TypeAdapter, ValidationError

from presets.stage import Stage

LOSS_MEMORY = 50
"""Good steps that the running mean of the loss goes back."""


@dataclass
class Progress:
    """Plain numbers, saved in every checkpoint.  They change by the methods below alone."""

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
        if stage.until_loss is not None and self.valid_loss is not None and self.valid_loss <= stage.until_loss:
            return "loss"
        if stage.until_plateau is not None and self.looks_without_gain >= stage.until_plateau:
            return "plateau"
        return ""

    # What happens to a run

    def advance(self) -> None:
        """An optimizer step is done, or was skipped as bad."""
        self.step += 1
        self.stage_step += 1

    def spend(self, elapsed_s: float, cpu_s: float) -> None:
        """Adds seconds of training: on the clock, and of all processors."""
        self.elapsed_s += elapsed_s
        self.cpu_s += cpu_s

    def wave_done(self) -> None:
        self.waves += 1

    def waves_again(self) -> None:
        """The stage begins anew from a smaller lattice, and with it discovery."""
        self.waves = 0

    def note_step(self, loss: float) -> None:
        """The loss of the step in progress, whether that is applied or not."""
        self.loss = loss if math.isfinite(loss) else None

    def note_good(self, loss: float) -> None:
        """A step was applied: its loss enters the running mean and variance (exponential, West 1979)."""
        share = max(1 / (self.losses_seen + 1), 1 / LOSS_MEMORY)
        away = loss - self.loss_mean
        self.loss_mean += share * away
        self.loss_variance = (1 - share) * (self.loss_variance + share * away * away)
        self.losses_seen += 1

    def end_bad_steps(self) -> None:
        self.bad_in_a_row = 0

    def count_bad(self) -> None:
        """A step was not applied."""
        self.bad_in_a_row += 1

    def went_back(self) -> None:
        """The run took up earlier weights."""
        self.rolled_back_at = self.step
        self.end_bad_steps()

    def forget_losses(self) -> None:
        """Another stage, or an edit: what the loss was says nothing about what it may be."""
        self.losses_seen, self.loss_mean, self.loss_variance = 0, 0.0, 0.0

    def settle_memory(self, micro_batch: int | None, checkpoint_ticks: int | None) -> None:
        """Sentences at once and ticks of a segment from here on; None if they are to be chosen anew."""
        self.micro_batch, self.checkpoint_ticks = micro_batch, checkpoint_ticks

    def note_look(self, bleu: float, valid_loss: float) -> bool:
        """The decode monitor has looked; returns whether its BLEU is the best so far."""
        best = bleu > self.best_bleu
        self.bleu, self.valid_loss = bleu, valid_loss if math.isfinite(valid_loss) else None
        self.best_bleu = max(bleu, self.best_bleu)
        self.looks_without_gain = 0 if valid_loss < self.best_valid_loss else self.looks_without_gain + 1
        if math.isfinite(valid_loss):
            self.best_valid_loss = min(self.best_valid_loss, valid_loss)
        return best

    def note_save(self, seconds: float) -> None:
        self.saving_s += seconds

    def note_edits(self, count: int = 1) -> None:
        """So many commands were applied."""
        self.edits += count

    def hold(self, held: bool) -> None:
        self.held = held

    def leave(self, target: int) -> None:
        """The operator wants stage `target` next, at once."""
        self.leave_for = target

    def end_stage(self, reason: str) -> None:
        self.stage_over = reason

    def reopen_stage(self) -> None:
        """The stage was over, and goes on."""
        self.stage_over, self.leave_for = "", None

    def enter_following(self) -> None:
        """Into the stage that comes after this one, at its start."""
        self.stage, self.leave_for, self.held = self.following(), None, False
        self.stage_step, self.waves, self.stage_over, self.looks_without_gain = 0, 0, "", 0
        self.best_valid_loss, self.valid_loss = math.inf, None
        self.settle_memory(None, None)
        self.forget_losses()

    # As JSON

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
