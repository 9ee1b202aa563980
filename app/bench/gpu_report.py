"""Compares what `bench gpu` found with its bars, and tells it in Markdown.  A bar is a limit that a value should keep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app import formats
from app.exit_codes import ExitCode, Stop

BEGIN, END = "<!-- bench gpu: begin -->", "<!-- bench gpu: end -->"
"""The summary is written between these two lines of a file."""

LARGE_FORWARD_S, LARGE_STEP_S, DECODE_SHARE = 0.1, 0.5, 0.02
"""Bars of the preset `large`: seconds of a forward pass and of a step, each of one micro-batch, and the decode monitor's share
of training time."""

PRESET_BYTES = {"medium": 12e9, "baseline": 2e9}
"""Bars of other presets: bytes that torch's allocator reserves."""


def bars(report: dict[str, Any], cap_gb: float) -> list[dict[str, Any]]:
    """Every bar whose value the report has, with its name, the value, the limit, and whether it is met."""
    found: list[tuple[str, float | None, float]] = []
    presets, memory = report.get("presets", {}), report.get("memory", {})
    if large := presets.get("large"):
        own = None if large["driver_used"] is None else large["driver_used"] - (memory.get("others_bytes") or 0)
        found += [
            ("large: bytes all told, as the driver counts them", own, cap_gb * 1e9),
            ("large: seconds of a forward of one micro-batch", large["forward_s"]["median"], LARGE_FORWARD_S),
            ("large: seconds of a step of one micro-batch", large["micro_step_s"]["median"], LARGE_STEP_S),
            ("large: decode monitor's share of training time", large["decode_share"], DECODE_SHARE),
        ]
    found += [
        (f"{name}: bytes reserved by torch", presets[name]["reserved"], limit)
        for name, limit in PRESET_BYTES.items()
        if name in presets
    ]
    if progressive := report.get("progressive"):
        found.append(("progressive: bytes reserved by torch", progressive["reserved"], cap_gb * 1e9))
    return [
        {"name": name, "value": value, "limit": limit, "met": value <= limit}
        for name, value, limit in found
        if value is not None
    ]


def summary(report: dict[str, Any]) -> str:
    """The report in Markdown, in the sections of docs/performance.md."""
    device, parts = report["device"], []
    gpu = f"{device['gpu']}, compute capability {device['capability']}, " if "gpu" in device else ""
    parts.append(f"{gpu}{report['machine']}, triton {device['triton'] or 'not installed'}.")
    if report["quick"]:
        parts.append("A quick pass over the smallest preset: it shows that the bench works, and measures nothing.")
    if copy := report.get("copy_gbps"):
        parts.append(f"Plain copy: {copy:,.0f} GB/s read + written.")
    if report.get("bars"):
        rows = [(bar["name"], _value(bar), _value(bar, "limit"), "yes" if bar["met"] else "no") for bar in report["bars"]]
        parts.append(_table(("bar", "measured", "limit", "met"), rows))
    if checks := report.get("kernels"):
        passed = sum(check["passed"] for check in checks)
        worst = max((check["error"] / check["tolerance"] for check in checks if check["error"] is not None), default=None)
        used = "" if worst is None else f"; the worst uses {worst:.0%} of what its dtype is allowed"
        parts.append(f"Kernels against the reference: {passed} of {len(checks)} checks passed{used}.")
    if report.get("rows"):
        parts.append(
            _table(("tick", "cells, batch", "ms", "ns a cell", "share of copy"), [_tick(row) for row in report["rows"]])
        )
    for preset in report.get("presets", {}).values():
        parts.append(_preset(preset))
    if progressive := report.get("progressive"):
        parts.append(_progressive(progressive))
    if leak := report.get("leak"):
        told = f"{leak['verdict']}, {leak['steps']:,} steps and {leak['samples']} samples in {leak['seconds']:.0f} s"
        parts.append(f"Leak watch: {told}.")
    if report["failures"]:
        parts.append("Failed:\n\n" + "\n".join(f"- {failure}" for failure in report["failures"]))
    return "\n\n".join(parts) + "\n"


