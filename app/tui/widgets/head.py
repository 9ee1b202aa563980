"""The line on top of a run's screen, which says how the run stands."""

from __future__ import annotations

from rich.text import Text

from app import formats
from app.tui.snapshot import View
from app.tui.states import STATE_STYLES
from app.tui.widgets.stages import steps_left
from monitors.text_safety import printable


def head(view: View, width: int, frozen: bool = False, read_only: bool = False, plain: bool = False) -> Text:
    """How the run stands, in one line.  A short line leaves out what matters less."""
    snapshot, info, position = view.snapshot, view.info, view.position
    dot = {"running": "●", "paused": "‖"}.get(view.state, "○") if not plain else "*"
    name = printable(view.name)
    parts: list[tuple[Text, int]] = [
        (Text.assemble((f"{dot} {view.state}", STATE_STYLES.get(view.state, "bold"))), 0),
        (Text(name, "bold"), 1),
    ]
    flags = ["FROZEN"] * frozen + ["read-only"] * read_only
    if not position.following:
        share = position.event / position.total if position.total else 0.0
        how = f"x{position.speed:g}" if position.playing else "still"
        flags.append(f"REPLAY {share:.0%} {how}")
    parts += [(Text(flag, "reverse"), 0) for flag in flags]
    total = view.config.total_steps if view.config else None
    steps = f"step {formats.count(snapshot.step)}" + (f"/{formats.count(total)}" if total else "")
    parts.append((Text(steps), 0))
    if (loss := snapshot.curves["loss"].last) is not None:
        parts.append((Text(f"loss {formats.loss(loss)}"), 0))
    if snapshot.looks:
        look = snapshot.looks[-1]
        parts.append((Text(formats.judged(look.measure, look.bleu, look.exact), "green"), 0))
    pace, left = snapshot.pace_s, steps_left(view)
    if pace and left and position.following and view.is_live:
        parts.append((Text(f"{formats.duration(pace * left)} left"), 2))
    if view.trouble:
        parts.append((Text(printable(view.trouble), "bold red"), 0))
    elif info is not None and info.reason and not view.is_live and position.following:
        parts.append((Text(printable(info.reason)), 3))
    for least in (3, 2, 1):
        if sum(len(text.plain) + 2 for text, _ in parts) <= width:
            break
        parts = [(text, level) for text, level in parts if level < least]
    line = Text("  ", no_wrap=True, overflow="crop").join(text for text, _ in parts)
    line.truncate(max(1, width), overflow="ellipsis")
    return line
