"""Builds one RunConfig from preset, config file and `--set`, and remembers where every value came from.

There are five layers, and a later one overrides an earlier one: the schema's defaults, the preset's TOML, `--config FILE`,
each `--set a.b=c`, and options of a command that stand for a setting.  Tables are merged key by key.  A file replaces the list
of stages as a whole, and `--set` names a stage by its number (`stages.0.ticks=10`).  All errors are collected and raised at
once as ConfigError.

Paths of text are made absolute: those of a file are relative to its folder, those of `--set` to the current one.

One setting brings another: a bundled task as data.train makes data.task `pairs`, unless a layer sets data.task itself.
"""

from __future__ import annotations

import codecs
import difflib
import json
import re
import tomllib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from presets import data_paths
from presets.schema import RunConfig
from presets.task_name import is_task

ALIASES = {"production_medium": "medium", "production_large": "large"}
"""Other names of presets."""


MOST_BYTES = 1_000_000
"""Largest config file that is read."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a config: its dotted path, a message that says what is allowed, and where it was set."""

    path: str
    message: str
    source: str = ""

    def __str__(self) -> str:
        where = f"{self.source}: " if self.source else ""
        return f"{where}{self.path}: {self.message}" if self.path else f"{where}{self.message}"


class ConfigError(ValueError):
    """Everything wrong with a config, found in one pass."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


@dataclass(frozen=True)
class Loaded:
    """A validated config, and for each dotted path the layer that set its value."""

    config: RunConfig
    origins: dict[str, str]

    def origin(self, path: str) -> str:
        return self.origins.get(path, "default")


def preset_names() -> list[str]:
    """The names of the presets that come with the program, the quickest to train first."""
    order = ["tiny", "walker", "baseline", "small", "medium", "large", "progressive"]
    found = {path.name[: -len(".toml")] for path in resources.files("presets").iterdir() if path.name.endswith(".toml")}
    return [name for name in order if name in found] + sorted(found - set(order))


def load(
    preset: str,
    config_file: Path | None = None,
    assignments: Sequence[str] = (),
    options: Mapping[str, str] | None = None,
) -> Loaded:
    """Builds the config of a run.  Raises ConfigError with every problem found.

    `options` maps a command-line option to the assignment that it stands for, such as {"--device": 'run.device="cpu"'}.
    """
    name = ALIASES.get(preset, preset)
    if name not in preset_names():
        close = nearest(preset, [*preset_names(), *ALIASES])
        raise ConfigError([Problem("", f"unknown preset {preset!r}{close}", "--preset")])
    shipped = resources.files("presets").joinpath(f"{name}.toml").read_text(encoding="utf-8")
    layers = [(f"preset {name}", tomllib.loads(shipped))]
    if config_file is not None:
        layers.append((str(config_file), _read(config_file)))
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for source, values in layers:
        _merge(merged, values, source, origins)
    return _assigned(merged, origins, assignments, options or {})


def change(config: RunConfig, assignments: Sequence[str] = (), options: Mapping[str, str] | None = None) -> RunConfig:
    """The config changed by assignments, as in `load`.  Raises ConfigError with every problem found."""
    return _assigned(config.model_dump(mode="json"), {}, assignments, options or {}).config


def from_toml(text: str, source: str) -> RunConfig:
    """The config in a complete TOML text, such as a run folder's `config.toml`.  Raises ConfigError that names `source`."""
    try:
        return RunConfig.model_validate(tomllib.loads(text.removeprefix("\ufeff")))
    except ValidationError as error:
        raise ConfigError([Problem(p.path, p.message, source) for p in _problems(error, {})]) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError([Problem("", f"not valid TOML: {error}", source)]) from error


def to_toml(config: RunConfig) -> str:
    """The whole config as TOML, which `from_toml` reads back to an equal config."""
    data = config.model_dump(mode="json", exclude_none=True)
    stages = data.pop("stages")
    lines = [f"purpose = {toml_value(data.pop('purpose'))}", ""]
    for section, values in data.items():
        lines += [f"[{section}]", *(f"{key} = {toml_value(value)}" for key, value in values.items()), ""]
    for stage in stages:
        lines += ["[[stages]]", *(f"{key} = {toml_value(value)}" for key, value in stage.items()), ""]
    return "\n".join(lines)


