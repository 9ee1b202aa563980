"""The stages of the run: which are done, how far the current one is, what ends it; and the time and the disk that are left."""

from __future__ import annotations

from rich.text import Text

from app import formats
from app.tui.snapshot import StageMark, View
from app.tui.widgets.panel import Panel, bar
from monitors.gauges import Absent
from presets.stage import Stage

NAME = 12


class StagesPanel(Panel):
    heading = "Stages"
    indent = 12

    def lines(self, view: View, width: int) -> list[Text]:
        snapshot, config = view.snapshot, view.config
        if config is None:
            return [Text("config.toml is not there yet")]
        marks = {mark.index: mark for mark in snapshot.stages}
        made: list[Text] = []
        for index, stage in enumerate(config.stages):
            made += self._stage(index, stage, marks.get(index), view, width)
        made.append(Text(""))
        made += [Text.assemble((f"{name:<12}", "dim"), said) for name, said in self._facts(view)]
        return made

    def _stage(self, index: int, stage: Stage, mark: StageMark | None, view: View, width: int) -> list[Text]:
        here = f"{index} {stage.name}"[:NAME]
        shape = formats.shape(stage.shape)
        if mark is None:
            return [
                Text(f"{'.' if self.plain else '·'} {here:<{NAME}} {shape}, {formats.count(stage.steps)} steps, to come", "dim")
            ]
        if mark.ended_step is not None:
            done = mark.ended_step - mark.started_step
            text = f"{'+' if self.plain else '✓'} {here:<{NAME}} {shape}, {formats.count(done)} steps, ended by {mark.reason}"
            return [Text(text, "green")]
        done = view.snapshot.step - mark.started_step
        line = Text.assemble((f"{'>' if self.plain else '▶'} {here:<{NAME}} ", "bold"))
        count = f" {formats.count(done)}/{formats.count(stage.steps)}"
        line.append(bar(done / stage.steps, max(4, min(30, width - len(line.plain) - len(count))), self.plain), "cyan")
        line.append(count)
        carried = ", weights carried over" if mark.carried else ""
        about = f"  {shape}, {mark.ticks} ticks, {stage.profile}, sparsity {stage.sparsity:.0%}{carried}"
        return [line, Text(about), Text(f"  ends {end_rule(stage)}{', but is held' if view.snapshot.held else ''}")]

    def _facts(self, view: View) -> list[tuple[str, str]]:
        snapshot, config, info = view.snapshot, view.config, view.info
        facts = []
        pace, left = snapshot.pace_s, steps_left(view)
        if pace and left:
            facts.append(("time left", f"{formats.duration(pace * left)} at {1000 * pace:.0f} ms a step"))
        elif snapshot.ended:
            facts.append(("ended", f"{snapshot.ended.state}: {snapshot.ended.reason}"))
        if info and info.elapsed_s and view.position.following:
            facts.append(("trained for", f"{formats.duration(info.elapsed_s)}, {formats.duration(info.cpu_s)} of CPU"))
        facts.append(("checkpoint", self._saved(view)))
        if view.host:
            disk = view.host.disk_free_bytes
            facts.append(("disk left", f"- ({disk.reason})" if isinstance(disk, Absent) else formats.bytes_(disk)))
        assert config is not None
        return facts

    def _saved(self, view: View) -> str:
        saved, config = view.snapshot.saved, view.config
        every = f", every {formats.count(config.checkpoint.every)} steps" if config else ""
        if saved is None:
            return f"none yet{every}"
        best = ", the best" if saved.best else ""
        return f"step {formats.count(saved.step)}, {formats.bytes_(saved.bytes)}{best}{every}"


def end_rule(stage: Stage) -> str:
    """When the stage ends, in words."""
    rules = [f"after {formats.count(stage.steps)} steps"]
    if stage.until_loss is not None:
        rules.append(f"at held-out loss {stage.until_loss:g}")
    if stage.until_plateau is not None:
        rules.append(f"after {stage.until_plateau} looks without a better one")
    return " or ".join(rules)


def steps_left(view: View) -> int | None:
    """The steps left in the current stage and the later ones; None if no stage is running."""
    if view.config is None or view.snapshot.ended or not view.snapshot.stages:
        return None
    mark = view.snapshot.stages[-1]
    if mark.index >= len(view.config.stages):
        return None
    later = sum(stage.steps for stage in view.config.stages[mark.index + 1 :])
    if mark.ended_step is not None:
        return later
    return max(0, view.config.stages[mark.index].steps - (view.snapshot.step - mark.started_step)) + later
