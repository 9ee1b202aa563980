"""The home screen: the presets with the memory that they need and that this machine has, and all runs."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.message import Message
from textual.screen import Screen
from textual.widgets import DataTable, Static

from app import configure, formats, planning
from app.exit_codes import Stop
from app.tui import keys
from app.tui.messages import LaunchFailed, RunChosen, RunLaunched, RunsListed
from app.tui.screens.dialogs import Choose, StartDialog
from app.tui.screens.help import Help
from app.tui.states import STATE_STYLES
from app.tui.widgets.hints import Hints, hint_text
from monitors.gauges import Absent, host_memory
from monitors.runs import RunFolderError, list_runs
from monitors.text_safety import printable
from presets import layers
from presets.plan import StagePlan, explain
from presets.schema import RunConfig

REFRESH_S = 2.0
MOST_RUNS = 200


class Lister(threading.Thread):
    """The thread that lists the runs every two seconds, until `close`."""

    def __init__(self, runs_dir: Path, post: Callable[[Message], object]) -> None:
        super().__init__(name="lister of runs", daemon=True)
        self._runs_dir, self._post = runs_dir, post
        self._closed, self._wake = threading.Event(), threading.Event()

    def look(self) -> None:
        self._wake.set()

    def close(self) -> None:
        self._closed.set()
        self._wake.set()
        if self.is_alive():
            self.join(timeout=5.0)

    def run(self) -> None:
        before: RunsListed | None = None
        while not self._closed.is_set():
            try:
                listed = RunsListed(tuple(list_runs(self._runs_dir)[:MOST_RUNS]))
            except (RunFolderError, OSError) as error:
                listed = RunsListed((), str(error))
            if before is None or (listed.rows, listed.trouble) != (before.rows, before.trouble):
                before = listed
                self._post(listed)
            self._wake.wait(REFRESH_S)
            self._wake.clear()


class HomeScreen(Screen[None]):
    KEYS = keys.HOME
    BINDINGS: ClassVar[list[BindingType]] = keys.bindings(KEYS)

    def __init__(self, runs_dir: Path, read_only: bool) -> None:
        super().__init__()
        self._runs_dir, self._read_only = runs_dir, read_only
        self._configs: dict[str, RunConfig] = {}
        self._plans: dict[str, tuple[StagePlan, ...]] = {}
        self._rows: tuple[dict[str, Any], ...] = ()
        self._lister: Lister | None = None
        self._starting = ""
        self.has_listed = False
        """Whether the runs have been read once."""

    def compose(self) -> ComposeResult:
        yield Static(id="title")
        yield DataTable(id="presets", cursor_type="row", zebra_stripes=False)
        yield Static(id="about")
        yield Static(id="folder")
        yield DataTable(id="runs", cursor_type="row")
        yield Hints(id="keys")

    def on_mount(self) -> None:
        for name in layers.preset_names():
            self._configs[name] = layers.load(name).config
            self._plans[name] = planning.here(self._configs[name])
        presets, runs = self.query_one("#presets", DataTable), self.query_one("#runs", DataTable)
        presets.add_columns("preset", "cells", "steps", "memory", "budget", "here")
        for name, stages in self._plans.items():
            presets.add_row(*preset_cells(name, self._configs[name], stages), key=name)
        runs.add_columns("run", "state", "stage", "step", "score", "created")
        presets.focus()
        self.show_title()
        self._lister = Lister(self._runs_dir, self.post_message)
        self._lister.start()

    def on_unmount(self) -> None:
        if self._lister is not None:
            self._lister.close()

    def on_screen_resume(self) -> None:
        if self._lister is not None:
            self._lister.look()

    def on_resize(self) -> None:
        self.show_title()

    def show_title(self) -> None:
        memory = host_memory()
        here = (
            memory.reason
            if isinstance(memory, Absent)
            else (f"{formats.bytes_(memory.available_bytes)} of memory free, {formats.bytes_(memory.total_bytes)} in all")
        )
        read_only = "  read-only" if self._read_only else ""
        self.query_one("#title", Static).update(Text.assemble(("lattice-tui", "bold"), f"  this machine: {here}{read_only}"))
        self.query_one("#keys", Hints).update(hint_text(keys.hints(keys.HOME, self._read_only), self.size.width))

    # What arrives.

    @on(RunsListed)
    def listed(self, message: RunsListed) -> None:
        message.stop()
        table = self.query_one("#runs", DataTable)
        at = self._rows[table.cursor_row]["path"] if self._rows and table.cursor_row < len(self._rows) else None
        same = [row["path"] for row in self._rows] == [row["path"] for row in message.rows]
        self._rows, self.has_listed = message.rows, True
        if same:
            for row in self._rows:
                for column, cell in zip(table.ordered_columns, run_cells(row), strict=True):
                    table.update_cell(row["path"], column.key, cell, update_width=True)
        else:
            table.clear()
            for row in self._rows:
                table.add_row(*run_cells(row), key=row["path"])
            paths = [row["path"] for row in self._rows]
            if at in paths:
                table.move_cursor(row=paths.index(at))
        self.show_folder(message.trouble)

    def show_folder(self, trouble: str = "") -> None:
        folder = printable(formats.path(self._runs_dir))
        if self._starting:
            text = Text(f"Starting {self._starting}; it opens here as soon as it is up ...", "yellow")
        elif trouble:
            text = Text(printable(trouble), "bold red")
        else:
            count = len(self._rows)
            text = Text(f"{count} run{'' if count == 1 else 's'} in {folder}" if count else f"No runs yet in {folder}", "dim")
        self.query_one("#folder", Static).update(text)

    @on(DataTable.RowHighlighted, "#presets")
    def highlighted(self, event: DataTable.RowHighlighted) -> None:
        event.stop()
        if event.row_key.value in self._configs:
            name = event.row_key.value
            self.query_one("#about", Static).update(about(name, self._configs[name], self._plans[name]))

    @on(DataTable.RowSelected, "#presets")
    def preset_chosen(self, event: DataTable.RowSelected) -> None:
        event.stop()
        self.start(event.row_key.value)

    @on(DataTable.RowSelected, "#runs")
    def run_chosen(self, event: DataTable.RowSelected) -> None:
        event.stop()
        if event.row_key.value and self.app.screen is self:
            self.post_message(RunChosen(event.row_key.value))

    # Starting.

    def start(self, name: str | None) -> None:
        """Asks for text and steps, then starts an engine in a session of its own."""
        if name not in self._configs or self._starting or self.app.screen is not self:
            return
        if self._read_only:
            self.notify("This screen is read-only; open it again without --read-only to start runs.", markup=False)
            return
        config, stages = self._configs[name], self._plans[name]

        def given(answer: tuple[str, str] | None) -> None:
            if answer is not None:
                self.launch(name, *answer)

        def warned(answer: str | None) -> None:
            if answer == "start":
                self.app.push_screen(StartDialog(name, config), given)

        trouble = wont_fit(stages)
        if trouble:
            answers = {"back": "back", "start": "start it all the same"}
            self.app.push_screen(Choose(f"{name}: {trouble}", answers), warned)
        else:
            warned("start")

    def launch(self, name: str, data: str, steps: str) -> None:
        arguments = ["--preset", name]
        if data:
            arguments += ["--data", configure.data_source(Path(os.path.expanduser(data)))]
        if steps:
            arguments += ["--steps", steps]
        self._starting = name
        self.show_folder()
        threading.Thread(target=self._launch, args=(arguments,), name=f"launch of {name}", daemon=True).start()

    def _launch(self, arguments: list[str]) -> None:
        from app.run_process.launch import launch

        try:
            message: Message = RunLaunched(str(launch(arguments, self._runs_dir).path))
        except (Stop, RunFolderError, OSError) as error:
            message = LaunchFailed(printable(str(error)))
        self.post_message(message)

    def on_run_launched(self) -> None:
        self._starting = ""
        self.show_folder()

    def on_launch_failed(self) -> None:
        self._starting = ""
        self.show_folder()

    # Keys.

    def action_other_table(self) -> None:
        runs = self.query_one("#runs", DataTable)
        (self.query_one("#presets", DataTable) if runs.has_focus else runs).focus()

    def action_choose(self) -> None:
        """Called only if no table has the focus.  A table with the focus takes the key itself."""
        self.query_one("#presets", DataTable).focus()

    def action_refresh(self) -> None:
        if self._lister is not None:
            self._lister.look()

    def action_help(self) -> None:
        self.app.push_screen(Help(keys.HOME, self._read_only))

    def action_leave(self) -> None:
        self.app.exit()


def preset_cells(name: str, config: RunConfig, stages: tuple[StagePlan, ...]) -> list[Text]:
    largest = max(stages, key=lambda stage: stage.total_bytes)
    shape = formats.shape(largest.shape) + (f" in {len(stages)} stages" if len(stages) > 1 else "")
    problem = wont_fit(stages)
    return [
        Text(name, "bold"),
        Text(shape),
        Text(formats.count(config.total_steps), justify="right"),
        Text(formats.bytes_(largest.total_bytes), justify="right"),
        Text(formats.bytes_(largest.budget_bytes), justify="right"),
        Text("too big" if problem else "fits", "red" if problem else "green"),
    ]


def wont_fit(stages: tuple[StagePlan, ...]) -> str:
    """Why the plan of the run does not fit its budget or this machine's memory; empty if it fits."""
    for stage in stages:
        if not stage.fits:
            return explain(stage)
    largest, memory = max(stage.total_bytes for stage in stages), host_memory()
    if memory and largest > memory.total_bytes:
        total = formats.bytes_(memory.total_bytes)
        return f"needs {formats.bytes_(largest)}, this machine has {total} of memory (a GPU may have its own)"
    return ""


