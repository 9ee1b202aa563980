"""Every key of every screen.  Screens take their bindings from here, and the help overlay is made from it.

Almost all are letters, digits, arrows and function keys, since tmux, screen and terminals use ctrl+q, ctrl+s, ctrl+b and alt.
"""

from __future__ import annotations

from dataclasses import dataclass

from textual.binding import Binding, BindingType

from presets.control_commands import COMMANDS


@dataclass(frozen=True)
class Key:
    """One key or several with the same action.  `keys` are Textual's names, `shown` is what the help shows for the first.

    `steers`: the key changes the run, so it is off in a read-only screen.
    """

    keys: str
    shown: str
    action: str
    does: str
    group: str
    hint: str = ""
    """A word for the line at the bottom; empty for a key that only the help shows."""

    steers: bool = False

    for_focus: bool = False
    """The widget that has the focus takes this key first.  All other keys act before the next one is looked at, so that the
    next one goes to the dialog that they open, or to the widget that they give the focus."""

    def binding(self) -> Binding:
        return Binding(self.keys, self.action, self.does, show=False, priority=not self.for_focus)


PANELS = ("Curves", "Text", "Stages", "Memory", "Clusters", "Plasticity", "Log")

SUSPEND = Key("ctrl+z", "ctrl+z", "app.suspend_process", "suspend the screen, `fg` comes back", "Everywhere")
"""A key of the application, so that dialogs have it, too."""

EVERYWHERE = (
    Key("question_mark,f1", "?", "help", "this help", "Everywhere", "help"),
    Key("ctrl+p", "ctrl+p", "app.command_palette", "command palette: everything by name", "Everywhere"),
    SUSPEND,
    Key("q", "q", "leave", "quit", "Everywhere", "quit"),
)

HOME = (
    Key("tab", "tab", "other_table", "between presets and runs", "Home", "presets/runs"),
    Key("enter", "enter", "choose", "start the preset, or attach to the run", "Home", "start or attach", for_focus=True),
    Key("r", "r", "refresh", "look for runs again", "Home"),
    *EVERYWHERE,
)

DIALOGS = {
    "set": (
        Key("e", "e", "decode_every", "decode every N steps", "Steering", "every N", steers=True),
        Key("r", "r", "learning_rate", "learning rate", "Steering", "rate", steers=True),
        Key("y", "y", "sparsity", "sparsity target of this stage", "Steering", steers=True),
        Key("o", "o", "profile", "plasticity profile of this stage", "Steering", steers=True),
        Key("O", "O", "plasticity_rate", "plasticity rate", "Steering", steers=True),
    ),
    "wound": (Key("W", "W", "wound", "destroy a part of the lattice (asks)", "Steering", steers=True),),
    "stage": (
        Key("right_square_bracket", "]", "stage_next", "end this stage, start the next", "Steering", steers=True),
        Key("h", "h", "stage_hold", "hold this stage past its end", "Steering", steers=True),
        Key("H", "H", "stage_release", "let a held stage end", "Steering", steers=True),
        Key("g", "g", "stage_goto", "go to a later stage", "Steering", steers=True),
    ),
}
"""Keys of the commands that take arguments: each has its action on the screen, which asks for what is missing."""


def _steering() -> list[Key]:
    """The keys of all commands, in the order of the vocabulary."""
    found: list[Key] = []
    for name, command in COMMANDS.items():
        if command.key:
            action = f"command('{name}')"
            found.append(Key(command.key, command.key, action, command.does, "Steering", command.hint, steers=True))
        found += DIALOGS.get(name, ())
    return found


RUN = (
    *(Key(str(i), str(i), f"panel({i - 1})", f"panel {name}", "Panels") for i, name in enumerate(PANELS, start=1)),
    Key("tab", "tab", "next_panel(1)", "next panel", "Panels", "panel"),
    Key("shift+tab", "shift+tab", "next_panel(-1)", "panel before", "Panels"),
    Key("z", "z", "zoom", "one panel alone, or all of them", "Panels", "zoom"),
    Key("up,k", "up", "scroll(-1)", "scroll the panel back", "Panels"),
    Key("down,j", "down", "scroll(1)", "scroll the panel on", "Panels"),
    Key("pageup", "pgup", "scroll(-10)", "scroll far back", "Panels"),
    Key("pagedown", "pgdn", "scroll(10)", "scroll far on", "Panels"),
    Key("f", "f", "freeze", "freeze the display; the run and its reading go on", "Panels", "freeze"),
    Key("slash", "/", "search", "search the decoded text", "Panels"),
    Key("n", "n", "found(1)", "next match", "Panels"),
    Key("N", "N", "found(-1)", "match before", "Panels"),
    Key("m", "m", "curve", "next curve", "Curves"),
    Key("l", "l", "log_scale", "log scale on and off", "Curves"),
    Key("s", "s", "smooth", "smoothing: none, some, much", "Curves"),
    Key("w", "w", "window", "window: all steps, the last 1000, 200 or 50", "Curves"),
    Key("a", "a", "axis", "cut the lattice across x, y or z", "Clusters"),
    Key("comma", ",", "depth(-1)", "cut it one layer nearer", "Clusters"),
    Key("full_stop", ".", "depth(1)", "cut it one layer further", "Clusters"),
    Key("v", "v", "shown_field", "colour the cut by activity or by cluster", "Clusters"),
    Key("left", "left", "seek(-1)", "back in the run's history", "Replay"),
    Key("right", "right", "seek(1)", "on in the run's history", "Replay"),
    Key("home", "home", "seek_start", "to the start of the history", "Replay"),
    Key("end", "end", "seek_end", "to the newest event, and follow", "Replay"),
    Key("space", "space", "play", "play from here, or pause that", "Replay"),
    Key("plus,equals_sign", "+", "speed(1)", "play faster", "Replay"),
    Key("minus", "-", "speed(0)", "play slower", "Replay"),
    *_steering(),
    Key("escape", "esc", "app.home", "back to all runs; the run goes on", "Everywhere", "home"),
    *EVERYWHERE,
)


def bindings(keys: tuple[Key, ...]) -> list[BindingType]:
    return [key.binding() for key in keys]


def hints(keys: tuple[Key, ...], read_only: bool = False) -> list[Key]:
    """The keys for the line at the bottom."""
    return [key for key in keys if key.hint and not (read_only and key.steers)]