def flatten(config: RunConfig) -> dict[str, tuple[Any, str]]:
    """The value and description of each setting by its dotted path, in schema order; stages are stages.0.name and so on."""
    out: dict[str, tuple[Any, str]] = {}

    def walk(model: BaseModel, prefix: str) -> None:
        for name, field in type(model).model_fields.items():
            value = getattr(model, name)
            if isinstance(value, BaseModel):
                walk(value, f"{prefix}{name}.")
            elif name == "stages":
                for i, stage in enumerate(value):
                    walk(stage, f"{prefix}stages.{i}.")
            else:
                out[prefix + name] = (value, field.description or "")

    walk(config, "")
    return out


def parse_value(text: str) -> Any:
    """The value that TEXT stands for in `--set a.b=TEXT`: None for `none`, a TOML value, or else the text itself."""
    if text == "none":
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):  # a number of 5000 digits, too, and brackets within brackets
        return text


def problems_of(error: ValidationError) -> list[Problem]:
    """The problems that pydantic found in a config, in the words of this module."""
    return _problems(error, {})


def _assigned(
    merged: dict[str, Any], origins: dict[str, str], assignments: Sequence[str], options: Mapping[str, str]
) -> Loaded:
    sourced = [*(("--set", assignment) for assignment in assignments), *options.items()]
    problems = [problem for source, text in sourced if (problem := _assign(merged, text, source, origins))]
    _make_tasks_pairs(merged, origins)
    try:
        config = RunConfig.model_validate(merged)
    except ValidationError as error:
        problems.extend(_problems(error, origins))
    if problems:
        raise ConfigError(problems)
    return Loaded(config, origins)


def _make_tasks_pairs(merged: dict[str, Any], origins: dict[str, str]) -> None:
    """A bundled task that one of the layers sets as data.train sets data.task, too, if no layer does."""
    data = merged.get("data")
    if isinstance(data, dict) and is_task(data.get("train")) and "data.train" in origins and "data.task" not in origins:
        data["task"], origins["data.task"] = "pairs", origins["data.train"]


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:  # of a device there is no end
            raw = file.read(MOST_BYTES + 1)
        if len(raw) > MOST_BYTES:
            raise ConfigError([Problem("", f"has more than {MOST_BYTES} bytes; this is no config", f"--config {path}")])
        if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise ConfigError([Problem("", "is written in UTF-16; save it as UTF-8", f"--config {path}")])
        text = raw.decode("utf-8-sig")  # editors on Windows begin a file with a byte order mark
        return data_paths.in_file(tomllib.loads(text), path)
    except ConfigError:
        raise
    except OSError as error:
        raise ConfigError([Problem("", f"can't be read: {error.strerror}", f"--config {path}")]) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError([Problem("", f"not valid TOML: {error}", f"--config {path}")]) from error


def _merge(into: dict[str, Any], values: dict[str, Any], source: str, origins: dict[str, str], prefix: str = "") -> None:
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value, source, origins, f"{prefix}{key}.")
        else:
            _forget(origins, prefix + key)
            into[key] = json.loads(json.dumps(value, default=str))  # a copy of its own, so that no layer changes another
            _mark(value, prefix + key, source, origins)


def _forget(origins: dict[str, str], path: str) -> None:
    for known in [known for known in origins if known == path or known.startswith(path + ".")]:
        del origins[known]


def _mark(value: Any, path: str, source: str, origins: dict[str, str]) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            _mark(inner, f"{path}.{key}", source, origins)
    elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        for i, inner in enumerate(value):
            _mark(inner, f"{path}.{i}", source, origins)
    else:
        origins[path] = source


