"""The memory that the run takes, as the run and the machine measure it, beside the plan with its parts."""

from __future__ import annotations

from rich.text import Text

from app import formats
from app.tui.snapshot import Host, View
from app.tui.widgets.panel import Panel, bar
from monitors.events import LeaksJudged, MemorySampled
from monitors.gauges import Absent, Gpu, same_gpu
from monitors.text_safety import printable
from presets.plan import StagePlan

COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "red", "bright_cyan", "bright_green", "bright_yellow")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
"""Each component has a letter, which stands in the bar and in the legend.  Colour is an addition."""

LABEL = 13


class MemoryPanel(Panel):
    heading = "Memory"
    indent = LABEL

    def lines(self, view: View, width: int) -> list[Text]:
        made = [row(name, said, style) for name, said, style in measured(view)]
        stage = view.snapshot.stages[-1] if view.snapshot.stages else None
        if stage is not None and stage.learned_bytes is not None:
            stages = f"{formats.count(stage.learned_from)} measured stages"
            made.append(row("learned", f"{formats.bytes_(stage.learned_bytes)} by {stages} of its machine"))
        index = stage.index if stage is not None else 0
        if index < len(view.plans):
            made += planned(view.plans[index], peak(view), width, self.plain)
        return made


def row(name: str, said: str, style: str = "") -> Text:
    return Text.assemble((f"{name:<{LABEL}}", "dim"), (said, style))


def measured(view: View) -> list[tuple[str, str, str]]:
    """Rows of name, reading and style: first of the run's process, then of this machine and its GPUs."""
    host, memory = view.host, view.snapshot.memory
    rows: list[tuple[str, str, str]] = []
    if host is not None:
        rows.append(("engine RSS", resident(host.rss_bytes, memory), ""))
    rows.append(("torch", torch_counts(view), ""))
    if view.snapshot.leaks is not None:
        rows.append(("leaks", *leaking(view.snapshot.leaks)))
    if host is not None:
        rows.append(("this machine", machine(host), ""))
        rows += gpus(host, memory.device_uuid if memory else "")
    return rows


def resident(now: int | Absent, memory: MemorySampled | None) -> str:
    """The resident bytes of the process now.  If they can't be read here, those that the run logged last."""
    if not isinstance(now, Absent):
        return formats.bytes_(now)
    if memory is None or memory.rss_bytes is None:
        return f"- ({now.reason})"
    return f"{formats.bytes_(memory.rss_bytes)} at step {formats.count(memory.step)} ({now.reason})"


def torch_counts(view: View) -> str:
    memory = view.snapshot.memory
    if memory is None:
        return "- (told at the run's first step)" if view.is_live else "- (this run recorded none)"
    if memory.allocated_bytes is None or memory.reserved_bytes is None:
        return f"- (it counts GPU memory, the run is on {printable(memory.device)})"
    allocated, reserved = formats.bytes_(memory.allocated_bytes), formats.bytes_(memory.reserved_bytes)
    return f"{allocated} allocated of {reserved} reserved on {printable(memory.device)}"


def leaking(told: LeaksJudged) -> tuple[str, str]:
    """The verdict of the leak detector so far with the meters that it suspects, and a style."""
    found = [meter for meter in told.meters if meter.verdict == told.verdict]
    samples = f"{formats.count(told.samples)} samples"
    if told.verdict == "measuring":
        return f"measuring, {samples} so far", ""
    if told.verdict == "flat":
        return f"none: {len(told.meters)} meters flat over {samples}", ""
    named = "; ".join(f"{meter.name} {meter.suspect}".strip() for meter in found)
    word, style = ("LEAK", "bold red") if told.verdict == "leak" else ("suspicious", "yellow")
    return f"{word}: {printable(named)}", style


def machine(host: Host) -> str:
    if isinstance(host.available_bytes, Absent) or isinstance(host.total_bytes, Absent):
        return "- (its memory can't be read)"
    return f"{formats.bytes_(host.available_bytes)} free of {formats.bytes_(host.total_bytes)}"


