"""The application: it opens the screens, and has the styles and the command palette.

Textual reads settings from the environment when it is imported, so `environment.prepare` must run before its first import.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from app.tui import environment, hangup
from monitors.runs import RunFolder

environment.prepare()

from textual import events  # noqa: E402 - see above
from textual.app import App, SystemCommand  # noqa: E402
from textual.binding import BindingType  # noqa: E402
from textual.screen import Screen  # noqa: E402

from app.tui.keys import SUSPEND  # noqa: E402
from app.tui.messages import LaunchFailed, RunChosen, RunLaunched  # noqa: E402
from app.tui.screens.dialogs import Dialog  # noqa: E402
from app.tui.screens.home import HomeScreen  # noqa: E402

if TYPE_CHECKING:
    from app.tui.snapshot import View


class LatticeApp(App[None]):
    """Opens with the home screen, or with the screen of one run."""

    TITLE = "lattice-tui"
    CSS_PATH = "app.tcss"
    ENABLE_COMMAND_PALETTE = True
    BINDINGS: ClassVar[list[BindingType]] = [SUSPEND.binding()]

    def __init__(
        self,
        runs_dir: Path,
        attach: RunFolder | None = None,
        read_only: bool = False,
        plain: bool | None = None,
        still: View | None = None,
    ) -> None:
        """`plain`: draw with ASCII only.  By default the encoding of the terminal decides."""
        super().__init__()
        self.runs_dir, self.read_only = runs_dir, read_only
        self.plain = environment.is_plain() if plain is None else plain
        self._attached_run, self._still = attach, still
        if environment.has_few_colours():
            self.theme = "ansi-dark"

    def on_mount(self) -> None:
        self.set_class(self.plain, "-plain")
        if self._attached_run is not None:
            self.open_run(self._attached_run)
        else:
            self.push_screen(self._home())

    async def on_event(self, event: events.Event) -> None:
        """Gives an event to who it is for; what was typed for a dialog that is still opening waits there."""
        if isinstance(event, events.Key | events.Paste) and not event.is_forwarded:
            top = self.screen_stack[-1] if self.screen_stack else None
            if top is None or (isinstance(top, Dialog) and top.holds(event)):  # None: the program is ending
                return
        await super().on_event(event)

    def open_run(self, folder: RunFolder) -> None:
        from app.tui.screens.run import RunScreen  # here: the home screen's first frame does without all that a run needs

        self.push_screen(RunScreen(folder, self.read_only, self.plain, still=self._still))

    def action_home(self) -> None:
        """From a run to the home screen, which may have to be made."""
        if isinstance(self.screen, HomeScreen):
            return
        if any(isinstance(screen, HomeScreen) for screen in self.screen_stack):
            self.pop_screen()
        else:
            self.switch_screen(self._home())

    def _home(self) -> HomeScreen:
        return HomeScreen(self.runs_dir, self.read_only)

    def on_run_chosen(self, message: RunChosen) -> None:
        if isinstance(self.screen, HomeScreen):  # a second enter may have chosen, too, before the first was looked at
            self.open_run(RunFolder(Path(message.path)))

    def on_run_launched(self, message: RunLaunched) -> None:
        self.open_run(RunFolder(Path(message.path)))

    def on_launch_failed(self, message: LaunchFailed) -> None:
        self.notify(message.reason, title="The run did not start", severity="error", timeout=20, markup=False)

    def action_suspend_process(self) -> None:
        """Stops the program until a shell's `fg`.  The run goes on."""
        if hangup.can_be_resumed():
            super().action_suspend_process()
        else:
            self.notify("There is no shell here that could bring this screen back; q leaves it.", markup=False)

    def get_system_commands(self, screen: Screen) -> Iterable[SystemCommand]:
        """The commands of the palette: everything that the screen's keys do, by name."""
        for key in getattr(screen, "KEYS", ()):
            if key.action == "app.command_palette" or (key.steers and self.read_only):
                continue
            yield SystemCommand(f"{key.group}: {key.does}", f"key {key.shown}", self._doing(screen, key.action))

    def _doing(self, screen: Screen, action: str) -> Callable[[], Awaitable[None]]:
        async def do() -> None:
            await screen.run_action(action)

        return do


def run(runs_dir: Path, attach: RunFolder | None = None, read_only: bool = False, plain: bool | None = None) -> int:
    """Shows the interface until the operator leaves.  Returns the exit code."""
    app = LatticeApp(runs_dir, attach, read_only, plain)
    hangup.end_with_the_terminal()

    async def show() -> None:
        hangup.end_on_signals(lambda code: app.exit(return_code=code))
        await app.run_async(mouse=os.environ.get("LATTICE_TUI_MOUSE", "1") != "0")

    asyncio.run(show())
    return app.return_code or 0
