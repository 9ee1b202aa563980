"""Panels for science that no run records yet: they say so, and show no number."""

from __future__ import annotations

from rich.text import Text

from app.tui.snapshot import View
from app.tui.widgets.panel import Panel


class Clusters(Panel):
    heading = "Clusters"

    def lines(self, view: View, width: int) -> list[Text]:
        made = ["This version does not record clusters yet.", "Sizes, silhouette and stability will appear here with their events."]
        if view.config and (count := view.config.stages[min(view.snapshot.stage, len(view.config.stages) - 1)].clustering.clusters):
            made.append(f"This stage is told to have {count} clusters.")
        return _wrapped(made, width)


class Plasticity(Panel):
    heading = "Plasticity"

    def lines(self, view: View, width: int) -> list[Text]:
        made = ["This version does not record plasticity yet.", "Potentiation, depression and fan-in will appear here with their events."]
        return _wrapped(made, width)


def _wrapped(lines: list[str], width: int) -> list[Text]:
    import textwrap

    return [Text(part, "dim") for line in lines for part in textwrap.wrap(line, max(8, width))]
