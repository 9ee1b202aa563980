"""Everything that happened besides training steps, with the commands of all operators."""

from __future__ import annotations

from rich.text import Text

from app import formats
from app.tui.snapshot import LogLine, View
from app.tui.widgets.panel import Panel

SIGNS = {"note": " ", "good": "+", "command": ">", "warning": "!", "error": "X"}
STYLES = {"note": "", "good": "green", "command": "bold cyan", "warning": "yellow", "error": "bold red"}


class LogPanel(Panel):
    heading = "Log"
    sticks_to_end = True
    indent = 18

    def note(self) -> str:
        skipped = self.view.skipped if self.view else 0
        return f"{formats.count(skipped)} lines could not be read" if skipped else ""

    def lines(self, view: View, width: int) -> list[Text]:
        if not view.snapshot.log:
            return [Text("no events yet")]
        return [log_text(line) for line in view.snapshot.log]


def log_text(line: LogLine) -> Text:
    clock = formats.moment(line.time, "%H:%M:%S")
    return Text.assemble((f"{clock} {line.step:>6} ", "dim"), (f"{SIGNS[line.tone]} {line.text}", STYLES[line.tone]))
