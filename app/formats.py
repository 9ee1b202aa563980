"""Formats numbers as text with units.  All of the program's output uses these functions."""

from __future__ import annotations

import time
from pathlib import Path

from monitors.places import home
from presets.measure import Measure, score_by


def bytes_(count: float) -> str:
    """A number of bytes: 1_234_567 -> "1.23 MB".  GB means 10^9 bytes."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(count) >= size:
            return f"{count / size:.3g} {unit}" if abs(count) < 1000 * size else f"{count / size:.0f} {unit}"
    return f"{count:.0f} B"


def duration(seconds: float) -> str:
    """A time in seconds: 75.0 -> "1 min 15 s"."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def brief(seconds: float) -> str:
    """A time in seconds that may be less than one: 0.0123 -> "12.3 ms"."""
    return f"{1000 * seconds:.3g} ms" if seconds < 0.9995 else duration(seconds)


def moment(seconds: float, pattern: str = "%Y-%m-%d %H:%M") -> str:
    """Unix seconds as local time.  "-" if no calendar has that time, as in a damaged file."""
    try:
        return time.strftime(pattern, time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return "-"


def count(number: int) -> str:
    """A whole number with commas: 13_500_000 -> "13,500,000"."""
    return f"{number:,}"


def score(value: float | None) -> str:
    """BLEU or chrF, from 0 to 100; "-" for None."""
    return "-" if value is None else f"{value:.1f}"


def judged(measure: Measure, bleu: float | None, exact: float | None) -> str:
    """The score that a run is judged by, with the name of its measure: "BLEU 60.0", or "exact 87.5%" for exact answers.

    `bleu` is 0..100 and `exact` 0..1.  "-" takes the place of a score that was not taken.
    """
    taken = score_by(measure, bleu, exact)
    return f"BLEU {score(taken)}" if measure == "bleu" else "exact -" if taken is None else f"exact {taken:.1f}%"


def loss(value: float | None) -> str:
    """Cross-entropy in nats per token; "not finite" for None."""
    return "not finite" if value is None else f"{value:.3f}"


def shape(cells: tuple[int, int, int]) -> str:
    """The shape of a lattice: (16, 16, 16) -> "16x16x16"."""
    return "x".join(map(str, cells))


def path(full: Path) -> str:
    """A path.  If it is below the home folder, it begins with ~, as in a shell."""
    at_home = home()
    if at_home is None or full == at_home or not full.is_relative_to(at_home):
        return str(full)
    return f"~/{full.relative_to(at_home)}"
