"""What all sections of a config have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

LIVE: JsonDict = {"live": True}
"""Marks a field that can be changed while the run trains (presets.live); in stages, in the current one and later ones."""

Count = Annotated[int, Field(ge=1)]

Share = Annotated[float, Field(gt=0, le=1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)
