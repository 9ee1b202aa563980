"""The screen of one run: its panels, a line with its state, a line for commands and a line of keys.

The reader thread posts a view.  A handler puts it into the screen's reactive attribute, whose watcher hands it to the header
and to the panels that are shown.  Nothing else writes to panels.
"""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Container
from textual.reactive import reactive
from textual.widgets import Static

from app.tui import keys
from app.tui.bridge import POLL_S, Reader
from app.tui.layout import arrange, is_small
from app.tui.messages import SnapshotRead
from app.tui.screens.dialogs import Ask
from app.tui.screens.help import Help
from app.tui.screens.steered import SteeredScreen
from app.tui.snapshot import View
from app.tui.widgets.clusters import ClustersPanel
from app.tui.widgets.curves import SMOOTHING, WINDOWS, CurvesPanel
from app.tui.widgets.decoded import TextPanel
from app.tui.widgets.head import head
from app.tui.widgets.hints import Hints, hint_text, part
from app.tui.widgets.log import LogPanel
from app.tui.widgets.memory import MemoryPanel
from app.tui.widgets.panel import Panel
from app.tui.widgets.plasticity import PlasticityPanel
from app.tui.widgets.stages import StagesPanel
from monitors.runs import RunFolder
from monitors.text_safety import printable

KINDS: tuple[type[Panel], ...] = (CurvesPanel, TextPanel, StagesPanel, MemoryPanel, ClustersPanel, PlasticityPanel, LogPanel)
PANELS = dict(zip(keys.PANELS, KINDS, strict=True))
"""The panels by their names, in the order of their number keys."""
SEEK_SHARE = 50
"""An arrow key moves by one part of this many of the log."""

COMMANDS_SHOWN = 3
SHORT = {"Clusters": "Clust", "Plasticity": "Plast"}
"""Names of panels for narrow terminals."""


