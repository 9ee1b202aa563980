"""A recorded run, a live one, a view of fixed numbers, and the rows of characters that a screen shows."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from monitors.runs import RunFolder

PATIENCE_S = 60.0


class Screen:
    """What tests do with a running app."""

    def __init__(self, app, pilot) -> None:
        self.app, self.pilot = app, pilot

    @property
    def rows(self) -> list[str]:
        strips = self.app.screen._compositor.render_strips()
        return ["".join(segment.text for segment in strip).rstrip() for strip in strips]

    @property
    def text(self) -> str:
        return "\n".join(self.rows)

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.pilot.pause()

    async def until(self, condition: Callable[[], object]) -> None:
        """Waits for it; fails, showing the screen, where it does not come true."""
        end = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < end, f"took too long; the screen says:\n{self.text}"
            await self.pilot.pause(0.02)

    async def shows(self, *words: str) -> None:
        await self.until(lambda: all(word in self.text for word in words))


@pytest.fixture
def use() -> Callable[..., None]:
    """`use(app, size, test)` runs the app without a terminal, and the test on it."""

    def run(app, size: tuple[int, int], test: Callable[[Screen], Awaitable[None]]) -> None:
        async def session() -> None:
            async with app.run_test(size=size) as pilot:
                await test(Screen(app, pilot))

        asyncio.run(session())

    return run


@pytest.fixture(scope="session")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def recorded(cli, sentences: Path, runs_dir: Path) -> RunFolder:
    """A finished run of `tiny`: 20 steps, two stages, looks at steps 5, 10, 15 and 20."""
    told = cli(
        *("train", "--preset", "tiny", "--data", sentences, "--device", "cpu", "--steps", "20"),
        *("--set", "decode.every=5", "--runs-dir", runs_dir),
    )
    assert told.code == 0, told.err
    return RunFolder.find(runs_dir, "last")


@pytest.fixture
def live(sentences: Path, tmp_path: Path):
    """A run of `tiny` that trains on until it is told to stop, in a process of its own."""
    from app.run_process.launch import launch

    options = ["--preset", "tiny", "--data", str(sentences), "--device", "cpu", "--steps", "100000"]
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        folder = launch(options, tmp_path / "runs")
    finally:
        os.environ.pop("OMP_NUM_THREADS") if before is None else os.environ.update(OMP_NUM_THREADS=before)
    yield folder
    with contextlib.suppress(psutil.NoSuchProcess):
        engine = psutil.Process(folder.read_info().pid)
        engine.kill()
        with contextlib.suppress(ChildProcessError, psutil.TimeoutExpired):
            engine.wait(10)


@pytest.fixture
def fixed_view(monkeypatch: pytest.MonkeyPatch):
    """A view whose every number is written here: stage 1 of `tiny` under way after 40 steps."""
    import math

    from app.tui.fold import fold
    from app.tui.snapshot import Host, Position, Snapshot, View
    from monitors import events as e
    from monitors.gauges import Absent
    from monitors.runs import RunInfo
    from monitors.volumes import CellField, Volume
    from presets.layers import load
    from presets.plan import plan

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    config, start = load("tiny").config, 1_795_329_000.0
    happened: list[e.AnyEvent] = [
        e.RunStarted(time=start, run="20261122-063056-tiny", resumed=False, message="270 sentences to train on, 30 held out")
    ]
    puppy, beds = "She feeds the puppy near the barn.", "There are six beds in the attic."
    escaped = "A \x1b[31mred\x1b[0m [bold]word[/bold]"
    samples = (
        e.Sample(source=puppy, reference=puppy, said="She feeds the kitten near the barn.", bleu=59.5),
        e.Sample(source=beds, reference=beds, said=beds, bleu=100.0),
        e.Sample(source=escaped, reference=escaped, said=""),
    )
    for index, stage in enumerate(config.stages):
        kernel = "tick kernel: native (C, fp32)"
        sizes = {"plan_bytes": 410_528_032, "micro_batch": 16, "accumulation": 1, "cells": math.prod(stage.shape)}
        here = {"time": start + 30 * index, "step": 30 * index, "stage": index, "name": stage.name}
        about = {"shape": stage.shape, "ticks": stage.ticks, "kernel": kernel, "carried": index > 0}
        happened.append(e.StageStarted(**here, **about, **sizes))
        for step in range(30 * index + 1, 31 if index == 0 else 41):
            here = {"time": start + step, "step": step, "stage": index}
            values = {"loss": 6.0 * math.exp(-step / 30) + 0.2 * math.sin(step), "grad_norm": 1.0}
            happened.append(
                e.Trained(**here, **values, learning_rate=0.003 * min(1, step / 5), step_s=0.020 + 0.001 * (step % 3))
            )
            if step % 10 == 0:
                scores = {"bleu": 1.5 * step, "chrf": 2.0 * step, "exact": step / 100, "valid_loss": 5.0 - step / 20}
                shares = {"active_share": 0.9, "gradient_share": 1.0, "seconds": 0.1, "peak_bytes": 0}
                about = {"count": 64, "signature": "nrefs:1", "samples": samples, "best": True}
                happened.append(e.Decoded(**here, **scores, **shares, **about))
            if step in (1, 10, 20, 30, 40):
                counts = {"rss_bytes": 510_000_000, "allocated_bytes": None, "reserved_bytes": None, "peak_bytes": 600_000_000}
                happened.append(e.MemorySampled(**here, device="cpu", device_uuid="", **counts))
        if index == 0:
            happened.append(e.Saved(time=start + 30, step=30, path="step-30", seconds=0.1, bytes=1_234_567, best=True))
            happened.append(e.StageEnded(time=start + 30, step=30, name=stage.name, reason="steps"))
    cells = bytes(min(255, 32 * z + 8 * x + y) for x in range(6) for y in range(6) for z in range(8))
    labels = bytes(x // 2 + 3 * (z // 4) for x in range(6) for _ in range(6) for z in range(8))
    fields = CellField("activity", cells, 0.031), CellField("cluster", labels)
    volume = Volume(40, 1, (6, 6, 8), (6, 6, 8), fields)
    about = {"file": "volumes/step-00000040.volume", "fields": ("activity", "cluster"), "shape": (6, 6, 8), "bytes": 200}
    happened.append(e.VolumeSaved(time=start + 40, step=40, stage=1, **about))
    by = {"who": "ada (pid 7), TUI", "command": "set", "key": "decode.every", "old": 10, "new": 5}
    happened.append(e.Edited(time=start + 40, step=40, stage=1, **by))
    info = RunInfo(
        **{"run": "20261122-063056-tiny", "preset": "tiny", "created": start, "host": "vm", "pid": 7, "pid_started": start},
        **{
            "version": "0",
            "state": "running",
            "stage": 1,
            "step": 40,
            "elapsed_s": 75.0,
            "cpu_s": 70.0,
            "peak_bytes": 600_000_000,
        },
    )
    host = Host(512_000_000, 20_000_000_000, 25_300_000_000, 82_000_000_000, Absent("NVML Shared Library Not Found"))
    snapshot = fold(Snapshot(), happened)
    position = Position(len(happened), len(happened))
    view = View("/runs/tiny", "20261122-063056-tiny", snapshot, info, "running", config, plan(config), host)
    return replace(view, volume=volume, position=position)


@pytest.fixture
def task_view(fixed_view):
    """A view of `walker` after 100 steps: questions with answers, and the answers after each word of one of them."""
    from app.tui.fold import fold
    from app.tui.snapshot import Snapshot
    from monitors import events as e
    from presets.layers import load
    from presets.plan import plan

    config, start = load("walker").config, fixed_view.info.created
    walk = "west south north east south west north north west south south west north east south south"
    samples = (
        e.Sample(source=walk, reference="workshop", said="workshop"),
        e.Sample(source="north south north", reference="pantry", said="kitchen"),
        e.Sample(source="east \x1b[31mred", reference="hall", said=""),
    )
    said = ["kitchen", "workshop", "hall", "library", "bathroom", "nursery", "pantry", "kitchen"] * 2
    words = tuple(
        e.AfterWord(word=word, said=answer, right=i % 3 > 0)
        for i, (word, answer) in enumerate(zip(walk.split(), said, strict=True))
    )
    happened: list[e.AnyEvent] = []
    for step in range(1, 101):
        here = {"time": start + step, "step": step}
        happened.append(e.Trained(**here, loss=4 / step, grad_norm=1.0, learning_rate=0.003, step_s=0.05))
        if step % 50 == 0:
            scores = {"bleu": 0.0, "chrf": 0.5 * step, "exact": step / 160, "valid_loss": 2.0 - step / 100}
            shares = {"active_share": 0.9, "gradient_share": 1.0, "seconds": 0.1, "peak_bytes": 0}
            about = {"count": 64, "signature": "nrefs:1", "samples": samples, "best": True, "measure": "exact"}
            happened.append(e.Decoded(**here, **scores, **shares, **about, after_each_word=words))
    info = fixed_view.info.model_copy(update={"step": 100, "stage": 0, "preset": "walker", "measure": "exact"})
    name = "20261122-063056-walker"
    snapshot = fold(Snapshot(), happened)
    return replace(fixed_view, name=name, snapshot=snapshot, info=info, config=config, plans=plan(config), volume=None)


@pytest.fixture
def lit_view(fixed_view):
    """The fixed view after a clustering, plasticity and a rewiring."""
    from app.tui.fold import fold
    from monitors import events as e

    here = {"time": fixed_view.snapshot.last_time, "step": 40, "stage": 1}
    sizes = {"count": 6, "sizes": (120, 90, 40, 20, 12, 6), "merged": 1}
    formed = e.Clustered(**here, **sizes, silhouette=0.214, stability=0.83, seconds=0.8)
    counts = {"updates": 10, "potentiated": 5_000, "depressed": 3_000, "unchanged": 92_000, "active_share": 0.5}
    theta = (0.0, 0.1, 0.2, 0.3, 0.9)
    changed = e.Plastic(
        **here, **counts, theta=theta, mean_change=1.5e-4, message_change=0.023, skipped_share=0.25, seconds=0.01
    )
    fan_in = (0, 0, 12, 40, 200, 36)
    rewired = [e.Rewired(**here, pruned=pruned, regrown=10, sparsity=0.7, fan_in=fan_in, seconds=0.1) for pruned in (30, 20)]
    return replace(fixed_view, snapshot=fold(fixed_view.snapshot, [formed, changed, *rewired]))
