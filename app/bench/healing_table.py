"""`bench heal`: what healing takes in seconds and in memory, as a table or as JSON."""

from __future__ import annotations

import dataclasses
import json

from rich.console import Console
from rich.table import Table

from app import configure, formats
from app.exit_codes import ExitCode, Stop
from app.run_process.prepare import prepare
from lattice.bench.healing_cost import bench_healing
from monitors.machine import machine
from presets import wound as wounds


def run(preset: str, assignments: list[str], wound: str, as_json: bool) -> None:
    """Measures healing.  Raises Stop if the preset has no lattice, or if the wound is none or does not fit it."""
    config = configure.load(preset, None, [*assignments, "run.device=cpu"]).config
    if config.lattice.arm != "lattice":
        raise Stop(ExitCode.USAGE, f"lattice.arm: the {config.lattice.arm} arm has no connections; set lattice.arm=lattice")
    prepare(config)
    try:
        cost = bench_healing(config, wounds.parse(wound))
    except ValueError as error:
        raise Stop(ExitCode.USAGE, f"--wound: {error}") from error
    if as_json:
        print(json.dumps({"machine": machine()} | dataclasses.asdict(cost)))
        return
    console = Console(highlight=False, emoji=False)
    size = f"{formats.count(cost.connections)} connections of {cost.weights_bytes / 1e6:,.1f} MB"
    console.print(machine(), markup=False)
    console.print(f"{formats.shape(cost.shape)} cells, {size}; {cost.micro_batch} sentences at once", markup=False)
    console.print(f"wound {cost.wound}: {formats.count(cost.lost)} lost", markup=False)
    table = Table("act", "s", "CPU s", "extra MB", "x weights", box=None, pad_edge=False)
    for one in cost.costs:
        ratio = f"{one.extra_bytes / cost.weights_bytes:.2f}"
        table.add_row(one.act, f"{one.seconds:.3f}", f"{one.cpu_s:.3f}", f"{one.extra_bytes / 1e6:,.1f}", ratio)
    console.print(table)
