"""Live settings, which can be changed while a run trains: the fields that the schema marks as live.

A config is frozen, so an edit makes a new one.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ValidationError

from presets.layers import ConfigError, Problem, nearest, problems_of
from presets.schema import RunConfig


def live_settings(config: RunConfig, stage: int = 0) -> dict[str, Any]:
    """The value of every setting that can be changed while stage `stage` trains, by dotted path, in schema order."""
    found: dict[str, Any] = {}

    def walk(model: BaseModel, prefix: str) -> None:
        for name, field in type(model).model_fields.items():
            value = getattr(model, name)
            if isinstance(value, BaseModel):
                walk(value, f"{prefix}{name}.")
            elif isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("live"):
                found[prefix + name] = value

    for i, each in enumerate(config.stages[stage:], stage):
        walk(each, f"stages.{i}.")
    walk(config, "")
    return found


def edit(config: RunConfig, key: str, value: Any, stage: int = 0) -> RunConfig:
    """The config with one live setting changed, validated as a whole.  Raises ConfigError that says what can be changed."""
    known = live_settings(config, stage)
    if key not in known:
        raise ConfigError([Problem(key, _why_not(config, key, stage, list(known)))])
    return _with(config, {key: value})


def with_settings(config: RunConfig, settings: dict[str, Any]) -> RunConfig:
    """The config with these live settings, which `live_settings` returned for an edited config.  Raises ConfigError."""
    known = live_settings(config)
    if not isinstance(settings, dict):  # a checkpoint's, which somebody may have edited
        raise ConfigError([Problem("live", "is no table of settings")])
    if unknown := [key for key in settings if key not in known]:
        raise ConfigError([Problem(unknown[0], "is no setting of this run that can be changed")])
    return _with(config, settings)


def _with(config: RunConfig, settings: dict[str, Any]) -> RunConfig:
    data = config.model_dump()
    for key, value in settings.items():
        at: Any = data
        *path, last = key.split(".")
        for part in path:
            at = at[int(part)] if isinstance(at, tuple) else at[part]
        at[last] = value
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(problems_of(error)) from error


def _why_not(config: RunConfig, key: str, stage: int, known: list[str]) -> str:
    if key in live_settings(config, 0):
        return f"that stage is over; stage {stage} is being trained"
    head, _, rest = key.partition(".")
    number = rest.partition(".")[0]
    if head == "stages" and number.isdecimal() and int(number) >= len(config.stages):
        return f"there is no such stage; the last one is {len(config.stages) - 1}"
    at: Any = config
    for part in key.split("."):
        if isinstance(at, tuple) and part.isdecimal() and int(part) < len(at):
            at = at[int(part)]
        elif isinstance(at, BaseModel) and part in type(at).model_fields:
            at = getattr(at, part)
        else:
            return f"is no setting that can be changed while the run trains{nearest(key, known)}"
    return f"is fixed when the run starts; what can change: {', '.join(known)}"