def about(name: str, config: RunConfig, stages: tuple[StagePlan, ...]) -> Text:
    """Purpose and plan of a preset, in three lines."""
    text = Text(f"{name}: {config.purpose}\n")
    shapes = " > ".join(formats.shape(stage.shape) for stage in stages)
    batch = f"micro-batch {stages[-1].micro_batch} x {stages[-1].accumulation}"
    text.append(f"{shapes} cells, {batch}, reach {min(stage.reach for stage in stages):.0%}\n", "dim")
    parts = sorted(stages[-1].components.items(), key=lambda part: -part[1])[:4]
    said = ", ".join(f"{part.replace('_', ' ')} {formats.bytes_(size)}" for part, size in parts)
    return text.append(wont_fit(stages) or f"most of it: {said}", "red" if wont_fit(stages) else "dim")


def run_cells(row: dict[str, Any]) -> list[Text]:
    created = formats.moment(row["created"], "%m-%d %H:%M")
    return [
        Text(printable(row["run"]), "bold"),
        Text(row["state"], STATE_STYLES.get(row["state"], "")),
        Text(str(row["stage"]), justify="right"),
        Text(formats.count(row["step"]), justify="right"),
        Text(formats.judged(row["measure"], row["bleu"], row["exact"]), justify="right"),
        Text(created),
    ]
