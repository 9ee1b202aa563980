"""`bench all`: every measurement of this machine in one run.

The results are printed as tables or as JSON.  The cost of a cell over the size of the lattice can be drawn as a picture.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from app import configure, formats
from app.bench.tables import table
from app.exit_codes import ExitCode, Stop
from app.pictures import check_plot, save_plot
from app.run_process.prepare import free_bytes, prepare
from lattice.bench.comparators import compare
from lattice.bench.growth_curve import GROWTH, bench_growth
from lattice.bench.plasticity_cost import SHAPES, bench_update
from lattice.bench.timings import TICK_KERNELS, Row, bench_step, bench_tick
from monitors.machine import machine
from presets.schema import RunConfig

TICK_SHAPE = (64, 64, 32)
"""Cells of the tick that every implementation runs."""


def run(preset: str, assignments: list[str], repeats: int, memory: float, plot: Path | None, as_json: bool) -> None:
    """Measures all parts, prints them, and draws the picture `plot`.

    The growing lattice may take `memory` GB.  Raises Stop if the preset has no lattice or the picture can't be written.
    """
    check_plot(plot)
    config = configure.load(preset, None, assignments).config
    if config.lattice.arm != "lattice":
        raise Stop(ExitCode.USAGE, f"lattice.arm: the {config.lattice.arm} arm has no tick; set lattice.arm=lattice")
    prepare(config)
    parts: dict[str, list[Row]] = {}
    remarks: list[str] = []
    limit = min(memory * 1e9, free_bytes(torch.device("cpu")))
    parts["growth"], missing = bench_growth(repeats, limit, _tell, GROWTH)
    remarks += missing
    _tell(f"tick: {formats.shape(TICK_SHAPE)}, every implementation")
    parts["tick"], missing = bench_tick(TICK_SHAPE, 1, repeats, TICK_KERNELS)
    remarks += missing
    parts["step"], share = _steps(config, repeats)
    _tell("plasticity")
    parts["plasticity"] = [row for shape in SHAPES for row in bench_update(shape, repeats, config.plasticity)]
    parts["others"], missing = compare(repeats, config.plasticity, _tell)
    remarks += missing
    if plot is not None and parts["growth"]:
        draw(plot, parts["growth"])
    _show(parts, share, remarks, preset, config.decode.every, as_json)


def _steps(config: RunConfig, repeats: int) -> tuple[list[Row], float | None]:
    """Rows of steps and looks, with one thread and with all; and the share of the time that looks take with all threads."""
    rows, share, threads = [], None, torch.get_num_threads()
    try:
        for count in sorted({1, threads}):
            _tell(f"steps and decode looks, threads: {count}")
            torch.set_num_threads(count)
            found, share = bench_step(config, repeats, looks=True)
            rows += found
    finally:
        torch.set_num_threads(threads)
    return rows, share


def _show(parts: dict[str, list[Row]], share: float | None, remarks: list[str], preset: str, every: int, as_json: bool) -> None:
    rates = {row.threads: row.copy_gbps for rows in parts.values() for row in rows}
    if as_json:
        told: dict[str, Any] = {"machine": machine(), "copy_gbps": rates[max(rates)], "decode_share": share, "remarks": remarks}
        told["rows"] = [{"part": part, **dataclasses.asdict(row)} for part, rows in parts.items() for row in rows]
        print(json.dumps(told))
        return
    console = Console(highlight=False, emoji=False)
    copies = ", ".join(f"{rate:.1f} GB/s with {count}" for count, rate in sorted(rates.items()))
    console.print(f"{machine()}; plain copy, read + written, by threads: {copies}", markup=False)
    for part, rows in parts.items():
        if rows:
            console.print(f"\n{part}", markup=False)
            console.print(table(rows, shapes=True))
    console.print(f"\nlooks every {every} steps take {share:.1%} of the time of {preset}'s steps", markup=False)
    for remark in remarks:
        console.print(remark, markup=False)


def draw(path: Path, rows: list[Row]) -> None:
    """Writes the PNG: nanoseconds per cell over the number of cells.  Raises Stop if that fails."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, kind in zip(axes, ("forward", "forward+backward"), strict=True):
        for label, cells, costs, ratio in _lines(rows, kind):
            (line,) = axis.plot(cells, costs, ".-", label=label)
            if ratio is not None:
                axis.annotate(f"{ratio:.1f}x", (cells[-1], costs[-1]), (4, 0), textcoords="offset points", fontsize=7,
                              color=line.get_color())  # fmt: skip
        axis.set_xscale("log")
        axis.margins(x=0.1)  # room for what stands at the lines' ends
        axis.set_ylim(bottom=0)
        axis.set_title(f"{kind}, fp32, batch 1", fontsize=10)
        axis.set_xlabel("cells")
        axis.set_ylabel("ns a cell")
        axis.grid(alpha=0.25)
        axis.legend(fontsize=8)
    figure.suptitle("The C tick as the lattice grows (at the line's end: times the copy floor)", fontsize=11)
    save_plot(figure, path, dpi=110)


def _lines(rows: list[Row], kind: str) -> Iterator[tuple[str, list[int], list[float], float | None]]:
    """(label, cells, ns per cell, times the floor at the last point) of each variant and number of threads."""
    names = [name for name in dict.fromkeys(row.name for row in rows) if name.split()[0] == kind and "held" not in name]
    for name in names:
        for threads in sorted({row.threads for row in rows}):
            found = [row for row in rows if (row.name, row.threads) == (name, threads)]
            cells = [x * y * z for x, y, z in (row.shape for row in found)]
            variant = "sparse" if "sparse" in name else "dense"
            label = f"{variant}, {threads} thread{'s' if threads > 1 else ''}"
            yield label, cells, [row.ns_per_cell for row in found], found[-1].floor_ratio


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
