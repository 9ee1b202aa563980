"""What plasticity did to the connections: how many grew and shrank, the cells' thresholds, and what was pruned and regrown."""

from __future__ import annotations

from rich.text import Text

from app import formats
from app.tui.snapshot import RewiringSoFar, View
from app.tui.widgets.panel import Panel, bar, prose, spark
from monitors.events import Plastic

LABEL = 12
BAR = 24
"""Most characters of a bar."""


class PlasticityPanel(Panel):
    heading = "Plasticity"
    indent = LABEL

    def lines(self, view: View, width: int) -> list[Text]:
        plastic, rewiring = view.snapshot.plastic, view.snapshot.rewiring
        made = self._changes(plastic, width) if plastic else prose(none_recorded(view), width)
        return made + self._rewired(rewiring, width)

    def _changes(self, event: Plastic, width: int) -> list[Text]:
        total = event.potentiated + event.depressed + event.unchanged
        made = []
        for name, style in (("potentiated", "green"), ("depressed", "red"), ("unchanged", "default")):
            count = getattr(event, name)
            said = f" {formats.count(count)}"
            if total:
                said = f" {count / total:>4.0%}{said}"
            room = max(4, min(BAR, width - LABEL - len(said)))
            filled = bar(count / total if total else 0.0, room, self.plain)
            made.append(Text.assemble((f"{name:<{LABEL}}", "dim"), (filled, style), said))
        low, *_, high = event.theta
        quartiles = " ".join(f"{value:.3g}" for value in event.theta[1:4])
        message = "" if event.message_change is None else f", messages by {event.message_change:.2%}"
        rows = [
            ("active", f"{event.active_share:.0%} of cells, {event.skipped_share:.0%} of work skipped"),
            ("mean |dw|", f"{event.mean_change:.2e}{message}"),
            ("theta", f"{low:.3g} [{quartiles}] {high:.3g} (quartiles)"),
            ("", box(event.theta, max(8, min(2 * BAR, width - LABEL)))),
            ("took", f"{formats.brief(event.seconds)} for {updates(event.updates)} up to step {formats.count(event.step)}"),
        ]
        return made + [row(name, said) for name, said in rows if said]

    def _rewired(self, rewiring: RewiringSoFar, width: int) -> list[Text]:
        event, made = rewiring.latest, []
        if rewiring.pruned or rewiring.regrown:
            made.append(
                row("in all", f"{formats.count(rewiring.pruned)} pruned, {formats.count(rewiring.regrown)} regrown in this run")
            )
        if event is None:
            return made
        told = f"{formats.count(event.pruned)} pruned, {formats.count(event.regrown)} regrown, sparsity {event.sparsity:.0%}"
        when = f"step {formats.count(event.step)} in {formats.brief(event.seconds)}"
        made.insert(0, row("rewired", f"{told}, at {when}"))
        cells = sum(event.fan_in)
        if cells:
            mean = sum(n * count for n, count in enumerate(event.fan_in)) / cells
            least = next(n for n, count in enumerate(event.fan_in) if count)
            most = max(n for n, count in enumerate(event.fan_in) if count)
            made.append(row("fan-in", f"{least} .. {most} connections a cell, mean {mean:.1f}"))
            made.append(row("", spark(event.fan_in[least : most + 1], max(4, width - LABEL), self.plain)))
        return made


def row(name: str, said: str) -> Text:
    return Text.assemble((f"{name:<{LABEL}}", "dim"), said)


def updates(count: int) -> str:
    return f"{formats.count(count)} update{'' if count == 1 else 's'}"


def box(theta: tuple[float, ...], width: int) -> str:
    """Minimum, quartiles and maximum as a box on a line: `|---[==|=====]--|`; empty if all are the same."""
    low, high = theta[0], theta[-1]
    if high <= low:
        return ""
    at = [round((value - low) / (high - low) * (width - 1)) for value in theta]
    signs = ["=" if at[1] < x < at[3] else "-" for x in range(width)]
    for x, sign in zip((at[0], at[4], at[1], at[3], at[2]), "||[]|", strict=True):
        signs[x] = sign
    return "".join(signs)


def none_recorded(view: View) -> str:
    """Why there are no numbers, according to the run's config."""
    config, stage = view.config, view.snapshot.stage
    if config is None or stage >= len(config.stages):
        return "No plasticity is recorded."
    if (arm := config.lattice.arm) != "lattice":
        return f"This run has no lattice, so no connections (lattice.arm = {arm})."
    learning, here = config.connections.learning, config.stages[stage]
    if learning == "frozen":
        said = "Connections stay as they were initialised (connections.learning = frozen)"
    elif here.profile == "freeze":
        said = "Connections stay as they are in this stage (profile freeze)"
    elif learning == "gradient":
        said = "Connections learn by gradient in this run"
    else:
        return f"No plasticity is recorded yet in this stage (connections.learning = {learning})."
    waves = f", after the {here.waves} discovery waves that begin this stage" if here.waves else ""
    return f"{said}{waves}; no plasticity is recorded."