def _assign(into: dict[str, Any], assignment: str, source: str, origins: dict[str, str]) -> Problem | None:
    """Applies one `a.b=c` in place, with the value that `parse_value` gives."""
    path, equals, text = assignment.partition("=")
    path, text = path.strip(), text.strip()
    keys = path.split(".")
    if not equals or not all(keys):
        return Problem("", f"{assignment!r} is not of the form section.key=value", source)
    value = data_paths.absolute(parse_value(text), Path()) if path in data_paths.SETTINGS else parse_value(text)
    at: Any = into
    for depth, key in enumerate(keys[:-1]):
        here = ".".join(keys[: depth + 1])
        if isinstance(at, list):
            if not re.fullmatch("[0-9]{1,9}", key) or int(key) >= len(at):
                exist = f"numbers 0 to {len(at) - 1} exist" if at else "the list is empty"
                return Problem(here, f"there is no such entry; {exist}", source)
            at = at[int(key)]
        else:
            at = at.setdefault(key, {})
        if not isinstance(at, (dict, list)):
            return Problem(here, f"is a value, not a section; {path} can't be set", source)
    if isinstance(at, list):
        if not any(isinstance(item, dict) for item in at):
            whole = f"{'.'.join(keys[:-1])}={toml_value(at)}"
            return Problem(path, f"is part of a list; set the whole list, such as {whole}", source)
        return Problem(path, f"names a whole entry; set one of its keys, such as {path}.steps=100", source)
    _forget(origins, path)
    at[keys[-1]] = value
    _mark(value, path, source, origins)
    return None


def _problems(error: ValidationError, origins: dict[str, str]) -> list[Problem]:
    items = error.errors(include_url=False)
    return [_problem(item, origins) for item in items if not _is_derived(item, items)]


def _is_derived(item: Any, items: list[Any]) -> bool:
    """Whether an error only follows from others: "too short" for a list of which pydantic counts only the valid entries."""
    here = item["loc"]
    deeper = any(len(other["loc"]) > len(here) and other["loc"][: len(here)] == here for other in items)
    return item["type"] == "too_short" and bool(item["input"]) and deeper


def _problem(item: Any, origins: dict[str, str]) -> Problem:
    path = ".".join(map(str, item["loc"]))
    source = origins.get(path) or next((s for known, s in origins.items() if known.startswith(path + ".")), "")
    if item["type"] == "extra_forbidden":
        siblings = list(_section_at(item["loc"][:-1]).model_fields)
        return Problem(path, f"unknown key{nearest(str(item['loc'][-1]), siblings)}", source)
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "value_error":
        # Rules across fields name the field themselves; the location is the section they stand in.
        field, colon, rest = message.partition(": ")
        if colon and " " not in field:
            full = f"{path}.{field}" if path else field
            return Problem(full, rest, origins.get(full, source))
        return Problem(path, message, source)
    if item["type"] == "missing":
        return Problem(path, "is required and was not given", source)
    if item["type"] == "model_type":
        keys = list(_section_at(item["loc"]).model_fields)
        return Problem(path, f"is a section; set one of its keys, such as {path}.{keys[0]} (got {item['input']!r})", source)
    if item["type"] == "literal_error":
        return Problem(path, f"must be {item['ctx']['expected'].replace(chr(39), '')} (got {item['input']!r})", source)
    if item["type"] == "string_pattern_mismatch":
        # A pattern is for machines; the part of the field's description before the semicolon says it in words.
        allowed = (_section_at(item["loc"][:-1]).model_fields[item["loc"][-1]].description or "").partition(";")[0]
        return Problem(path, f"must be {allowed} (got {item['input']!r})", source)
    if item["type"] == "tuple_type":
        return Problem(path, f"must be a list in brackets, such as [4,4,6] (got {item['input']!r})", source)
    if item["type"] == "too_long" and (counts := item["ctx"]):
        allowed = f"takes {counts['max_length']} values at most, not {counts['actual_length']}"
        return Problem(path, f"{allowed} (got {item['input']!r})", source)
    return Problem(path, f"{message[0].lower()}{message[1:]} (got {item['input']!r})", source)


def _section_at(location: tuple[int | str, ...]) -> type[BaseModel]:
    """The schema's model at a location."""
    model: Any = RunConfig
    for part in location:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        nested = [annotation, *typing.get_args(annotation)]
        model = next(kind for kind in nested if isinstance(kind, type) and issubclass(kind, BaseModel))
    return model


def nearest(word: str, known: list[str]) -> str:
    """The end of an error message about an unknown word: the word that was probably meant, or all that are allowed."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; allowed: {', '.join(known)}"


def toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # A JSON string is a TOML basic string but for two things: TOML has no surrogate pairs, and wants DEL escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml_value(inner)}" for key, inner in value.items()) + " }"
    return repr(value)
