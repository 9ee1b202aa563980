"""Panels for science that no run records yet: they say so, and show no number."""

from __future__ import annotations

import textwrap

from rich.text import Text

from app.tui.snapshot import View
from app.tui.widgets.panel import Panel


class Clusters(Panel):
    heading = "Clusters"

    def lines(self, view: View, width: int) -> list[Text]:
        said = "This version does not record clusters yet. Sizes, silhouette and stability will appear here with their events."
        if view.config is not None and view.snapshot.stage < len(view.config.stages):
            count = view.config.stages[view.snapshot.stage].clustering.clusters
            said += (
                f" This stage is configured with {count} clusters." if count else " This stage is configured without clusters."
            )
        return wrapped(said, width)


class Plasticity(Panel):
    heading = "Plasticity"

    def lines(self, view: View, width: int) -> list[Text]:
        said = (
            "This version does not record plasticity yet: connections learn by gradient. Potentiation, depression, active "
            "cells and fan-in will appear here with their events."
        )
        return wrapped(said, width)


def wrapped(said: str, width: int) -> list[Text]:
    return [Text(part, "dim") for part in textwrap.wrap(said, max(8, width))]
