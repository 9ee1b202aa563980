"""A run's screen as an SVG picture, drawn without a terminal."""

from __future__ import annotations

import asyncio
from pathlib import Path

from app.tui.app import LatticeApp
from app.tui.bridge import Reader
from app.tui.snapshot import View
from monitors.runs import RunFolder


def view_of(folder: RunFolder) -> View:
    """The run as its folder tells it now."""
    return Reader(folder, lambda message: None).read_once()


def svg(folder: RunFolder, runs_dir: Path, size: tuple[int, int]) -> str:
    """`size` in columns and rows."""
    return asyncio.run(_draw(folder, runs_dir, size))


async def _draw(folder: RunFolder, runs_dir: Path, size: tuple[int, int]) -> str:
    app = LatticeApp(runs_dir, folder, plain=False, still=view_of(folder))
    async with app.run_test(size=size) as pilot:
        await pilot.pause()
        await pilot.pause()
        return app.export_screenshot(title=f"lattice-tui attach {folder.name}")
