"""What all sections of a config have in common."""

from __future__ import annotations

import typing
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic.config import JsonDict

LIVE: JsonDict = {"live": True}
"""Marks a field that can be changed while the run trains (presets.live); in stages, in the current one and later ones."""

Count = Annotated[int, Field(ge=1)]

Share = Annotated[float, Field(gt=0, le=1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _none_may_be_a_name(cls, value: Any, info: ValidationInfo) -> Any:
        """`--set regrow=none` gives no value, and means the one of that name where there is one."""
        if value is None and info.field_name and "none" in typing.get_args(cls.model_fields[info.field_name].annotation):
            return "none"
        return value
