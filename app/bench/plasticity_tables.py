"""`bench plasticity`: what plasticity costs and how much of its work can be left out, as tables or as JSON."""

from __future__ import annotations

import dataclasses
import json

from rich.console import Console
from rich.table import Table

from app import configure, formats
from app.exit_codes import ExitCode, Stop
from app.run_process.prepare import prepare
from lattice.bench.plasticity_cost import SHAPES, Avoided, ConnectionRow, TrainedLattice, bench_update, sweep
from monitors.machine import machine


def plasticity(preset: str, assignments: list[str], steps: int, repeats: int, as_json: bool) -> None:
    """Times the rule of the config, and measures for all rules how much work can be left out.

    Raises Stop if the preset has no lattice.
    """
    config = configure.load(preset, None, assignments).config
    if config.lattice.arm != "lattice":
        raise Stop(ExitCode.USAGE, f"lattice.arm: the {config.lattice.arm} arm has no connections; set lattice.arm=lattice")
    prepare(config)
    rows = [row for shape in SHAPES for row in bench_update(shape, repeats, config.plasticity)]
    trained = TrainedLattice(config, steps)
    avoided = sweep(trained)  # before the timed steps, half of which change the lattice by plasticity
    share = trained.share(repeats)
    if as_json:
        told = {"machine": machine(), "copy_gbps": rows[-1].copy_gbps, "step_share": share, "trained_steps": steps}
        print(
            json.dumps(told | {"rows": list(map(dataclasses.asdict, rows)), "avoided": list(map(dataclasses.asdict, avoided))})
        )
        return
    console = Console(highlight=False, emoji=False)
    console.print(f"{machine()}; plain copy {rows[-1].copy_gbps:.1f} GB/s read + written", markup=False)
    console.print(_timings(rows))
    console.print(f"\nplasticity takes {share:.1%} of a training step of {preset}", markup=False)
    console.print(f"\nwork left out, after {steps} steps of {preset}:", markup=False)
    console.print(_avoided(avoided))


def _timings(rows: list[ConnectionRow]) -> Table:
    table = Table("update", "cells", "threads", "ms", "ns/connection", "speed-up", "x floor", box=None, pad_edge=False)
    for row in rows:
        ratios = (f"{row.ns_per_connection:.2f}", f"{row.speedup:.2f}", f"{row.floor_ratio:.1f}")
        table.add_row(row.name, formats.shape(row.shape), str(row.threads), f"{1000 * row.median:.2f}", *ratios)
    return table


def _avoided(avoided: list[Avoided]) -> Table:
    table = Table("rule", "threshold", "quiet", "active", "skipped", "cosine", box=None, pad_edge=False)
    for line in avoided:
        shares = (f"{line.active_share:.1%}", f"{line.skipped_share:.1%}", f"{line.cosine:.4f}")
        table.add_row(line.rule, f"{line.activity_threshold:g}", f"{line.quiet:g}", *shares)
    return table
