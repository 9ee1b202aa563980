"""The process that `profile` measures: it trains a few steps, records what they took, and prints it as JSON.

    python -m app.run_process.profiled STEPS < config.toml > found.json

It is a process of its own, because only the peak memory of a whole process is known.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
import time
from typing import Any

import scipy.stats  # noqa: F401
import sklearn.cluster  # noqa: F401  every run's process imports both sooner or later, so their memory counts
import torch

from app import planning
from app.exit_codes import ExitCode, Stop
from app.run_process.prepare import prepare
from lattice.data.batches import Schedule, TokenizedCorpus
from lattice.kernels.native import KernelUnavailable
from lattice.observing.measuring import device_name, measured
from lattice.training import micro_batch
from lattice.training.build import build_trainer
from monitors import gauges
from monitors.measured import add, place
from presets.layers import from_toml
from presets.schema import RunConfig


def measure(config: RunConfig, steps: int) -> dict[str, Any]:
    """Trains `steps` steps of the first stage, records what they took, and returns it as JSON.

    Raises Stop if the run can't begin, if memory runs out, or if the record can't be written.
    """
    device, corpus = prepare(config)
    text = TokenizedCorpus.of(corpus, config)
    before = gauges.host_memory()
    try:
        plans = planning.for_training(config, device.type, device_name(device))
        trainer = build_trainer(config, text, device, planning=plans)
        state = trainer.state
        schedule = Schedule(len(text.train), config.stages[0].data_share, config.training.batch, config.run.seed, 0)
        micro_batch.choose(state)
        step_s, cpu_s, longest = [], [], 0
        for step in range(steps):
            # In time a sentence takes as many ticks as it has slots, and the plan is for the longest: one step takes those.
            longest_ones = config.text.reading == "time" and step == steps - 1
            rows = text.train.longest(config.training.batch) if longest_ones else schedule.rows(step)
            longest = max(longest, text.train.batch(rows, torch.device("cpu"))[0].shape[1])
            clock, cpu = time.perf_counter(), gauges.cpu_seconds()
            trainer.step(rows)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            state.progress.advance()
            step_s.append(time.perf_counter() - clock)
            cpu_s.append(gauges.cpu_seconds() - cpu)
        record = measured(state, step_s)
        if (remembered := place()) is not None:
            add(remembered, record)
    except torch.OutOfMemoryError as error:
        raise Stop(ExitCode.NO_DEVICE, f"out of memory on {device}: {str(error).partition(chr(10))[0]}") from error
    except (KernelUnavailable, OSError) as error:
        raise Stop(ExitCode.FAILED, str(error)) from error
    lag = config.text.lag
    return {
        "peak_bytes": record.peak_bytes,
        "rss_before_bytes": before.rss_bytes if before else None,
        "step_s": record.step_s,
        "step_cpu_s": statistics.median(cpu_s),
        "steps": steps,
        "micro_batch": state.micro_batch,
        "batch": config.training.batch,
        "checkpoint_ticks": state.checkpoint_ticks,
        "longest_tokens": longest,
        "longest_ticks": config.stages[0].ticks if lag is None else math.ceil(longest / config.text.tokens_per_slot) + lag,
        "record": record.as_json(),
        "remembered": None if remembered is None else os.fspath(remembered),
    }


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        print(json.dumps(measure(from_toml(sys.stdin.read(), "profile"), int(sys.argv[1])), allow_nan=False))
    except Stop as stop:
        print(f"lattice-tui: {stop}", file=sys.stderr)
        sys.exit(int(stop.code))
