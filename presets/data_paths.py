"""Paths of text in a config: made absolute where they are given, so that they mean the same from every folder and later on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from presets.task_name import is_task

KEYS = ("train", "valid")
"""The settings under [data] that name a file or folder."""

SETTINGS = tuple(f"data.{key}" for key in KEYS)


def absolute(source: Any, folder: Path) -> Any:
    """The absolute path of a source of text, which was named from within `folder`; `~/` is the home folder.

    The name of a bundled task stays as it is, and so does what is no text, which the schema refuses.
    """
    if not isinstance(source, str) or not source or is_task(source):
        return source
    if source.startswith("~/"):
        source = os.path.expanduser(source)
    return os.path.normpath(folder.absolute() / source)


def in_file(values: dict[str, Any], file: Path) -> dict[str, Any]:
    """The values of a config file, its relative paths of text taken from the folder that the file stands in.

    What comes through a pipe or a descriptor stands in no folder; its paths are taken from the current one.
    """
    folder = Path() if os.path.abspath(file).startswith(("/dev/", "/proc/")) else file.parent
    data = values.get("data")
    if not isinstance(data, dict):
        return values
    return values | {"data": {key: absolute(value, folder) if key in KEYS else value for key, value in data.items()}}
