"""Settings for Textual, which reads them only once, and what the terminal can show.  Imports no Textual."""

from __future__ import annotations

import locale
import os
import sys

DEFAULT_FPS = 30
"""Most frames per second.  The run is read once per second, so this only says how long a key waits for the last frame."""


def prepare(fps: int | None = None) -> None:
    """Sets few frames, no animations and no smooth scrolling.  Settings of the operator stay, but `fps` goes before them."""
    assert fps is None or "textual" not in sys.modules, "Textual has read its settings already"
    _ask_the_terminal_for_its_size()
    if fps is not None:
        os.environ["TEXTUAL_FPS"] = str(fps)
    os.environ.setdefault("TEXTUAL_FPS", str(DEFAULT_FPS))
    os.environ.setdefault("TEXTUAL_ANIMATIONS", "none")
    os.environ.setdefault("TEXTUAL_SMOOTH_SCROLL", "0")


def _ask_the_terminal_for_its_size() -> None:
    """Drops COLUMNS and LINES, which go before the terminal's own size, stay as they are if a shell exports them, and do not
    follow when the terminal is resized.  They stay if the terminal does not know its size, as a serial line."""
    try:
        size = os.get_terminal_size(sys.__stdout__.fileno()) if sys.__stdout__ else None
    except (OSError, ValueError):
        return
    if size and size.columns > 0 and size.lines > 0:
        for name in ("COLUMNS", "LINES"):
            os.environ.pop(name, None)


def is_plain() -> bool:
    """Whether the terminal's encoding has ASCII only."""
    if os.environ.get("LATTICE_TUI_ASCII"):
        return True
    encoding = getattr(sys.__stdout__, "encoding", None) or locale.getpreferredencoding(False)
    try:
        "⣿█─".encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return True
    return False


def has_few_colours() -> bool:
    """Whether the terminal has 16 colours or fewer, according to the environment."""
    if os.environ.get("COLORTERM") in ("truecolor", "24bit") or os.environ.get("TEXTUAL_COLOR_SYSTEM"):
        return os.environ.get("TEXTUAL_COLOR_SYSTEM") == "standard"
    return "256color" not in os.environ.get("TERM", "") and "direct" not in os.environ.get("TERM", "")
