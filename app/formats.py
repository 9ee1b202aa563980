"""The one place that turns numbers into words with units."""

from __future__ import annotations

import time
from pathlib import Path


def bytes_(count: float) -> str:
    """1_234_567 -> "1.23 MB"; GB means 10^9 bytes."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(count) >= size:
            return f"{count / size:.3g} {unit}" if abs(count) < 1000 * size else f"{count / size:.0f} {unit}"
    return f"{count:.0f} B"


def duration(seconds: float) -> str:
    """75.0 -> "1 min 15 s"."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def brief(seconds: float) -> str:
    """A time that may be shorter than a second: 0.0123 -> "12.3 ms"."""
    return f"{1000 * seconds:.3g} ms" if seconds < 0.9995 else duration(seconds)


def moment(seconds: float, pattern: str = "%Y-%m-%d %H:%M") -> str:
    """Unix seconds as local time; "-" for a time outside the calendar, which a damaged file may have."""
    try:
        return time.strftime(pattern, time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return "-"


def count(number: int) -> str:
    """13_500_000 -> "13,500,000"."""
    return f"{number:,}"


def score(value: float | None) -> str:
    """BLEU or chrF, 0..100."""
    return "-" if value is None else f"{value:.1f}"


def loss(value: float | None) -> str:
    """Cross-entropy in nats per token."""
    return "not finite" if value is None else f"{value:.3f}"


def shape(cells: tuple[int, int, int]) -> str:
    return "x".join(map(str, cells))


def path(full: Path) -> str:
    """The path.  Below the home folder it begins with ~, as in a shell."""
    home = Path.home()
    return f"~/{full.relative_to(home)}" if full.is_relative_to(home) and full != home else str(full)
