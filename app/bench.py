"""`bench`: timings as a table or as JSON (DESIGN keys: machine, copy_gbps, rows)."""

from __future__ import annotations

import dataclasses
import json

import torch
from rich.console import Console
from rich.table import Table

from app import configure, formats
from app.exit_codes import ExitCode, Stop
from app.prepare import free_bytes, prepare
from lattice.bench import Row, bench_step, bench_tick, tick_bytes
from monitors.machine import machine


def tick(shape: str, batch: int, repeats: int, as_json: bool) -> None:
    """Times one tick.  Raises Stop for a shape that is none."""
    try:
        x, y, z = (int(size) for size in shape.split(","))
        if min(x, y, z) < 1:
            raise ValueError
    except ValueError:
        raise Stop(ExitCode.USAGE, f"--shape: {shape!r} is not three sizes like 64,64,32") from None
    needed, free = tick_bytes((x, y, z), batch), free_bytes(torch.device("cpu"))
    if needed > free:
        raise Stop(ExitCode.NO_DEVICE, f"a tick of this size takes {needed / 1e9:,.1f} GB, and {free / 1e9:.1f} GB are free")
    rows, remarks = bench_tick((x, y, z), batch, repeats)
    _show(rows, {"remarks": remarks}, as_json)
    if not as_json:
        for remark in remarks:
            print(remark)


def step(preset: str, assignments: list[str], repeats: int, as_json: bool) -> None:
    """Times training steps of a preset.  Raises Stop."""
    config = configure.load(preset, None, assignments).config
    prepare(config)
    rows, shares = bench_step(config, repeats)
    _show(rows, {"decode_share": shares["decode"]}, as_json)
    if not as_json:
        print(f"the decode monitor every {config.decode.every} steps takes {shares['decode']:.1%} of the steps' time")


def _show(rows: list[Row], more: dict[str, object], as_json: bool) -> None:
    rate = max(rows, key=lambda row: row.threads).copy_gbps
    if as_json:
        described = {"machine": machine(), "copy_gbps": rate}
        print(json.dumps(described | more | {"rows": [dataclasses.asdict(row) for row in rows]}))
        return
    columns = ("what", "threads", "ms", "ns/cell", "speed-up", "x floor")
    table = Table(*columns, box=None, pad_edge=False)
    table.columns[0].no_wrap = True
    for row in rows:
        ratios = ("-" if value is None else f"{value:.2f}" for value in (row.speedup, row.floor_ratio))
        table.add_row(row.name, str(row.threads), f"{1000 * row.median:.2f}", f"{row.ns_per_cell:.1f}", *ratios)
    console = Console(highlight=False)
    console.print(f"{machine()}; plain copy {rate:.1f} GB/s read + written", markup=False)
    batches = " and ".join(dict.fromkeys(str(row.batch) for row in rows))
    console.print(f"{formats.shape(rows[0].shape)} cells, batch {batches}; medians of calls taken in turns", markup=False)
    console.print(table)