def gpus(host: Host, own: str) -> list[tuple[str, str, str]]:
    """Two rows for each GPU, which count all processes, with a mark at the run's own; or the reason why there are none."""
    if isinstance(host.gpus, Absent):
        return [("VRAM", f"- ({printable(host.gpus.reason)})", "")]
    rows = []
    is_here = False
    for gpu in host.gpus:
        is_own = not isinstance(gpu.uuid, Absent) and same_gpu(gpu.uuid, own)
        is_here |= is_own
        mark = "this run's, " if is_own else ""
        rows.append((f"GPU {gpu.index}", f"{mark}{vram(gpu)} ({printable(gpu.name)})", "bold" if is_own else ""))
        rows.append(("", sensors(gpu), ""))
    if own and not is_here:
        rows.append(("run's GPU", f"none of these: {printable(own)} (another machine's, or a MIG instance)", ""))
    return rows


def vram(gpu: Gpu) -> str:
    if isinstance(gpu.memory, Absent):
        return f"memory - ({printable(gpu.memory.reason)})"
    return f"{formats.bytes_(gpu.memory.used_bytes)} of {formats.bytes_(gpu.memory.total_bytes)}"


def sensors(gpu: Gpu) -> str:
    """Utilisation, power and temperature.  Absent readings stand together, with each reason once."""
    limit = "" if isinstance(gpu.power_limit_w, Absent) else f" of {gpu.power_limit_w:.0f}"
    readings = (
        ("busy", gpu.busy, "{:.0%} busy"),
        ("power", gpu.power_w, "{:.0f}" + limit + " W"),
        ("temperature", gpu.temperature_c, "{:.0f} C"),
    )
    said = [form.format(value) for _, value, form in readings if not isinstance(value, Absent)]
    missing: dict[str, list[str]] = {}
    for name, value, _ in readings:
        if isinstance(value, Absent):
            missing.setdefault(value.reason, []).append(name)
    said += [f"{', '.join(names)} - ({printable(reason)})" for reason, names in missing.items()]
    return ", ".join(said)


def peak(view: View) -> int | None:
    """The most bytes so far.  On a GPU they are those of tensors, as in the plan; elsewhere those of the whole process."""
    if view.snapshot.memory is not None and view.snapshot.memory.peak_bytes:
        return view.snapshot.memory.peak_bytes
    return view.info.peak_bytes or None if view.info is not None else None


def planned(plan: StagePlan, peak_bytes: int | None, width: int, plain: bool) -> list[Text]:
    """The plan of the stage: a bar of letters against the budget, under it the measured peak, and what the letters mean."""
    share = plan.total_bytes / plan.budget_bytes
    fits = f"{share:.0%} of the budget" if plan.fits else "MORE THAN THE BUDGET"
    total = f"{formats.bytes_(plan.total_bytes)} of {formats.bytes_(plan.budget_bytes)}, {fits}"
    parts = sorted(((size, name) for name, size in plan.components.items() if size), reverse=True)
    sizes = [size for size, _ in parts]
    made = [row("plan", total, "" if plan.fits else "bold red")]
    made.append(stacked(sizes, max(plan.budget_bytes, plan.total_bytes), width))
    if peak_bytes is None:
        made.append(row("peak", "- (not measured yet)"))
    else:
        made.append(row("peak", f"{formats.bytes_(peak_bytes)} measured, {peak_bytes / plan.total_bytes:.0%} of the plan"))
        whole = max(plan.total_bytes, peak_bytes)
        made.append(stacked(sizes, whole, width))
        filled = bar(peak_bytes / whole, max(4, width - 2), plain)
        made.append(Text.assemble("[", (filled, "bold red" if peak_bytes > plan.total_bytes else ""), "]"))
    for i, (size, name) in enumerate(parts):
        sign = Text(f"{LETTERS[i]} ", COLOURS[i % len(COLOURS)])
        made.append(sign.append(f"{name.replace('_', ' '):<17}{formats.bytes_(size):>8}", "default"))
    return _in_columns(made[: -len(parts)], made[-len(parts) :], width)


def stacked(sizes: list[int], whole: int, width: int) -> Text:
    """A bar of `width` characters for `whole` bytes.  Parts are drawn as their letters, the rest as dots."""
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
