"""`profile`: a few training steps in a process of their own, what they took beside the plan, and the record that stays.

A process of its own, because the peak of its memory is known of a process as a whole.  It gets its config on stdin and answers
with one JSON object; the record is kept by the process that measured.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from app import configure, formats, planning
from app.exit_codes import ExitCode, Stop
from presets.layers import from_toml, to_toml
from presets.plan import StagePlan
from presets.schema import RunConfig

_ROOT = Path(__file__).resolve().parents[2]


def run(source: tuple[str, Path | None, list[str], configure.Given], stage: int, steps: int, as_json: bool) -> None:
    """Measures and prints.  Raises Stop."""
    config = _one_stage(configure.load(*source).config, stage)
    planned = planning.learned_here(config)[0]
    found = _in_a_process(config, steps)
    shown = {"stage": planned.name} | planned.as_json() | found
    if as_json:
        print(json.dumps(shown, allow_nan=False))
    else:
        _print(planned, found)


def _one_stage(config: RunConfig, stage: int) -> RunConfig:
    if stage >= len(config.stages):
        raise Stop(ExitCode.USAGE, f"--stage: {stage} is not there; the last one is {len(config.stages) - 1}")
    alone = {"stages": (config.stages[stage],)}
    if config.optimizer.warmup_steps >= config.stages[stage].steps:
        alone["optimizer"] = config.optimizer.model_copy(update={"warmup_steps": 0})
    return config.model_copy(update=alone)


def _in_a_process(config: RunConfig, steps: int) -> dict[str, Any]:
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), os.fspath(_ROOT)]))
    command = [sys.executable, "-P", "-m", "app.commands.profile", str(steps)]
    done = subprocess.run(
        command, input=to_toml(config), capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}, check=False
    )
    if done.returncode == 0:
        sys.stderr.write(done.stderr)
        return json.loads(done.stdout)
    if done.returncode < 0:
        raise Stop(ExitCode.FAILED, f"the measured process was ended by signal {-done.returncode}: memory may have run out")
    words = [line.removeprefix("lattice-tui: ") for line in done.stderr.strip().splitlines()[-20:]]
    code = ExitCode(done.returncode) if done.returncode in set(ExitCode) else ExitCode.FAILED
    raise Stop(code, "\n".join(words) or f"the measured process ended with {done.returncode}")


def _print(planned: StagePlan, found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("", f"{planned.name}\n{formats.shape(planned.shape)}", title="Plan and measurement")
    for component, size in planned.components.items():
        table.add_row(component.replace("_", " "), formats.bytes_(size) if size else "-")
    table.add_section()
    table.add_row("planned", formats.bytes_(planned.total_bytes))
    peak = found["peak_bytes"]
    if planned.lesson:
        error = planned.lesson.peak_bytes / peak - 1
        told = f"{formats.bytes_(planned.lesson.peak_bytes)} ({error:+.1%} of the measured)"
        table.add_row(f"learned from {planned.lesson.runs} stages measured here", told)
    table.add_row("measured peak", f"{formats.bytes_(peak)} (plan {planned.total_bytes / peak - 1:+.1%})")
    Console(highlight=False).print(table)
    print(
        f"step {1000 * found['step_s']:.0f} ms, {1000 * found['step_cpu_s']:.0f} ms of CPU (medians of {found['steps']}), "
        f"micro-batch {found['micro_batch']} of {found['batch']}, "
        + (f"segments of {found['checkpoint_ticks']} ticks" if found["checkpoint_ticks"] else "all states kept")
    )
    print(f"remembered in {found['remembered']}")


def _measure(config: RunConfig, steps: int) -> dict[str, Any]:
    """The measured process: trains, remembers, and says what it found.  Raises Stop."""
    import statistics

    import scipy.stats  # noqa: F401
    import sklearn.cluster  # noqa: F401  both come into every run's process, though not with its steps
    import torch

    from app.run_process.prepare import prepare
    from lattice.data.batches import Schedule, TokenizedCorpus
    from lattice.kernels.native import KernelUnavailable
    from lattice.observing.measuring import device_name, measured
    from lattice.training import micro_batch
    from lattice.training.build import build_trainer
    from monitors import gauges
    from monitors.measured import add, place

    device, corpus = prepare(config)
    text = TokenizedCorpus.of(corpus, config)
    before = gauges.host_memory()
    try:
        plans = planning.for_training(config, device.type, device_name(device))
        trainer = build_trainer(config, text, device, planning=plans)
        state = trainer.state
        schedule = Schedule(len(text.train), config.stages[0].data_share, config.training.batch, config.run.seed, 0)
        micro_batch.choose(state)
        step_s, cpu_s = [], []
        for step in range(steps):
            clock, cpu = time.perf_counter(), gauges.cpu_seconds()
            trainer.step(schedule.rows(step))
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            state.progress.advance()
            step_s.append(time.perf_counter() - clock)
            cpu_s.append(gauges.cpu_seconds() - cpu)
        record = measured(state, step_s)
        add(place(), record)
    except torch.OutOfMemoryError as error:
        raise Stop(ExitCode.NO_DEVICE, f"out of memory on {device}: {str(error).partition(chr(10))[0]}") from error
    except (KernelUnavailable, OSError) as error:
        raise Stop(ExitCode.FAILED, str(error)) from error
    return {
        "peak_bytes": record.peak_bytes,
        "rss_before_bytes": before.rss_bytes if before else None,
        "step_s": record.step_s,
        "step_cpu_s": statistics.median(cpu_s),
        "steps": steps,
        "micro_batch": state.micro_batch,
        "batch": config.training.batch,
        "checkpoint_ticks": state.checkpoint_ticks,
        "record": record.as_json(),
        "remembered": os.fspath(place()),
    }


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        print(json.dumps(_measure(from_toml(sys.stdin.read(), "profile"), int(sys.argv[1])), allow_nan=False))
    except Stop as stop:
        print(f"lattice-tui: {stop}", file=sys.stderr)
        sys.exit(int(stop.code))