class RunScreen(SteeredScreen):
    KEYS = keys.RUN
    BINDINGS: ClassVar[list[BindingType]] = keys.bindings(KEYS)
    AUTO_FOCUS = None

    current: reactive[str] = reactive("Curves", repaint=False)
    zoomed: reactive[bool] = reactive(False, repaint=False)
    frozen: reactive[bool] = reactive(False, repaint=False)

    def __init__(
        self, folder: RunFolder, read_only: bool = False, plain: bool = False, poll_s: float = POLL_S, still: View | None = None
    ) -> None:
        """`still`: a view to show without reading the folder, for pictures."""
        super().__init__(folder, read_only)
        self._folder, self._plain, self._still = folder, plain, still
        self._reader = Reader(folder, self.post_message, poll_s) if still is None else None
        self._held_back: View | None = None  # newest view while frozen
        self._panels = {name: kind(i, id=name.lower()) for i, (name, kind) in enumerate(PANELS.items(), start=1)}

    # Building and ending.

    def compose(self) -> ComposeResult:
        yield Static(id="head")
        with Container(id="panels"):
            for panel in self._panels.values():
                panel.plain = self._plain
                yield panel
        with Container(id="bottom"):
            yield Hints(id="commands")
            yield Hints(id="keys")

    def on_mount(self) -> None:
        self.place_panels()
        self.show_keys()
        if self._reader is not None:
            self.query_one("#head", Static).update(
                Text(f"reading what {printable(self._folder.name)} has logged ..."), layout=False
            )
            self._reader.start()
            self._sender.start()
        else:
            self.call_after_refresh(self._show_still)  # a screen that is still being mounted hands no view to its panels

    def _show_still(self) -> None:
        self.view = self._still

    def on_unmount(self) -> None:
        if self._reader is not None:
            self._reader.close()

    # What arrives.

    @on(SnapshotRead)
    def read(self, message: SnapshotRead) -> None:
        message.stop()
        if self.frozen:
            self._held_back = message.view
            self.show_head(message.view)
        else:
            self.view = message.view
        if self._reader is not None:
            self.call_after_refresh(self._reader.taken)

    @on(Panel.Clicked)
    def clicked(self, message: Panel.Clicked) -> None:
        message.stop()
        self.current = next(name for name, panel in self._panels.items() if panel is message.panel)

    # What is shown.

    def watch_view(self, view: View | None) -> None:
        if view is None or not self.is_mounted:
            return
        with self.app.batch_update():
            for panel in self._panels.values():
                if panel.display:
                    panel.view = view
            self.show_head(view)

    def watch_current(self) -> None:
        if self.is_mounted:
            self.place_panels()
            self.show_keys()

    def watch_zoomed(self) -> None:
        if self.is_mounted:
            self.place_panels()
            self.show_keys()
            self.show_commands()

    def on_resize(self) -> None:
        self.place_panels()
        self.show_keys()
        if self.view is not None:
            self.show_head(self._held_back or self.view)
        self.show_commands()

    def place_panels(self) -> None:
        """Gives each panel its region, or hides it, according to the size of the terminal."""
        width, height = self.size.width, self.size.height - 3
        if width <= 0 or height <= 0:
            return
        alone = self.current if self.zoomed or is_small(width, height) else None
        regions = arrange(width, height, alone)
        if self.current not in regions:  # there is no room for it beside the others
            regions = arrange(width, height, self.current)
        for name, panel in self._panels.items():
            region = regions.get(name)
            panel.set_class(name == self.current and len(regions) > 1, "-current")
            if region is None:
                panel.display = False
                continue
            panel.styles.offset = region.x, region.y
            panel.styles.width, panel.styles.height = region.width, region.height
            if panel.display and panel.has_lines:  # it makes them anew itself when its size has changed
                continue
            panel.display = True
            if self.view is not None:
                panel.view = self.view
                panel.call_after_refresh(panel.remake)

    def show_head(self, view: View) -> None:
        line = head(view, self.size.width, self.frozen, self._read_only, self._plain)
        self.query_one("#head", Static).update(line, layout=False)

    def show_commands(self) -> None:
        """Shows the newest commands and their states.  If there are none, the line may show keys instead."""
        text = Text(" | ", "dim").join([said for _, _, said in self._commands[-COMMANDS_SHOWN:]][::-1])
        if not self._commands and self._is_alone():  # the line below has the panels' numbers then
            text = self._hints(self.size.width)
        text.truncate(max(0, self.size.width - 1), overflow="ellipsis")
        self.query_one("#commands", Hints).update(text, layout=False)

    def show_keys(self) -> None:
        if self._is_alone():
            text = Text()
            for i, name in enumerate(PANELS, start=1):
                word = name if self.size.width >= 90 else SHORT.get(name, name)
                style = "reverse" if name == self.current else ""
                text.append_text(part(str(i), word, f"panel({i - 1})", style)).append(" ")
            text.append(" ?", "bold cyan").append(" help")
        else:
            text = self._hints(self.size.width)
        self.query_one("#keys", Hints).update(text, layout=False)

    def _hints(self, width: int) -> Text:
        return hint_text(keys.hints(keys.RUN, self._read_only), width)

    # Looking around.

    def action_panel(self, index: int) -> None:
        self.current = list(PANELS)[index]

    def action_next_panel(self, by: int) -> None:
        names = list(PANELS)
        self.current = names[(names.index(self.current) + by) % len(names)]

    def _is_alone(self) -> bool:
        return self.zoomed or is_small(self.size.width, self.size.height - 3)

    def action_zoom(self) -> None:
        self.zoomed = not self.zoomed

    def action_scroll(self, by: int) -> None:
        self._panels[self.current].scroll_lines(by)

    def action_freeze(self) -> None:
        self.frozen = not self.frozen
        if not self.frozen and self._held_back is not None:
            self.view, self._held_back = self._held_back, None
        elif self.view is not None:
            self.show_head(self.view)

    @property
    def curves(self) -> CurvesPanel:
        panel = self._panels["Curves"]
        assert isinstance(panel, CurvesPanel)
        return panel

    @property
    def text(self) -> TextPanel:
        panel = self._panels["Text"]
        assert isinstance(panel, TextPanel)
        return panel

    def action_curve(self) -> None:
        self.curves.first += 1

    def action_log_scale(self) -> None:
        self.curves.log_scaled = not self.curves.log_scaled

    def action_smooth(self) -> None:
        self.curves.smoothing = (self.curves.smoothing + 1) % len(SMOOTHING)

    def action_window(self) -> None:
        self.curves.window = (self.curves.window + 1) % len(WINDOWS)

    @property
    def clusters(self) -> ClustersPanel:
        panel = self._panels["Clusters"]
        assert isinstance(panel, ClustersPanel)
        return panel

    def action_axis(self) -> None:
        self.clusters.turn()

    def action_depth(self, by: int) -> None:
        self.clusters.move(by)

    def action_shown_field(self) -> None:
        self.clusters.by_cluster = not self.clusters.by_cluster

    def action_search(self) -> None:
        def search(wanted: str | None) -> None:
            if wanted is not None:
                self.current = "Text"
                self.text.wanted = wanted
                self.call_after_refresh(self.text.find, -1)

        self.app.push_screen(Ask("Search the decoded text for (empty ends the search)", self.text.wanted), search)

    def action_found(self, direction: int) -> None:
        self.text.find(direction)

    def action_help(self) -> None:
        self.app.push_screen(Help(keys.RUN, self._read_only))

    # Going through the history.

    def action_seek(self, direction: int) -> None:
        if self._reader is None or self.view is None:
            return
        position = self.view.position
        by = max(1, position.total // SEEK_SHARE)
        self._reader.seek(min(position.event + direction * by, position.total))

    def action_seek_start(self) -> None:
        if self._reader is not None:
            self._reader.seek(0)

    def action_seek_end(self) -> None:
        if self._reader is not None:
            self._reader.follow()

    def action_play(self) -> None:
        if self._reader is not None:
            self._reader.play()

    def action_speed(self, faster: int) -> None:
        if self._reader is not None:
            self._reader.change_speed(bool(faster))
