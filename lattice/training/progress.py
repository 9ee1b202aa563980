"""The progress of a run: its step, its stage, and the numbers that decide when a stage ends and whether a step is bad."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, FiniteFloat, NonNegativeInt, TypeAdapter, ValidationError

from monitors.quality import Quality, Tokenization
from presets.measure import Measure, score_by, ties
from presets.stage import Stage

LOSS_MEMORY = 50
"""Good steps over which the loss's running mean and variance reach back: each new loss has a weight of 1/50."""


@dataclass
class Progress:
    """The progress of a run, in plain numbers.  Every checkpoint has them as JSON.  Only the methods below change them."""

    step: NonNegativeInt = 0
    """Optimizer steps done in the whole run, including bad ones, which were skipped."""
    stage: NonNegativeInt = 0
    stage_step: NonNegativeInt = 0
    waves: NonNegativeInt = 0
    """Discovery waves done in this stage."""
    grown: bool = False
    """True if the connections have grown (connections.start)."""
    stage_over: str = ""
    """Why the stage ended; "" while it goes on."""
    held: bool = False
    """True if the operator holds the stage, whose end rule then does not apply."""
    leave_for: NonNegativeInt | None = None
    """The stage that the operator wants to enter now; None if there is no such wish."""
    edits: NonNegativeInt = 0
    """Commands applied so far.  The log's `edited` events up to this number belong to this state."""
    bad_in_a_row: NonNegativeInt = 0
    rolled_back_at: NonNegativeInt | None = None
    """The step at which the run went back to earlier weights, which it does at most once; None if it has not."""
    losses_seen: NonNegativeInt = 0
    """Good steps that `loss_mean` and `loss_variance` are taken over (lattice.training.health)."""
    loss_mean: FiniteFloat = 0.0
    loss_variance: Annotated[FiniteFloat, Field(ge=0)] = 0.0
    micro_batch: NonNegativeInt | None = None
    """Sentences at once in this stage: chosen when it began, and lowered if memory ran out.  None until then."""
    checkpoint_ticks: NonNegativeInt | None = None
    """Ticks per segment in this stage, chosen and changed in the same way; 0 = no segments."""
    loss: float | None = None
    tokenization: Tokenization | None = None
    """How BLEU splits text in all looks of this run; None until it is settled."""
    bleu: float | None = None
    chrf: float | None = None
    exact: float | None = None
    valid_loss: float | None = None
    best_bleu: float = -1.0
    best_exact: float = -1.0
    best_ties: tuple[FiniteFloat, ...] = ()
    """What decided for the best look between looks of the same score (presets.measure); () if that is not known."""
    best_valid_loss: float = math.inf
    looks_without_gain: NonNegativeInt = 0
    """Looks of the decode monitor in this stage since the held-out loss last improved."""
    wounds: tuple[str, ...] = ()
    """The wounds of this stage's lattice that have not been healed (presets.wound)."""
    elapsed_s: FiniteFloat = 0.0
    cpu_s: FiniteFloat = 0.0
    saving_s: FiniteFloat = 0.0
    """Seconds that training waited for checkpoints to be saved."""

    def following(self) -> int:
        """Index of the stage that comes next.  After the last stage it is the number of stages."""
        return self.stage + 1 if self.leave_for is None else self.leave_for

    def finished(self, stages: int) -> bool:
        """True if a run with this number of stages has nothing left to train."""
        return bool(self.stage_over) and self.following() >= stages

    def why_over(self, stage: Stage) -> str:
        """Says why the current stage ends now: "operator", "steps", "loss" or "plateau"; "" if it goes on."""
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
        """Counts an optimizer step that was done, or was skipped as bad."""
        self.step += 1
        self.stage_step += 1

    def spend(self, elapsed_s: float, cpu_s: float) -> None:
        """Adds seconds of training: of the wall clock, and of CPU time over all threads."""
        self.elapsed_s += elapsed_s
        self.cpu_s += cpu_s

    def wave_done(self) -> None:
        self.waves += 1

    def note_grown(self) -> None:
        self.grown = True

    def waves_again(self) -> None:
        """Starts discovery again, because the stage begins anew from a smaller lattice."""
        self.waves = 0

    def note_step(self, loss: float) -> None:
        """Notes the loss of the step in progress, whether the step is applied or not."""
        self.loss = loss if math.isfinite(loss) else None

    def note_good(self, loss: float) -> None:
        """Takes the loss of an applied step into the running mean and variance (exponential weights, West 1979)."""
        share = max(1 / (self.losses_seen + 1), 1 / LOSS_MEMORY)
        away = loss - self.loss_mean
        self.loss_mean += share * away
        self.loss_variance = (1 - share) * (self.loss_variance + share * away * away)
        self.losses_seen += 1

    def end_bad_steps(self) -> None:
        """Notes that the last step was good."""
        self.bad_in_a_row = 0

    def count_bad(self) -> None:
        """Counts a step that was not applied."""
        self.bad_in_a_row += 1

    def went_back(self) -> None:
        """Notes that the run went back to earlier weights at this step."""
        self.rolled_back_at = self.step
        self.end_bad_steps()

    def note_wounds(self, wounds: tuple[str, ...]) -> None:
        """Notes which wounds the lattice has now."""
        self.wounds = wounds

    def forget_losses(self) -> None:
        """Restarts the loss's running mean and variance.  After an edit or in another stage, earlier losses tell nothing."""
        self.losses_seen, self.loss_mean, self.loss_variance = 0, 0.0, 0.0

    def settle_memory(self, micro_batch: int | None, checkpoint_ticks: int | None) -> None:
        """Sets the sentences at once and the ticks per segment.  None has them chosen anew (training.micro_batch)."""
        self.micro_batch, self.checkpoint_ticks = micro_batch, checkpoint_ticks

    def note_look(self, quality: Quality, valid_loss: float, measure: Measure) -> bool:
        """Notes the scores of a look of the decode monitor.  Returns whether it is the best so far by the run's measure."""
        score, before = score_by(measure, quality.bleu, quality.exact), score_by(measure, self.best_bleu, self.best_exact)
        decides = ties(quality.chrf, quality.exact, valid_loss)
        best = (score, *decides) > (before, *self.best_ties)
        if best:
            self.best_ties = decides
        self.bleu, self.chrf, self.exact = quality.bleu, quality.chrf, quality.exact
        self.valid_loss = valid_loss if math.isfinite(valid_loss) else None
        self.best_bleu, self.best_exact = max(quality.bleu, self.best_bleu), max(quality.exact, self.best_exact)
        self.looks_without_gain = 0 if valid_loss < self.best_valid_loss else self.looks_without_gain + 1
        if math.isfinite(valid_loss):
            self.best_valid_loss = min(self.best_valid_loss, valid_loss)
        return best

    def settle_tokenization(self, fitting: Tokenization) -> Tokenization:
        """How BLEU splits text in this run: `fitting`, unless it was settled before.

        A run of a version that knew 13a only keeps it, so that all its scores can be compared.
        """
        if self.tokenization is None:
            self.tokenization = fitting if self.bleu is None else "13a"
        return self.tokenization

    def score_anew(self) -> None:
        """Forgets all scores, because the run goes on with other text."""
        self.tokenization = self.bleu = self.chrf = self.exact = self.valid_loss = None
        self.best_bleu = self.best_exact = -1.0
        self.best_ties, self.best_valid_loss, self.looks_without_gain = (), math.inf, 0

    def note_save(self, seconds: float) -> None:
        """Adds the seconds that a save took."""
        self.saving_s += seconds

    def note_edits(self, count: int = 1) -> None:
        """Counts applied commands."""
        self.edits += count

    def hold(self, held: bool) -> None:
        self.held = held

    def leave(self, target: int) -> None:
        """Notes that the operator wants to enter stage `target` now."""
        self.leave_for = target

    def end_stage(self, reason: str) -> None:
        """Notes why the stage has ended, as `why_over` says."""
        self.stage_over = reason

    def reopen_stage(self) -> None:
        """Lets a stage that was over go on."""
        self.stage_over, self.leave_for = "", None

    def enter_following(self) -> None:
        """Moves to the start of the following stage."""
        self.stage, self.leave_for, self.held = self.following(), None, False
        self.stage_step, self.waves, self.stage_over, self.looks_without_gain = 0, 0, "", 0
        self.best_valid_loss, self.valid_loss = math.inf, None
        self.settle_memory(None, None)
        self.forget_losses()
        self.note_wounds(())

    # As JSON

    def as_json(self) -> dict:
        fields = dataclasses.asdict(self)
        fields["best_valid_loss"] = None if math.isinf(self.best_valid_loss) else self.best_valid_loss
        return fields

    @classmethod
    def from_json(cls, fields: dict) -> Progress:
        """Reads progress from the fields of a JSON object.  Ignores unknown fields, which a newer version may have written.

        Raises ValueError if a field has a wrong type or an impossible value.
        """
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
