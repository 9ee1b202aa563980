"""Writes the pictures of commands into PNG files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from app.exit_codes import ExitCode, Stop
from app.new_files import check_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check_plot(path: Path | None) -> None:
    """Raises Stop if the picture of `--plot` could not be written to `path`.

    To be called before the measurements, so that none are lost.  None stands for no picture.
    """
    if path is None:
        return
    if path.suffix.lower() != ".png":
        raise Stop(ExitCode.USAGE, f"--plot {path}: the picture is a PNG; name it so")
    check_file("--plot", path)


def save_plot(figure: Figure, path: Path, dpi: int) -> None:
    """Writes the picture of `--plot` as a PNG file.  Raises Stop if that fails."""
    try:
        figure.savefig(path, format="png", dpi=dpi)
    except OSError as error:
        raise Stop(ExitCode.FAILED, f"--plot {path}: {error.strerror or error}") from error
