"""What the run was planned to take, part by part, and what its machine says it takes."""

from __future__ import annotations

from rich.text import Text

from app import formats
from app.tui.snapshot import Host, View
from app.tui.widgets.panel import Panel
from monitors.gauges import Absent
from monitors.text_safety import printable
from presets.plan import StagePlan

COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "red", "bright_cyan", "bright_green", "bright_yellow")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
"""Each component is told by its letter in bar and legend; colour only helps."""

LABEL = 13


class Memory(Panel):
    heading = "Memory"
    indent = LABEL

    def lines(self, view: View, width: int) -> list[Text]:
        made = self._measured(view)
        index = view.snapshot.stages[-1].index if view.snapshot.stages else 0
        if index < len(view.plans):
            made += planned(view.plans[index], width)
        return made

    def _measured(self, view: View) -> list[Text]:
        rows: list[tuple[str, str]] = []
        host, info = view.host, view.info
        if host is not None:
            rss = host.rss_bytes
            rows.append(("engine RSS", f"- ({rss.reason})" if isinstance(rss, Absent) else formats.bytes_(rss)))
        if info is not None and info.peak_bytes:
            rows.append(("peak", formats.bytes_(info.peak_bytes)))
        if host is not None:
            rows.append(("this machine", machine(host)))
            rows += gpus(host)
        return [Text.assemble((f"{name:<{LABEL}}", "dim"), said) for name, said in rows]


def machine(host: Host) -> str:
    if isinstance(host.available_bytes, Absent) or isinstance(host.total_bytes, Absent):
        return "- (its memory can't be read)"
    return f"{formats.bytes_(host.available_bytes)} free of {formats.bytes_(host.total_bytes)}"


def gpus(host: Host) -> list[tuple[str, str]]:
    """A row for each GPU: memory in use by all processes, as the driver counts it; or the reason why there is none."""
    if isinstance(host.gpus, Absent):
        return [("VRAM", f"- ({printable(host.gpus.reason)})")]
    return [
        (f"GPU {gpu.index}", f"{formats.bytes_(gpu.used_bytes)} of {formats.bytes_(gpu.total_bytes)} ({printable(gpu.name)})")
        for gpu in host.gpus
    ]


def planned(plan: StagePlan, width: int) -> list[Text]:
    """The stage's plan: a stacked bar of letters against the budget, and what the letters mean."""
    share = plan.total_bytes / plan.budget_bytes
    fits = f"{share:.0%} of the budget" if plan.fits else "MORE THAN THE BUDGET"
    total = f"{formats.bytes_(plan.total_bytes)} of {formats.bytes_(plan.budget_bytes)}, {fits}"
    head = Text.assemble((f"{'plan':<{LABEL}}", "dim"), (total, "" if plan.fits else "bold red"))
    parts = sorted(((size, name) for name, size in plan.components.items() if size), reverse=True)
    made = [head, stacked([size for size, _ in parts], max(plan.budget_bytes, plan.total_bytes), width)]
    if share < 0.5:
        made.append(stacked([size for size, _ in parts], plan.total_bytes, width))
    for i, (size, name) in enumerate(parts):
        sign = Text(f"{LETTERS[i]} ", COLOURS[i % len(COLOURS)])
        made.append(sign.append(f"{name.replace('_', ' '):<17}{formats.bytes_(size):>8}", "default"))
    return _in_columns(made[: -len(parts)], made[-len(parts) :], width)


def stacked(sizes: list[int], whole: int, width: int) -> Text:
    """A bar of `width` characters for `whole` bytes; parts by their letters, what is left as dots."""
    text, start, done = Text("["), 0, 0
    inner = max(4, width - 2)
    for i, size in enumerate(sizes):
        done += size
        end = round(inner * done / whole)
        text.append(LETTERS[i] * (end - start), COLOURS[i % len(COLOURS)])
        start = end
    return text.append("." * (inner - start), "dim").append("]")


def _in_columns(head: list[Text], items: list[Text], width: int) -> list[Text]:
    column = 30
    if width < 2 * column:
        return head + items
    rows = -(-len(items) // 2)
    made = []
    for row in range(rows):
        line = items[row].copy()
        if rows + row < len(items):
            line.append(" " * max(1, column - len(line.plain))).append_text(items[rows + row])
        made.append(line)
    return head + made
