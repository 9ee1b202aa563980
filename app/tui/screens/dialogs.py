"""Small questions over a screen: pick one of several answers, or type one that is checked."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, TypeVar

from rich.text import Text
from textual import events, on
from textual.app import ComposeResult
from textual.await_complete import AwaitComplete
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.suggester import Suggester
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from app import configure
from monitors.text_safety import printable
from presets.schema import RunConfig
from presets.task_name import PREFIX, is_task
from presets.text_files import FORMATS, files_below, is_text

Check = Callable[[str], str]
"""Says in words what is wrong with a typed answer; empty if nothing is."""


Answer = TypeVar("Answer")


class Dialog(ModalScreen[Answer | None]):
    """A screen over another that gives one answer.  Escape gives None.

    Keys may come faster than screens open and close: from a paste, a script, or over a slow line.  Keys that come before the
    dialog has its focus wait for it.  Once it has given its answer it takes no more, and what was typed for it is dropped.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "back", show=False)]

    def __init__(self) -> None:
        super().__init__()
        self._opening, self._early = True, list[events.Key | events.Paste]()

    def holds(self, typed: events.Key | events.Paste) -> bool:
        """Keeps what was typed until the dialog has its focus.  False if it has it already, and can be given it."""
        if self._opening:
            self._early.append(typed)
        return self._opening

    def on_mount(self) -> None:
        self.call_after_refresh(self._open)

    async def _open(self) -> None:
        self._opening = False
        for typed in self._early:
            await self.app.on_event(typed)

    def dismiss(self, result: Answer | None = None) -> AwaitComplete:
        return super().dismiss(result) if self.app.screen is self else AwaitComplete.nothing()


class Choose(Dialog[str]):
    """Asks for one of several answers, chosen by arrows and enter or by its letter.  Escape gives None."""

    def __init__(self, question: str, answers: dict[str, str]) -> None:
        """`answers` has a description of each answer by its value.  The first letter of the value picks it."""
        super().__init__()
        self._question, self._answers = question, answers

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static(Text(self._question), classes="question")
            yield OptionList(*(Option(Text(said), id=value) for value, said in self._answers.items()))
            yield Static(Text("enter chooses, esc goes back"), classes="hint")

    @on(OptionList.OptionSelected)
    def answered(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self.dismiss(event.option_id)

    def on_key(self, event: events.Key) -> None:
        starting = [value for value in self._answers if event.character and value.startswith(event.character)]
        if len(starting) == 1:
            event.stop()
            self.dismiss(starting[0])


class Field(Input):
    """A text field that takes its keys in the order in which they were typed.

    Textual's own field takes a letter at once, but a backspace or enter only after it went up to the application and back.  On
    a slow line, keys typed ahead would be deleted or sent in the wrong order.
    """

    async def on_key(self, event: events.Key) -> None:
        for binding in self._bindings.key_to_bindings.get(event.key, ()):
            event.stop()
            event.prevent_default()
            await self.run_action(binding.action)


class Ask(Dialog[str]):
    """Asks for a typed answer.  Enter gives it if nothing is wrong with it, escape gives None."""

    def __init__(self, question: str, value: str = "", check: Check = lambda answer: "") -> None:
        super().__init__()
        self._question, self._value, self._check = question, value, check

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static(Text(self._question), classes="question")
            yield Field(self._value)
            yield Static(Text("enter sends, esc goes back"), classes="hint")

    @on(Input.Submitted)
    def answered(self, event: Input.Submitted) -> None:
        event.stop()
        if wrong := self._check(event.value.strip()):
            self.query_one(".hint", Static).update(Text(wrong, "bold red"))
        else:
            self.dismiss(event.value.strip())


class StartDialog(Dialog[tuple[str, str]]):
    """Asks for the text and the steps of a new run.  Gives both as typed; empty means what the preset has."""

    # Priority: otherwise the field takes its keys one by one, and what was typed after the tab before a slow screen had come
    # to it would still go to the field before.
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "app.focus_next", "next field", show=False, priority=True),
        Binding("shift+tab", "app.focus_previous", "field before", show=False, priority=True),
    ]

    def __init__(self, preset: str, config: RunConfig) -> None:
        super().__init__()
        self._preset, self._steps, self._at_least = preset, config.total_steps, len(config.stages)
        self._data = printable(config.data.train or "the bundled corpus")

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static(Text(f"Start a run of {self._preset}"), classes="question")
            yield Static(Text("Text to learn from: .txt, .jsonl, .tsv, a folder, or task:NAME;\nempty = " + self._data))
            yield Field(id="data", suggester=Paths(), placeholder=self._data)
            yield Static(Text(f"Optimizer steps; empty = {self._steps:,}"))
            yield Field(id="steps", placeholder=str(self._steps))
            yield Static(
                Text("enter starts, tab changes the field, right arrow completes a path, esc goes back"), classes="hint"
            )

    @on(Input.Submitted)
    def answered(self, event: Input.Submitted) -> None:
        event.stop()
        data, steps = (self.query_one(name, Input).value.strip() for name in ("#data", "#steps"))
        wrong = wrong_data(data) or wrong_steps(steps, self._at_least)
        if wrong:
            self.query_one(".hint", Static).update(Text(wrong, "bold red"))
        else:
            self.dismiss((data, steps))


class Paths(Suggester):
    """Completes a path with the first entry of its folder, in alphabetical order, that begins with what was typed.

    After `task:` it completes the name of a bundled task.
    """

    def __init__(self) -> None:
        super().__init__(use_cache=False, case_sensitive=True)

    async def get_suggestion(self, value: str) -> str | None:
        if is_task(value):
            from lattice.data.tasks.named import TASKS  # only now: the screen opens without the lattice's packages

            return next((name for task in TASKS if (name := PREFIX + task).startswith(value)), None)
        folder, start = os.path.split(value)
        try:
            names = sorted(os.listdir(os.path.expanduser(folder) or "."))
        except OSError:
            return None
        found = next((name for name in names if start and name.startswith(start) and name.isprintable()), None)
        return os.path.join(folder, found) if found else None


def wrong_data(typed: str) -> str:
    """Why a typed path or `task:NAME` can't be trained on, as far as a quick look shows; empty if it can."""
    if not typed:
        return ""
    if is_task(typed):
        return printable(configure.wrong_task(typed))
    path, shown = Path(os.path.expanduser(typed)), printable(typed)
    if not path.exists():
        return f"{shown} does not exist"
    if not os.access(path, os.R_OK):
        return f"{shown} can't be read: no permission"
    if path.is_dir():
        return "" if any(map(is_text, files_below(path))) else f"{shown} holds no {', '.join(FORMATS)} file"
    if not path.stat().st_size:
        return f"{shown} is empty"
    return printable(configure.wrong_file(path))


def wrong_steps(typed: str, at_least: int) -> str:
    if not typed:
        return ""
    if not typed.isdecimal() or int(typed) < at_least:
        return f"steps: a whole number, at least {at_least}"
    return ""


def whole_number(at_least: int) -> Check:
    return lambda typed: "" if typed.isdecimal() and int(typed) >= at_least else f"a whole number, at least {at_least}"


def number_in(low: float, high: float, exclusive: bool = False) -> Check:
    """Makes a check for a number from `low` to `high`.  With `exclusive`, `low` itself is not allowed."""

    def check(typed: str) -> str:
        try:
            value = float(typed)
        except ValueError:
            return "a number, such as 0.003"
        fits = (low < value if exclusive else low <= value) and value <= high
        return "" if fits else f"a number {'above' if exclusive else 'from'} {low:g} {'up ' if exclusive else ''}to {high:g}"

    return check
