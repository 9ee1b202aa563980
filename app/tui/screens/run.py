"""One run: its panels, a line that says how it stands, a line for commands, a line of keys.

The reader thread posts a view; the handler puts it into the screen's reactive attribute; its watcher hands it to the header
and to the panels that are shown.  Nothing else writes to panels.
"""

from __future__ import annotations

from typing import Any, ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Container
from textual.reactive import reactive
from textual.screen import Screen
from textual.widgets import Static

from app import formats
from app.tui import keys
from app.tui.bridge import POLL_S, Reader
from app.tui.layout import arrange, is_small
from app.tui.messages import CommandAnswered, SnapshotRead
from app.tui.screens.dialogs import Ask, Choose, number_in, whole_number
from app.tui.screens.help import Help
from app.tui.snapshot import View
from app.tui.steering import Order, Steering
from app.tui.widgets.clusters import Clusters
from app.tui.widgets.curves import SMOOTHING, WINDOWS, Curves
from app.tui.widgets.decoded import DecodedText
from app.tui.widgets.log import Log
from app.tui.widgets.memory import Memory
from app.tui.widgets.panel import Panel
from app.tui.widgets.plasticity import Plasticity
from app.tui.widgets.stages import Stages, steps_left
from monitors.runs import RunFolder
from monitors.text_safety import printable

PANELS: dict[str, type[Panel]] = {
    "Curves": Curves,
    "Text": DecodedText,
    "Stages": Stages,
    "Memory": Memory,
    "Clusters": Clusters,
    "Plasticity": Plasticity,
    "Log": Log,
}
SEEK_SHARE = 50
"""An arrow key moves by this part of the log."""

ORDERS_SHOWN = 3
SHORT = {"Clusters": "Clust", "Plasticity": "Plast"}
"""For narrow terminals."""

STATE_STYLES = {"running": "green", "paused": "yellow", "failed": "bold red", "crashed": "bold red", "stale": "yellow"}
PROFILES = {
    "discovery": "discovery: connections change twice as fast",
    "learning": "learning: the normal rate",
    "consolidation": "consolidation: 0.4 times the rate",
    "freeze": "freeze: connections stay as they are",
}


