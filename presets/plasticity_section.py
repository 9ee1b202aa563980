"""The settings of local plasticity."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from presets.section import LIVE, Count, Section


class PlasticitySection(Section):
    """The local learning rule of connections, for connections.learning = plastic or hybrid, and for discovery waves."""

    rule: Literal["stdp", "bcm", "oja", "three_factor"] = Field(
        "stdp",
        description="stdp = timing of firing, bcm = rate with a sliding threshold, oja = rate with decay, "
        "three_factor = activity x learning signal",
    )
    rate: Annotated[float, Field(ge=0, le=1)] = Field(
        0.001, description="change of |w| per update at a mean product of 1, times the profile's factor", json_schema_extra=LIVE
    )
    A_plus: Annotated[float, Field(ge=0)] = Field(
        1.0, description="STDP: potentiation, in units of rate", json_schema_extra=LIVE
    )
    A_minus: Annotated[float, Field(ge=0)] = Field(
        1.05, description="STDP: depression, in units of rate", json_schema_extra=LIVE
    )
    tau_plus: Annotated[float, Field(gt=0)] = Field(2.0, description="STDP: decay of pre_trace in ticks")
    tau_minus: Annotated[float, Field(gt=0)] = Field(2.0, description="STDP: decay of post_trace in ticks")
    mu: Annotated[float, Field(ge=0, le=4)] = Field(0.0, description="STDP: 0 = hard bounds, 1 = soft (weight-dependent) ones")
    tau_theta: Annotated[float, Field(gt=0)] = Field(100.0, description="BCM: steps over which theta follows activity squared")
    tau_e: Annotated[float, Field(ge=0)] = Field(0.0, description="three_factor: decay of the eligibility in ticks")
    w_min: Annotated[float, Field(ge=0)] = Field(0.0, description="least |w|")
    w_max: Annotated[float, Field(gt=0)] = Field(2.0, description="largest |w|")
    winners: Annotated[int, Field(ge=0)] = Field(0, description="cells per neighbourhood that learn; 0 = no competition")
    neighbourhood: Annotated[int, Field(ge=1, le=16)] = Field(4, description="side of a neighbourhood in cells")
    inhibition: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5, description="share of its change that a cell which does not win makes with the opposite sign"
    )
    conserve: bool = Field(True, description="keep every cell's sum of |w|")
    homeostasis: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="rate at which firing thresholds seek target_rate; 0 = fixed thresholds", json_schema_extra=LIVE
    )
    target_rate: Annotated[float, Field(gt=0, lt=1)] = Field(0.3, description="share of ticks in which a cell should fire")
    sentences: Count = Field(8, description="sentences of a batch that are observed")
    quiet: Annotated[float, Field(ge=0, le=10)] = Field(
        0.0,
        description="pairs of tiles are skipped if the product of their activities is below this share of the mean; 0 = none",
        json_schema_extra=LIVE,
    )

    @model_validator(mode="after")
    def _bounds_hold(self) -> PlasticitySection:
        if self.w_max <= self.w_min:
            raise ValueError(f"w_max: {self.w_max} is not above w_min {self.w_min}")
        if self.winners > self.neighbourhood**3:
            raise ValueError(f"winners: {self.winners} is more than the {self.neighbourhood**3} cells of a neighbourhood")
        return self
