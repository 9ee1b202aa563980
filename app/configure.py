"""Makes a config from command-line options.  Torch-free, so that a wrong option is reported at once."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from app.exit_codes import ExitCode, Stop
from presets import layers
from presets.layers import ConfigError, Loaded
from presets.schema import RunConfig
from presets.task_name import is_task

OPTIONS = {
    "--data": "data.train",
    "--valid": "data.valid",
    "--task": "data.task",
    "--device": "run.device",
    "--memory-budget": "run.memory_budget_gb",
}
"""The options that stand for a setting, each with the path of that setting."""

Given = Mapping[str, object]
"""The values of OPTIONS by option name; None if an option is not given."""


def load(preset: str, config: Path | None, assignments: list[str], given: Given | None = None) -> Loaded:
    """The config of a command: a preset, a file over it, `--set` assignments, and the options `given`.

    Raises Stop with exit code 2 if anything in it is wrong.
    """
    try:
        loaded = layers.load(preset, config, assignments, as_assignments(given or {}))
    except ConfigError as error:
        raise Stop(ExitCode.USAGE, str(error)) from error
    for source in filter(is_task, (loaded.config.data.train, loaded.config.data.valid)):
        if wrong := wrong_task(source):
            raise Stop(ExitCode.USAGE, wrong)
    return loaded


def wrong_task(source: str) -> str:
    """What is wrong with `task:NAME,argument=value,...`; empty if it names a task.  Whether it has enough sentences is not
    looked at."""
    from lattice.data.pair import DataError
    from lattice.data.tasks.named import named

    try:
        named(source)
    except DataError as error:
        return str(error)
    return ""


def wrong_file(path: Path) -> str:
    """What is wrong with a file of text, as far as its name and its beginning show; empty if nothing is."""
    from lattice.data.files import format_of
    from lattice.data.pair import DataError

    try:
        format_of(path)
    except DataError as error:
        return str(error)
    return ""


def data_source(path: Path) -> str:
    """What data.train or data.valid is to be: a file's absolute path, or the name of a bundled task as it stands."""
    return str(path) if is_task(str(path)) else str(path.absolute())


def resumed(config: RunConfig, given: Given, run: str) -> RunConfig:
    """The config of a run that goes on, with its text where --data and --valid say that it is now.

    Raises Stop if text is not where it should be; the message says how to name another place.
    """
    try:
        config = layers.change(config, options=as_assignments(given))
    except ConfigError as error:
        raise Stop(ExitCode.USAGE, str(error)) from error
    require_text(config, f"lattice-tui train --resume {run}", run)
    return config


def require_text(config: RunConfig, command: str, run: str) -> None:
    """Raises Stop if text of a run's config is not where it was; the message says how `command` is told its new place."""
    for option, source in (("--data", config.data.train), ("--valid", config.data.valid)):
        if source is not None and not is_task(source) and not os.path.exists(source):
            raise Stop(
                ExitCode.USAGE,
                f"{source}: no such file or folder; if the text of {run} was moved, `{command} {option} PATH` goes on with it",
            )


def as_assignments(given: Given) -> dict[str, str]:
    """The options that were given, by name, each as the assignment that it stands for: "data.train=..."."""
    return {name: f"{OPTIONS[name]}={_toml(value)}" for name, value in given.items() if value is not None}


def with_steps(config: RunConfig, steps: int | None) -> RunConfig:
    """The config with `--steps N`: all stages together have N steps, keep their shares, and have at least one step each.

    If N is not more than the warm-up, the warm-up becomes N // 10.  Raises Stop if N is less than the number of stages.
    """
    if steps is None:
        return config
    if steps < len(config.stages):
        raise Stop(
            ExitCode.USAGE, f"--steps: {steps} steps can't be shared by {len(config.stages)} stages; give at least one a stage"
        )
    shares, left = [], steps
    for i, stage in enumerate(config.stages[:-1]):
        later = len(config.stages) - 1 - i
        shares.append(min(max(1, round(steps * stage.steps / config.total_steps)), left - later))
        left -= shares[-1]
    changed = [stage.model_dump() | {"steps": share} for stage, share in zip(config.stages, [*shares, left], strict=True)]
    data = config.model_dump() | {"stages": changed}
    if data["optimizer"]["warmup_steps"] >= steps:
        data["optimizer"] = data["optimizer"] | {"warmup_steps": max(0, steps // 10)}
    return RunConfig.model_validate(data)


def _toml(value: object) -> str:
    return json.dumps(data_source(value) if isinstance(value, Path) else value)
