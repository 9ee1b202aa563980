"""The machine that a measurement was taken on, in one line."""

from __future__ import annotations

import platform
from importlib import metadata

from presets.allowance import cores


def machine() -> str:
    """The processor, the number of cores that this process may use, and the torch version."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            name = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), name)
    except OSError:
        pass
    return f"{name}, {cores()} cores, torch {metadata.version('torch')}"