class RunScreen(Screen[None]):
    BINDINGS: ClassVar[list[BindingType]] = keys.bindings(keys.RUN)
    AUTO_FOCUS = None

    view: reactive[View | None] = reactive(None, always_update=True, repaint=False)
    current: reactive[str] = reactive("Curves", repaint=False)
    zoomed: reactive[bool] = reactive(False, repaint=False)
    frozen: reactive[bool] = reactive(False, repaint=False)

    def __init__(
        self, folder: RunFolder, read_only: bool = False, plain: bool = False, poll_s: float = POLL_S, still: View | None = None
    ) -> None:
        """`still`: shows this view and reads nothing, for pictures."""
        super().__init__()
        self._folder, self._read_only, self._plain, self._still = folder, read_only, plain, still
        self._reader = Reader(folder, self.post_message, poll_s) if still is None else None
        self._steering = Steering(folder, self.post_message)
        self._orders: list[tuple[Order, str, Text]] = []  # order, state, what is said of it
        self._sent = 0
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
            yield Static(id="orders")
            yield Static(id="keys")

    def on_mount(self) -> None:
        self.place_panels()
        self.show_keys()
        if self._reader is not None:
            self._reader.start()
            self._steering.start()
        else:
            self.view = self._still

    def on_unmount(self) -> None:
        self._steering.close()
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

    @on(CommandAnswered)
    def answered(self, message: CommandAnswered) -> None:
        message.stop()
        for i, (order, _, _) in enumerate(self._orders):
            if order.number == message.number:
                if message.ok:
                    said = Text(f"{order.words}: applied at step {message.step}", "green")
                else:
                    said = Text(f"{order.words}: refused, {printable(message.error)}", "bold red")
                self._orders[i] = order, "applied" if message.ok else "refused", said
        self.show_orders()

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
            self.show_orders()

    def on_resize(self) -> None:
        self.place_panels()
        self.show_keys()
        if self.view is not None:
            self.show_head(self._held_back or self.view)
        self.show_orders()

    def place_panels(self) -> None:
        """Puts the panels where the terminal's size has room for them."""
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
            if not panel.display:
                panel.display = True
            if self.view is not None:
                panel.view = self.view
                panel.call_after_refresh(panel.remake)

    def show_head(self, view: View) -> None:
        line = head(view, self.size.width, self.frozen, self._read_only, self._plain)
        self.query_one("#head", Static).update(line, layout=False)

    def show_orders(self) -> None:
        """The newest commands and what became of them; where none was given, how this screen is left."""
        text = Text(" | ", "dim").join([said for _, _, said in self._orders[-ORDERS_SHOWN:]][::-1])
        if not self._orders and self._is_alone():  # the line below has the panels' numbers then
            text = self._hints(self.size.width)
        text.truncate(max(0, self.size.width - 1), overflow="ellipsis")
        self.query_one("#orders", Static).update(text, layout=False)

    def show_keys(self) -> None:
        if self._is_alone():
            text = Text()
            for i, name in enumerate(PANELS, start=1):
                word = name if self.size.width >= 90 else SHORT.get(name, name)
                text.append(f"{i}", "bold cyan").append(f" {word} ", "reverse" if name == self.current else "")
            text.append(" ?", "bold cyan").append(" help")
        else:
            text = self._hints(self.size.width)
        self.query_one("#keys", Static).update(text, layout=False)

    def _hints(self, width: int) -> Text:
        text = Text()
        for shown, word in keys.hints(keys.RUN, self._read_only):
            if text.cell_len + len(shown) + len(word) + 3 > width:
                break
            text.append(f"{shown}", "bold cyan").append(f" {word}  ")
        return text

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
    def curves(self) -> Curves:
        panel = self._panels["Curves"]
        assert isinstance(panel, Curves)
        return panel

    @property
    def text(self) -> DecodedText:
        panel = self._panels["Text"]
        assert isinstance(panel, DecodedText)
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
    def clusters(self) -> Clusters:
        panel = self._panels["Clusters"]
        assert isinstance(panel, Clusters)
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

    # Steering.

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return not (self._read_only and any(key.steers and key.action.partition("(")[0] == action for key in keys.RUN))

    def order(self, command: str, args: dict[str, Any], words: str) -> None:
        """Sends a command; refused here where the run is known to hear none."""
        if self._read_only:
            self.notify("This screen is read-only; open it again without --read-only to steer.", markup=False)
            return
        self._sent += 1
        order = Order(self._sent, command, args, words)
        if self.view is not None and not self.view.is_live:
            said = Text(f"{words}: refused, the run is {self.view.state} and hears no commands", "bold red")
            self._orders.append((order, "refused", said))
        else:
            self._orders.append((order, "pending", Text(f"{words}: pending", "yellow")))
            self._steering.order(order)
        del self._orders[:-20]
        self.show_orders()

    def action_decode_now(self) -> None:
        self.order("decode", {}, "decode now")

    def action_decode_every(self) -> None:
        every = str(self.view.config.decode.every) if self.view and self.view.config else ""
        self._ask_setting("decode.every", "Decode every so many steps", every, whole_number(1), int)

    def action_learning_rate(self) -> None:
        rate = f"{self.view.config.optimizer.learning_rate:g}" if self.view and self.view.config else ""
        self._ask_setting("optimizer.learning_rate", "Peak learning rate", rate, number_in(0, 1, exclusive=True), float)

    def action_sparsity(self) -> None:
        stage = self._stage()
        now = f"{self.view.config.stages[stage].sparsity:g}" if self.view and self.view.config else ""
        self._ask_setting(f"stages.{stage}.sparsity", "Share of connections pruned", now, number_in(0, 0.95), float)

    def action_profile(self) -> None:
        key = f"stages.{self._stage()}.profile"

        def set_it(profile: str | None) -> None:
            if profile:
                self.order("set", {"key": key, "value": profile}, f"{key} = {profile}")

        self.app.push_screen(Choose("Plasticity profile of this stage", PROFILES), set_it)

    def action_stage_next(self) -> None:
        def go(answer: str | None) -> None:
            if answer == "next":
                self.order("stage", {"action": "next"}, "next stage")

        answers = {"next": "next: end this stage after the step in progress", "back": "back: let it go on"}
        self.app.push_screen(Choose("End this stage now?", answers), go)

    def action_stage_hold(self) -> None:
        self.order("stage", {"action": "hold"}, "hold this stage")

    def action_stage_release(self) -> None:
        self.order("stage", {"action": "release"}, "release this stage")

    def action_stage_goto(self) -> None:
        if self.view is None or self.view.config is None:
            return
        later = list(enumerate(self.view.config.stages))[self._stage() + 1 :]
        if not later:
            self.notify("This is the last stage.", markup=False)
            return

        def go(answer: str | None) -> None:
            if answer is not None:
                index = int(answer.removeprefix("s"))
                self.order("stage", {"action": "goto", "stage": index}, f"go to stage {index}")

        answers = {f"s{i}": f"{i} {stage.name}, {formats.shape(stage.shape)} cells" for i, stage in later}
        self.app.push_screen(Choose("Go to which stage? Those between are left out.", answers), go)

    def action_pause(self) -> None:
        paused = self.view is not None and self.view.state == "paused"
        self.order("resume" if paused else "pause", {}, "resume" if paused else "pause")

    def action_checkpoint(self) -> None:
        self.order("checkpoint", {}, "checkpoint")

    def action_stop(self) -> None:
        def stop(answer: str | None) -> None:
            if answer == "stop":
                self.order("stop", {}, "stop")

        answers = {"back": "back: let it go on", "stop": "stop: save a checkpoint and end; `train --resume` continues it"}
        self.app.push_screen(Choose("Stop this run?", answers), stop)

    def _stage(self) -> int:
        return self.view.snapshot.stage if self.view else 0

    def _ask_setting(self, key: str, question: str, now: str, check: Any, kind: type) -> None:
        def set_it(typed: str | None) -> None:
            if typed is not None:
                self.order("set", {"key": key, "value": kind(typed)}, f"{key} = {typed}")

        self.app.push_screen(Ask(f"{question} ({key})", now, check), set_it)

    # Leaving.

    def action_home(self) -> None:
        from app.tui.screens.home import HomeScreen

        if any(isinstance(screen, HomeScreen) for screen in self.app.screen_stack):
            self.app.pop_screen()
        else:
            self.app.switch_screen(HomeScreen())

    def action_leave(self) -> None:
        """Quits; while the run is live, asks what becomes of it."""
        if self.view is None or not self.view.is_live:
            self.app.exit()
            return

        def leave(answer: str | None) -> None:
            if answer == "detach":
                self.app.exit()
            elif answer == "stop":
                self._stop_and_leave()

        answers = {"detach": "detach: leave, the run goes on; `lattice-tui attach` comes back to it"}
        if not self._read_only:
            answers["stop"] = "stop: save a checkpoint, end the run, leave"
        self.app.push_screen(Choose("Leave this run", answers), leave)

    def _stop_and_leave(self) -> None:
        self.order("stop", {}, "stop")
        number = self._sent

        def check() -> None:
            state = next((state for order, state, _ in self._orders if order.number == number), "applied")
            if state == "applied":
                self.app.exit()
            elif state == "refused":
                timer.stop()

        timer = self.set_interval(0.1, check)


def head(view: View, width: int, frozen: bool = False, read_only: bool = False, plain: bool = False) -> Text:
    """How the run stands, in one line; what matters less is left out where the line is short."""
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
    if (bleu := snapshot.curves["BLEU"].last) is not None:
        parts.append((Text(f"BLEU {formats.score(bleu)}", "green"), 0))
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
