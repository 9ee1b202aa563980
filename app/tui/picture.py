"""Draws the screen of a run, or the home screen, as an SVG picture, without a terminal."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from app.tui.app import LatticeApp
from app.tui.bridge import Reader
from app.tui.screens.home import HomeScreen
from app.tui.snapshot import View
from app.tui.widgets.panel import Panel
from monitors.runs import RunFolder
from monitors.text_safety import printable

PATIENCE_S = 30.0
"""After this time the picture is drawn as far as the screen has come."""


def view_of(folder: RunFolder) -> View:
    """The run as it stands in its folder now."""
    return Reader(folder, lambda message: None).read_once()


def svg(folder: RunFolder | None, runs_dir: Path, size: tuple[int, int]) -> str:
    """The screen of the run, or the home screen if `folder` is None.  `size` is in columns and rows."""
    return asyncio.run(_draw(folder, runs_dir, size))


async def _draw(folder: RunFolder | None, runs_dir: Path, size: tuple[int, int]) -> str:
    app = LatticeApp(runs_dir, folder, plain=False, still=view_of(folder) if folder else None)
    async with app.run_test(size=size) as pilot:
        until = time.monotonic() + PATIENCE_S
        while not _is_drawn(app) and time.monotonic() < until:
            await pilot.pause(0.02)
        await pilot.pause()
        return app.export_screenshot(title=f"lattice-tui attach {printable(folder.name)}" if folder else "lattice-tui")


def _is_drawn(app: LatticeApp) -> bool:
    """Whether every panel that is shown has its lines, or the home screen has its runs."""
    if isinstance(app.screen, HomeScreen):
        return app.screen.has_listed
    panels = [panel for panel in app.screen.query(Panel) if panel.display]
    return bool(panels) and all(panel.has_lines for panel in panels)
