"""The functional clusters: their number, sizes and quality; and a cut through the lattice as it is now."""

from __future__ import annotations

from rich.text import Text
from textual.reactive import reactive

from app import formats
from app.tui import slices
from app.tui.environment import has_few_colours
from app.tui.snapshot import View
from app.tui.widgets.panel import Panel, prose, spark, wrapped
from monitors.events import Clustered
from monitors.text_safety import printable
from monitors.volumes import Volume
from presets.schema import RunConfig

AXES = "xyz"
LABEL = 12
LEAST_ROWS = 6
"""Least rows of the cut.  A panel with less room scrolls."""


class ClustersPanel(Panel):
    heading = "Clusters"
    indent = LABEL

    axis: reactive[int] = reactive(1, repaint=False)
    """The axis that is cut across, y at first.  Then a wave from the input to the output goes from left to right."""

    depth: reactive[float] = reactive(0.5, repaint=False)
    """Where the axis is cut, as a share 0..1, so that the cut stays in place when the lattice grows."""

    by_cluster: reactive[bool] = reactive(False, repaint=False)

    def watch_axis(self) -> None:
        self.remake()

    def watch_depth(self) -> None:
        self.remake()

    def watch_by_cluster(self) -> None:
        self.remake()

    def turn(self) -> None:
        """Cuts across the next axis."""
        self.axis = (self.axis + 1) % len(AXES)

    def move(self, by: int) -> None:
        """Cuts this many layers further along the axis."""
        volume = self.view.volume if self.view is not None else None
        if isinstance(volume, Volume) and (last := volume.shape[self.axis] - 1) > 0:
            self.depth = min(max(round(self.depth * last) + by, 0), last) / last

    def lines(self, view: View, width: int) -> list[Text]:
        latest = view.snapshot.clustering.latest
        made = self._formed(latest, view, width) if latest else prose(none_formed(view), width)
        used = sum(len(wrapped(line, width, LABEL)) for line in made)
        return made + self._cut(view, width, self.content_size.height - used)

    def _formed(self, event: Clustered, view: View, width: int) -> list[Text]:
        merged = f", {event.merged} merged" if event.merged else ""
        times = view.snapshot.clustering.times
        again = "" if times == 1 else f", {formats.count(times)} times in all"
        when = f"{formats.count(event.count)} formed at step {formats.count(event.step)} in {formats.brief(event.seconds)}"
        rows = [("clusters", f"{when}{merged}{again}")]
        if event.sizes:
            middle = event.sizes[len(event.sizes) // 2]
            ends = f"{formats.count(event.sizes[0])} .. {formats.count(event.sizes[-1])} cells, median {formats.count(middle)}"
            rows.append(("sizes", ends))
            rows.append(("", spark(event.sizes, max(4, width - LABEL), self.plain)))
        rows.append(("silhouette", f"{number(event.silhouette)} (-1..1)"))
        if event.stability is None:
            rows.append(("stability", "- (there was no clustering before this one)"))
        else:
            rows.append(("stability", f"{number(event.stability)} against the one before (0..1)"))
        return [Text.assemble((f"{name:<{LABEL}}", "dim"), said) for name, said in rows]

    def _cut(self, view: View, width: int, room: int) -> list[Text]:
        volume = view.volume
        if not isinstance(volume, Volume):
            return prose(no_cells(view) if volume is None else printable(volume.reason), width)
        name, step = "cluster" if self.by_cluster else "activity", formats.count(volume.step)
        found = volume.named(name)
        if found is None:
            why = "the stage had no clusters" if self.by_cluster else "they were written without it"
            return prose(f"The cells of step {step} can't be coloured by {name}, {why} (key v).", width)
        layer = round(self.depth * (volume.shape[self.axis] - 1))
        scale = "" if found.scale is None else f" 0..{found.scale:.2g}"
        at, last = layer * volume.strides[self.axis], volume.lattice[self.axis] - 1
        head = Text.assemble((f"{'cut':<{LABEL}}", "dim"), f"{AXES[self.axis]}={at} (0..{last}), {name}{scale}")
        rows, columns = (AXES[axis] for axis in range(3) if axis != self.axis)
        ways = f"step {step}: {rows} down, {columns} across" + (", input left, output right" if columns == "z" else "")
        thinned = "" if max(volume.strides) == 1 else f"; every {formats.shape(volume.strides)}th cell"
        foot = prose(ways + thinned, width)
        pixels = volume.cut(name, self.axis, layer)
        return [head, *self._drawn(pixels, width, max(LEAST_ROWS, room - 1 - len(foot))), *foot]

    def _drawn(self, pixels: list[bytes], width: int, rows: int) -> list[Text]:
        if self.plain or self.app.no_color or has_few_colours():
            if self.by_cluster:
                return slices.signs(pixels, width, rows, slices.cluster_sign)
            return slices.signs(pixels, width, rows, lambda byte: slices.activity_sign(byte, self.plain))
        colour = slices.cluster_colour if self.by_cluster else slices.activity_colour
        return slices.blocks(pixels, width, rows, colour)


def none_formed(view: View) -> str:
    """Why there are no numbers of clusters, according to the run's config."""
    config, stage = view.config, view.snapshot.stage
    if config is None or stage >= len(config.stages):
        return "No clustering is recorded."
    if (arm := config.lattice.arm) != "lattice":
        return f"This run has no lattice (lattice.arm = {arm})."
    count = config.stages[stage].clustering.clusters
    if not count:
        return f"Stage {printable(config.stages[stage].name)} has no functional clusters (clustering.clusters = 0)."
    return f"{formats.count(count)} clusters of neighbouring cells, as the stage began; no clustering by activity is recorded."


def no_cells(view: View) -> str:
    """Why there is no cut if no volume has been recorded."""
    config: RunConfig | None = view.config
    if config is not None and config.lattice.arm != "lattice":
        return ""
    if not view.is_live and view.position.event == view.position.total:
        return "This run recorded no cells to cut through."
    every = f", every {formats.count(config.decode.every)} steps" if config else ""
    return f"The lattice can be cut through when its cells are recorded: at each look of the decode monitor{every}."


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
