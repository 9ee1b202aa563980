"""The settings of what all cells have in common: their states, and the rule that they share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from presets.gru_size import GRU_WIDTH, MAX_GRU_WIDTH
from presets.rule_size import HIDDEN
from presets.section import Section, Share


class LatticeSection(Section):
    """Settings of the lattice that are the same in all stages."""

    channels: Annotated[int, Field(ge=2, le=32)] = Field(12, description="C, numbers in a cell's state")
    port_channels: Annotated[int, Field(ge=1, le=32)] | None = Field(
        None, description="channels that ports drive and read, the first ones; the others only remember; none = all"
    )
    memory_ticks: Annotated[float, Field(ge=1, le=1000)] = Field(
        1.0,
        description="time constants of the channels that only remember start between 1 and this many ticks (chrono "
        "initialisation); 1 = all channels start alike",
    )
    port_start: Literal["blend", "pass"] = Field(
        "blend",
        description="start of the channels that ports drive and read: blend = a tick keeps three quarters of the state and "
        "adds some of the message; pass = a tick takes the message and forgets the state, so that slots do not smear in time",
    )
    norm_epsilon: Annotated[float, Field(gt=0, le=10)] = Field(
        1e-3, description="added to a message's mean square before it is normalised; larger = silent neighbours stay silent"
    )
    boundary: Literal["walls", "periodic"] = Field("walls", description="walls reads zero outside; periodic wraps x and y")
    cells: Literal["gradient", "frozen"] = Field(
        "gradient", description="cell parameters and the shared rule learn, or stay as initialised"
    )
    arm: Literal["lattice", "identity", "gru"] = Field(
        "lattice",
        description="controls: identity hands slots to the decoder unchanged, gru reads them in time with a recurrent network",
    )
    gru_width: Annotated[int, Field(ge=1, le=MAX_GRU_WIDTH)] | None = Field(
        None, description=f"gru: units of the recurrent network; none = {GRU_WIDTH}"
    )

    @model_validator(mode="after")
    def _gru_width_has_an_effect(self) -> LatticeSection:
        if self.gru_width is not None and self.arm != "gru":
            raise ValueError(f"gru_width: is for arm = gru and does nothing for {self.arm}; leave it out")
        return self

    @property
    def gru_units(self) -> int | None:
        """Units of the recurrent network in the lattice's place; None if there is none."""
        return (self.gru_width or GRU_WIDTH) if self.arm == "gru" else None


class RuleSection(Section):
    """How cells update: the rule, by which channels of a cell meet, and how often.

    The rule learns like cell parameters, but by AdamW.
    """

    kind: Literal["none", "linear", "mlp"] = Field(
        "none",
        description="from a cell's state and message to what its gates are made of: one matrix, or two with a ReLU between",
    )
    hidden: Annotated[int, Field(ge=1, le=128)] | None = Field(
        None, description=f"mlp: numbers between its two matrices; none = {HIDDEN}"
    )
    scope: Literal["lattice", "cell"] = Field(
        "lattice", description="lattice = all cells share one rule, cell = each cell has a rule of its own"
    )
    update_probability: Share = Field(
        1.0, description="probability of each cell to update in a tick, also without a rule; otherwise it keeps its state"
    )

    @model_validator(mode="after")
    def _hidden_has_an_effect(self) -> RuleSection:
        if self.hidden is not None and self.kind != "mlp":
            raise ValueError(f"hidden: is for kind = mlp and does nothing for {self.kind}; leave it out")
        return self

    @model_validator(mode="after")
    def _scope_is_of_a_rule(self) -> RuleSection:
        if self.scope != "lattice" and self.kind == "none":
            raise ValueError(f"scope: {self.scope} is for a rule, and kind is none; choose a kind, or use lattice")
        return self

    @property
    def hidden_numbers(self) -> int | None:
        """Numbers between the matrices of the rule: 0 if it is linear, None if there is none."""
        if self.kind == "mlp":
            return self.hidden or HIDDEN
        return 0 if self.kind == "linear" else None
