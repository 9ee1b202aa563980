"""Makes the memory plans of commands and runs: for the device of this machine, improved by what was measured on it.

Torch-free.  scikit-learn is loaded only if there are measurements and a use for them.
"""

from __future__ import annotations

import functools
import sys

from monitors import gauges, measured
from monitors.text_safety import printable
from presets.plan import Planning, StagePlan, on_device, plan
from presets.schema import RunConfig

COMFORTABLE = 0.5
"""Plans that need at most this share of the budget are taken as they are.  Measurements would not change what is chosen."""


def device_here(config: RunConfig) -> str:
    """Where a run of this config would be on this machine: "cpu" or "cuda".  For `auto`, the GPUs' driver is asked."""
    if config.run.device != "auto":
        return config.run.device.partition(":")[0]
    return "cuda" if gauges.gpus() else "cpu"


def here(config: RunConfig) -> tuple[StagePlan, ...]:
    """The plans of the config's stages on this machine, without measurements."""
    return plan(on_device(config, device_here(config)))


def learned_here(config: RunConfig) -> tuple[StagePlan, ...]:
    """The plans of the config's stages on this machine, with what was measured on it."""
    device = device_here(config)
    name = "cpu"
    if device == "cuda":
        found = gauges.gpus()
        index = int(config.run.device.partition(":")[2] or 0)
        name = found[index].name if found and index < len(found) else device
    return with_lessons(name)(on_device(config, device), None)


def for_training(config: RunConfig, device: str, name: str) -> Planning:
    """The planning of a run on `device` ("cpu" or "cuda"), which is called `name`.

    Measurements are used only if some stage needs more than the share COMFORTABLE of its budget.
    """
    if all(stage.total_bytes <= COMFORTABLE * stage.budget_bytes for stage in plan(on_device(config, device))):
        return plan
    return with_lessons(name)


def with_lessons(name: str) -> Planning:
    """Planning that uses what was measured on the device called `name`.

    If some measurements can't be read, one line on stderr says so.
    """
    place = measured.place()
    records, passed_over = measured.read(place, measured.machine_key(name)) if place is not None else ([], "")
    if passed_over:
        print(printable(passed_over), file=sys.stderr)
    if not records:
        return plan
    from monitors.learned_plan import LearnedPlan

    return functools.partial(plan, learned=LearnedPlan(records))
