"""`bench tui`, really, with windows that are as short as can be; and that nothing of it is left when it is interrupted."""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import sys

import psutil
import pytest

from app.bench.screens import ScreenRow
from app.terminal import Terminal, TerminalError

SMALL = ("--preset", "tiny", "--set", "run.threads=1", "--starts", 1, "--keys", 9, "--pairs", 1, "--seconds", 3)


@pytest.mark.slow
def test_every_quantity_is_measured_with_its_unit_and_target(process, tmp_path):
    with process(tmp_path, "bench", "tui", *SMALL, "--events", 4000, "--json") as bench:
        bench.popen.wait(900)
        told = bench.wait()
    assert told.code == 0, told.err
    assert set(told.json) == {"machine", "copy_gbps", "preset", "rows"} and told.json["copy_gbps"] > 0
    rows = {row["name"]: row for row in told.json["rows"]}
    assert {name: (row["unit"], row["count"]) for name, row in rows.items()} == {
        "python -c pass": ("ms", 1),
        "--help": ("ms", 1),
        "home screen's first frame": ("ms", 1),
        "key to visible change": ("ms", 9),
        "training, no screen attached": ("steps/s", 2),
        "training, a screen attached": ("steps/s", 1),
        "attached / not attached": ("ratio", 1),
        "screen's CPU": ("% of a core", 1),
        "bytes to the terminal": ("KiB/s", 1),
        "screen's memory over the events": ("MB", 2),
        "its growth over their second half": ("MB", 1),
    }
    for name, row in rows.items():
        assert row["min"] <= row["median"] <= row["p99"] <= row["max"], row
        assert row["min"] > 0 or name == "its growth over their second half", row
        assert (row["met"] is None) == (not row["at_most"] and not row["at_least"])
    assert rows["python -c pass"]["min"] < rows["home screen's first frame"]["max"]
    assert rows["key to visible change"]["at_most"] == {"median": 50, "p99": 150}


@pytest.mark.slow
def test_an_interrupted_bench_ends_its_engine_and_removes_its_folder(process, tmp_path, monkeypatch):
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))

    def engines() -> list[psutil.Process]:
        found = []
        for child in psutil.Process(bench.popen.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # it has ended since
                found += [child] * ("train" in child.cmdline())
        return found

    with process(tmp_path, "bench", "tui", *SMALL, "--keys", 10_000) as bench:
        (engine,) = bench.until(engines)
        bench.until(lambda: list(place.glob("lattice-tui-bench-*/*/run.json")))
        os.kill(bench.popen.pid, signal.SIGINT)
        told = bench.wait()
    assert told.code == 130 and "signal" in told.err
    assert not engine.is_running() and not list(place.iterdir())


def test_a_row_keeps_its_targets_or_says_that_it_does_not():
    row = ScreenRow.of("x", "ms", [3.0, 1.0, 2.0], at_most={"median": 2.0, "p99": 2.5})
    assert (row.count, row.median, row.p99, row.min, row.max, row.met) == (3, 2.0, 3.0, 1.0, 3.0, False)
    assert ScreenRow.of("x", "ms", [1.0], at_most={"median": 1.0}).met is True
    assert ScreenRow.of("x", "ratio", [0.97], at_least={"median": 0.98}).met is False
    assert ScreenRow.of("x", "ms", [1.0]).met is None
    numbers = [float(n) for n in range(1, 101)]
    assert ScreenRow.of("x", "ms", numbers).p99 == 99.0 and ScreenRow.of("x", "ms", numbers).median == statistics.median(
        numbers
    )


def test_a_terminal_finds_text_across_colours_and_says_what_came_instead():
    program = "import sys; print('\\x1b[31mone \\x1b[1;38;5;9mtwo\\x1b[0m', flush=True); print(sys.stdin.readline()[::-1])"
    with Terminal([sys.executable, "-c", program], 80, 24, os.environ) as terminal:
        assert terminal.until("one two") > terminal.started
        pressed, chunk = terminal.press(b"abc\n")
        assert terminal.until("cba", chunk) >= pressed
        assert terminal.ended() and terminal.drawn_bytes(0.0, pressed) > len("one two")
        with pytest.raises(TerminalError, match=r"the program has ended.*one"):
            terminal.until("three")