def write_summary(report: dict[str, Any], path: Path) -> None:
    """Puts the summary between the lines BEGIN and END of the file.  Raises Stop if the file has no such lines."""
    try:
        text = path.read_text(encoding="utf-8")
        before, begun, rest = text.partition(BEGIN)
        _, ended, after = rest.partition(END)
        if not begun or not ended:
            raise Stop(ExitCode.USAGE, f"--summary: {path} has no lines {BEGIN!r} and {END!r} to write between")
        path.write_text(f"{before}{BEGIN}\n\n{summary(report)}\n{END}{after}", encoding="utf-8")
    except OSError as error:
        raise Stop(ExitCode.FAILED, f"--summary: {path} can't be written: {error.strerror or error}") from error


def _value(bar: dict[str, Any], key: str = "value") -> str:
    if "bytes" in bar["name"]:
        return formats.bytes_(bar[key])
    return f"{bar[key]:.1%}" if "share" in bar["name"] else f"{bar[key]:.3f} s"


def _tick(row: dict[str, Any]) -> tuple[str, ...]:
    where = f"{formats.shape(row['shape'])}, {row['batch']}"
    return row["name"], where, f"{1000 * row['median']:.3f}", f"{row['ns_per_cell']:.2f}", f"{row['share']:.0%}"


def _preset(preset: dict[str, Any]) -> str:
    planned, measured = preset["plan"]["components"], preset["measured"]
    rows = []
    for name, size in planned.items():
        if name in measured:
            rows.append((name.replace("_", " "), formats.bytes_(size), formats.bytes_(measured[name])))
    working = planned["states"] + planned["temporaries"]
    known = measured["working"] is not None
    rows.append(("states and temporaries", formats.bytes_(working), formats.bytes_(measured["working"]) if known else "-"))
    counted = preset["plan"]["total_bytes"] - planned["runtime"]
    peak = preset["peak_allocated"]
    rows.append(("all of torch's", formats.bytes_(counted), "-" if peak is None else formats.bytes_(peak)))
    at = f"micro-batch {preset['micro_batch']} of {preset['plan']['micro_batch'] * preset['plan']['accumulation']}"
    times = (
        f"forward {preset['forward_s']['median']:.4f} s, step of a micro-batch {preset['micro_step_s']['median']:.4f} s, "
        f"whole step {preset['step_s']['median']:.4f} s, first step with compilation {preset['first_step_s']:.1f} s, decoding "
        f"{preset['decode_share']:.1%} of the time"
    )
    losses = f"Loss {preset['losses'][0]:.3f} to {preset['losses'][-1]:.3f} over {len(preset['losses'])} steps."
    told = "".join(f" {warning}." for warning in preset["warnings"])
    title = f"**{preset['preset']}**, {formats.shape(preset['shape'])}, {at}; {preset['kernel']}"
    return f"{title}: {times}. {losses}{told}\n\n{_table(('memory', 'plan', 'measured'), rows)}"


def _progressive(found: dict[str, Any]) -> str:
    rows = [
        (
            stage["name"], formats.shape(stage["shape"]), str(stage["steps"]), str(stage["micro_batch"]),
            f"{stage['first_loss']:.3f} to {stage['last_loss']:.3f}",
        )
        for stage in found["stages"]
    ]  # fmt: skip
    reserved = "" if found["reserved"] is None else f", {formats.bytes_(found['reserved'])} reserved at most"
    title = f"**progressive**, shortened: {found['end']} after {found['seconds']:.0f} s{reserved}."
    return f"{title}\n\n{_table(('stage', 'cells', 'steps', 'micro-batch', 'loss'), rows)}"


def _table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [columns, tuple("---" for _ in columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
