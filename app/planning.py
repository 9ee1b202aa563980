"""Memory plans as commands and runs make them: for the device that is here, and sharpened by what was measured on it.

Torch-free; scikit-learn is loaded only where there is something to learn from and a use for it.
"""

from __future__ import annotations

import functools
import sys

from monitors import gauges, measured
from monitors.text_safety import printable
from presets.plan import Planning, StagePlan, on_device, plan
from presets.schema import RunConfig

COMFORTABLE = 0.5
"""Share of its budget up to which a plan is taken as it is: measurements would not change what is chosen."""


def device_here(config: RunConfig) -> str:
    """ "cpu" or "cuda": where a run of this config would be on this machine, by what the GPUs' driver says."""
    if config.run.device != "auto":
        return config.run.device.partition(":")[0]
    return "cuda" if gauges.gpus() else "cpu"


def here(config: RunConfig) -> tuple[StagePlan, ...]:
    """The analytic plan on this machine."""
    return plan(on_device(config, device_here(config)))


def learned_here(config: RunConfig) -> tuple[StagePlan, ...]:
    """The plan on this machine with what was measured on it."""
    device = device_here(config)
    name = "cpu"
    if device == "cuda":
        found = gauges.gpus()
        index = int(config.run.device.partition(":")[2] or 0)
        name = found[index].name if found and index < len(found) else device
    return with_lessons(name)(on_device(config, device), None)


def for_training(config: RunConfig, device: str, name: str) -> Planning:
    """How a run on `device` ("cpu", "cuda") with this name plans: by measurements where memory may get short."""
    if all(stage.total_bytes <= COMFORTABLE * stage.budget_bytes for stage in plan(on_device(config, device))):
        return plan
    return with_lessons(name)


def with_lessons(name: str) -> Planning:
    """Planning by what was measured on the device called `name`; says in one line on stderr what could not be read."""
    records, passed_over = measured.read(measured.place(), measured.machine_key(name))
    if passed_over:
        print(printable(passed_over), file=sys.stderr)
    if not records:
        return plan
    from monitors.learned_plan import LearnedPlan

    return functools.partial(plan, learned=LearnedPlan(records))
