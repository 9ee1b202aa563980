"""What the terminal is told and asked before Textual is imported, which reads these settings only once.  Imports no Textual."""

from __future__ import annotations

import locale
import os
import sys

DEFAULT_FPS = 30
"""Frames a second at most.  The run is read once a second, so this only says how long a key waits for the frame before it."""


def prepare(fps: int | None = None) -> None:
    """Few frames, no animations, no smooth scrolling; what the operator has set stays."""
    assert fps is None or "textual" not in sys.modules, "Textual has read its settings already"
    if fps is not None:
        os.environ["TEXTUAL_FPS"] = str(fps)
    os.environ.setdefault("TEXTUAL_FPS", str(DEFAULT_FPS))
    os.environ.setdefault("TEXTUAL_ANIMATIONS", "none")
    os.environ.setdefault("TEXTUAL_SMOOTH_SCROLL", "0")


def is_plain() -> bool:
    """Whether the terminal's encoding knows ASCII only."""
    if os.environ.get("LATTICE_TUI_ASCII"):
        return True
    encoding = getattr(sys.__stdout__, "encoding", None) or locale.getpreferredencoding(False)
    try:
        "⣿█─".encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return True
    return False


def has_few_colours() -> bool:
    """Whether the terminal has 16 colours or fewer, as far as it says."""
    if os.environ.get("COLORTERM") in ("truecolor", "24bit") or os.environ.get("TEXTUAL_COLOR_SYSTEM"):
        return os.environ.get("TEXTUAL_COLOR_SYSTEM") == "standard"
    return "256color" not in os.environ.get("TERM", "") and "direct" not in os.environ.get("TERM", "")
