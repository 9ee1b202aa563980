"""Draws a soak: every meter over the steps of its window, with the slope by which it was judged."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app import formats
from app.exit_codes import ExitCode, Stop
from monitors.leaks import Window

COLOURS = {"leak": "tab:red", "suspicious": "tab:orange", "flat": "tab:blue", "measuring": "0.5"}


def check(out: Path) -> None:
    """Raises Stop if the picture could not be written.  Called before the soak, so that no time is lost."""
    there = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise Stop(ExitCode.USAGE, f"--out {out}: no folder can be written there")


def draw(path: Path, report: Mapping[str, Any], windows: Mapping[str, Window]) -> None:
    """Writes the PNG.  Raises OSError if that fails."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    meters = [meter for meter in report["meters"]]
    rows = max(1, -(-len(meters) // 3))
    figure = Figure(figsize=(13, 1 + 1.9 * rows), layout="constrained")
    axes = figure.subplots(rows, 3, squeeze=False).flat
    for axis, meter in zip(axes, meters, strict=False):
        phase, _, name = meter["name"].partition(": ")
        steps, values, _ = windows[phase].series(name)
        colour = COLOURS[meter["verdict"]]
        axis.plot(steps, values, ".-", color=colour, markersize=3, linewidth=0.7)
        if steps and meter["verdict"] != "measuring":
            middle_x, middle_y = sorted(steps)[len(steps) // 2], sorted(values)[len(values) // 2]
            line = [middle_y + meter["slope"] * (step - middle_x) for step in (steps[0], steps[-1])]
            axis.plot((steps[0], steps[-1]), line, color="0.3", linewidth=1, linestyle="--")
        if meter["unit"] == "bytes":
            axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: formats.bytes_(value)))
        axis.set_title(f"{meter['name']}: {meter['verdict']}", fontsize=9, color=colour)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.25)
    for axis in list(figure.axes)[len(meters) :]:
        axis.set_axis_off()
    title = f"{report['preset']}{' --chaos' if report['chaos'] else ''}, {formats.duration(report['duration_s'])}"
    figure.suptitle(
        f"{title}: {report['verdict'].upper()}  (readings over optimizer steps; dashed: Theil-Sen slope)", fontsize=11
    )
    figure.savefig(path, format="png", dpi=110)
