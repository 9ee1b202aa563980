"""`bench tick`, `bench step` and `bench decode`: timings as a table or as JSON with the keys machine, copy_gbps and rows."""

from __future__ import annotations

import dataclasses
import json

import torch
from rich.console import Console
from rich.table import Table

from app import configure, formats
from app.exit_codes import ExitCode, Stop
from app.run_process.prepare import free_bytes, prepare
from lattice.bench.timings import TICK_KERNELS, Row, bench_step, bench_tick, tick_bytes
from monitors.machine import machine


def tick(shape: str, batch: int, repeats: int, kernels: list[str], as_json: bool) -> None:
    """Times one tick.  Raises Stop for a wrong shape, for an unknown kernel, and if there is too little memory."""
    try:
        x, y, z = (int(size) for size in shape.split(","))
        if min(x, y, z) < 1:
            raise ValueError
    except ValueError:
        raise Stop(ExitCode.USAGE, f"--shape: {shape!r} is not three sizes like 64,64,32") from None
    unknown = [name for name in kernels if name not in TICK_KERNELS]
    if unknown:
        raise Stop(ExitCode.USAGE, f"--kernel: {unknown[0]!r} is not one of {', '.join(TICK_KERNELS)}")
    implementations = tuple(kernels) or TICK_KERNELS
    needed, free = tick_bytes((x, y, z), batch, implementations), free_bytes(torch.device("cpu"))
    if needed > free:
        raise Stop(ExitCode.NO_DEVICE, f"a tick of this size takes {needed / 1e9:,.1f} GB, and {free / 1e9:.1f} GB are free")
    rows, remarks = bench_tick((x, y, z), batch, repeats, implementations)
    show(rows, {"remarks": remarks}, as_json)
    if not as_json:
        for remark in remarks:
            print(remark)


def step(preset: str, assignments: list[str], repeats: int, as_json: bool) -> None:
    """Times training steps of a preset.  Raises Stop."""
    config = configure.load(preset, None, assignments).config
    prepare(config)
    rows, _ = bench_step(config, repeats)
    show(rows, {}, as_json)


def decode(preset: str, assignments: list[str], repeats: int, as_json: bool) -> None:
    """Times looks of the decode monitor and training steps in turns.  Raises Stop."""
    config = configure.load(preset, None, assignments).config
    prepare(config)
    rows, share = bench_step(config, repeats, looks=True)
    show(rows, {"decode_share": share}, as_json)
    if not as_json:
        look, step = rows[1].median, rows[0].median
        looks = f"a look at {rows[1].batch} sentences takes as long as {look / step:.1f} steps"
        print(f"{looks}: {share:.1%} of their time every {config.decode.every}")


def show(rows: list[Row], more: dict[str, object], as_json: bool) -> None:
    rate = max(rows, key=lambda row: row.threads).copy_gbps
    if as_json:
        described = {"machine": machine(), "copy_gbps": rate}
        print(json.dumps(described | more | {"rows": [dataclasses.asdict(row) for row in rows]}))
        return
    console = Console(highlight=False, emoji=False)
    console.print(f"{machine()}; plain copy {rate:.1f} GB/s read + written", markup=False)
    batches = " and ".join(dict.fromkeys(str(row.batch) for row in rows))
    console.print(f"{formats.shape(rows[0].shape)} cells, batch {batches}; medians of calls taken in turns", markup=False)
    console.print(table(rows))


def table(rows: list[Row], shapes: bool = False) -> Table:
    """The rows as a table.  With `shapes` it has columns for shape and batch, for rows in which these differ."""
    columns = ("what", *(("cells", "batch") if shapes else ()), "threads", "ms", "ns/cell", "speed-up", "x floor")
    found = Table(*columns, box=None, pad_edge=False)
    found.columns[0].no_wrap = True
    for row in rows:
        ratios = ("-" if value is None else f"{value:.2f}" for value in (row.speedup, row.floor_ratio))
        where = (formats.shape(row.shape), str(row.batch)) if shapes else ()
        found.add_row(row.name, *where, str(row.threads), f"{1000 * row.median:.2f}", f"{row.ns_per_cell:.1f}", *ratios)
    return found
