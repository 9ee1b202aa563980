"""A screen that steers a run: it asks what a command needs, sends the command, and keeps what became of it.

A thread of its own sends the commands to the engine (app.tui.sender).  `show_commands` is called whenever the state of one has
changed.
"""

from __future__ import annotations

from typing import Any

from rich.text import Text
from textual import on
from textual.reactive import reactive
from textual.screen import Screen

from app import formats
from app.tui import keys
from app.tui.messages import CommandAnswered
from app.tui.screens.dialogs import Ask, Check, Choose, number_in, whole_number
from app.tui.sender import CommandSender, SentCommand
from app.tui.snapshot import View
from monitors.runs import RunFolder
from monitors.text_safety import printable
from presets.control_commands import COMMANDS

PROFILES = {
    "discovery": "discovery: connections change twice as fast",
    "learning": "learning: the normal rate",
    "consolidation": "consolidation: 0.4 times the rate",
    "freeze": "freeze: connections stay as they are",
}

WOUNDS = {
    "connections:0.3": "30 % of all connections",
    "connections:0.7": "70 % of all connections",
    "cells:0.1": "10 % of the cells, with their connections",
    "block:4": "all connections of a cube of 4x4x4 cells",
    "shuffle:0.3": "the order of the weights in 30 % of the cells",
}
"""The wounds that the screen offers, with what each destroys; `lattice-tui control` takes any (presets.wound)."""


class SteeredScreen(Screen[None]):
    """The base of a screen that steers a run.  Subclasses show the newest commands."""

    view: reactive[View | None] = reactive(None, always_update=True, repaint=False)

    def __init__(self, folder: RunFolder, read_only: bool) -> None:
        super().__init__()
        self._read_only = read_only
        self._sender = CommandSender(folder, self.post_message)
        self._commands: list[tuple[SentCommand, str, Text]] = []  # the command, its state, what is said of it
        self._sent = 0

    def on_unmount(self) -> None:
        self._sender.close()

    def show_commands(self) -> None:
        raise NotImplementedError

    @on(CommandAnswered)
    def answered(self, message: CommandAnswered) -> None:
        message.stop()
        for i, (sent, _, _) in enumerate(self._commands):
            if sent.number == message.number:
                if message.ok:
                    said = Text(f"{sent.words}: applied at step {message.step}", "green")
                else:
                    said = Text(f"{sent.words}: refused, {printable(message.error)}", "bold red")
                self._commands[i] = sent, "applied" if message.ok else "refused", said
        self.show_commands()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return not (self._read_only and any(key.steers and key.action.partition("(")[0] == action for key in keys.RUN))

    def send_command(self, command: str, args: dict[str, Any], words: str) -> None:
        """Sends a command.  If the run is known to have ended, the command is refused at once."""
        if self._read_only:
            self.notify("This screen is read-only; open it again without --read-only to steer.", markup=False)
            return
        self._sent += 1
        sent = SentCommand(self._sent, command, args, words)
        if self.view is not None and not self.view.is_live:
            said = Text(f"{words}: refused, the run is {self.view.state} and hears no commands", "bold red")
            self._commands.append((sent, "refused", said))
        else:
            self._commands.append((sent, "pending", Text(f"{words}: pending", "yellow")))
            self._sender.send(sent)
        del self._commands[:-20]
        self.show_commands()

    def action_command(self, name: str) -> None:
        """Sends a command that takes no arguments; asks first if it says what to ask."""
        if name == "pause" and self.view is not None and self.view.state == "paused":
            name = "resume"
        command = COMMANDS[name]
        if not command.confirm:
            self.send_command(name, {}, name)
            return

        def go(answer: str | None) -> None:
            if answer == name:
                self.send_command(name, {}, name)

        answers = {"back": "back: let it go on", name: f"{name}: {command.confirm}"}
        self.app.push_screen(Choose(f"{name.capitalize()} this run?", answers), go)

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
                self.send_command("set", {"key": key, "value": profile}, f"{key} = {profile}")

        self.app.push_screen(Choose("Plasticity profile of this stage", PROFILES), set_it)

    def action_plasticity_rate(self) -> None:
        rate = f"{self.view.config.plasticity.rate:g}" if self.view and self.view.config else ""
        self._ask_setting("plasticity.rate", "Rate of the plasticity rule", rate, number_in(0, 1), float)

    def action_wound(self) -> None:
        def go(answer: str | None) -> None:
            if answer is not None and answer != "back":
                what = offered[int(answer.removeprefix("w"))]
                self.send_command("wound", {"wound": what}, f"wound {what}")

        offered = list(WOUNDS)
        answers = {"back": "back: leave the lattice whole"}
        answers |= {f"w{i}": f"{what}: {WOUNDS[what]}" for i, what in enumerate(offered)}
        self.app.push_screen(Choose("Destroy a part of the lattice for good? b heals.", answers), go)

    def action_stage_next(self) -> None:
        def go(answer: str | None) -> None:
            if answer == "next":
                self.send_command("stage", {"action": "next"}, "next stage")

        answers = {"next": "next: end this stage after the step in progress", "back": "back: let it go on"}
        self.app.push_screen(Choose("End this stage now?", answers), go)

    def action_stage_hold(self) -> None:
        self.send_command("stage", {"action": "hold"}, "hold this stage")

    def action_stage_release(self) -> None:
        self.send_command("stage", {"action": "release"}, "release this stage")

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
                self.send_command("stage", {"action": "goto", "stage": index}, f"go to stage {index}")

        answers = {f"s{i}": f"{i} {stage.name}, {formats.shape(stage.shape)} cells" for i, stage in later}
        self.app.push_screen(Choose("Go to which stage? Those between are left out.", answers), go)

    def _stage(self) -> int:
        return self.view.snapshot.stage if self.view else 0

    def _ask_setting(self, key: str, question: str, now: str, check: Check, kind: type) -> None:
        def set_it(typed: str | None) -> None:
            if typed is not None:
                self.send_command("set", {"key": key, "value": kind(typed)}, f"{key} = {typed}")

        self.app.push_screen(Ask(f"{question} ({key})", now, check), set_it)

    # Leaving.

    def action_leave(self) -> None:
        """Quits.  While the run is live, asks first whether it should go on."""
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
        self.send_command("stop", {}, "stop")
        number = self._sent

        def check() -> None:
            state = next((state for sent, state, _ in self._commands if sent.number == number), "applied")
            if state == "applied":
                self.app.exit()
            elif state == "refused":
                timer.stop()

        timer = self.set_interval(0.1, check)
