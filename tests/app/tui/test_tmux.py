"""From end to end in tmux, as an operator does it: start, steer, detach, lose the terminal, come back, stop."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from monitors.event_log import read_events
from monitors.events import Edited, RunEnded, StageStarted, Trained
from monitors.runs import RunFolder, RunFolderError, state_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed here"),
]
PROGRAM = Path(sys.executable).with_name("lattice-tui")
PATIENCE_S = 120.0


class Tmux:
    """One window of a tmux server of its own, whose state of this program lives in a folder of the test's."""

    def __init__(self, place: Path) -> None:
        self._socket = place / "tmux"
        kept = {name: value for name, value in os.environ.items() if name not in ("TMUX", "TMUX_PANE")}
        mine = {"XDG_STATE_HOME": str(place), "LC_ALL": "C.UTF-8", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
        self._environment = kept | mine
        self.runs_dir = place / "lattice-tui" / "runs"

    def say(self, *words: str) -> str:
        command = ["tmux", "-u", "-S", str(self._socket), "-f", os.devnull, *words]
        done = subprocess.run(command, env=self._environment, capture_output=True, encoding="utf-8", timeout=PATIENCE_S)
        return done.stdout

    def open(self, *arguments: str) -> psutil.Process:
        """The program in a new window; its process."""
        self.say("new-session", "-d", "-x", "130", "-y", "40", str(PROGRAM), *arguments)
        return psutil.Process(int(self.say("display-message", "-p", "#{pane_pid}")))

    @property
    def text(self) -> str:
        return self.say("capture-pane", "-p")

    def press(self, *keys: str) -> None:
        self.say("send-keys", *keys)

    def type(self, text: str) -> None:
        self.say("send-keys", "-l", text)

    def until(self, condition: Callable[[], object]):
        end = time.monotonic() + PATIENCE_S
        while not (found := condition()):
            assert time.monotonic() < end, f"took too long; the screen says:\n{self.text}"
            time.sleep(0.05)
        return found

    def shows(self, *patterns: str) -> re.Match[str]:
        """Waits until the screen shows all of these regular expressions; how it shows the last."""
        return self.until(lambda: [re.search(pattern, self.text) for pattern in patterns][-1] if self._has(patterns) else None)

    def _has(self, patterns: tuple[str, ...]) -> bool:
        text = self.text
        return all(re.search(pattern, text) for pattern in patterns)


@pytest.fixture
def tmux(tmp_path: Path) -> Iterator[Tmux]:
    tmux = Tmux(tmp_path)
    yield tmux
    tmux.say("kill-server")
    with contextlib.suppress(RunFolderError, psutil.NoSuchProcess):
        engine = psutil.Process(RunFolder.find(tmux.runs_dir, "last").read_info().pid)
        engine.kill()
        psutil.wait_procs([engine], timeout=10)


def test_a_run_is_started_steered_left_cut_off_and_stopped_without_losing_a_step(tmux, sentences):
    def step() -> int:
        return folder.read_info().step

    home = tmux.open()
    tmux.shows("this machine", "No runs yet", "baseline")
    tmux.press("Enter")
    tmux.shows("Start a run of tiny")
    tmux.type(str(sentences))
    tmux.press("Tab")
    tmux.type("1000000")
    tmux.press("Enter")
    tmux.shows("● running", r"loss \d")
    folder = RunFolder.find(tmux.runs_dir, "last")

    applied = {}
    tmux.press("e")
    tmux.shows("Decode every so many steps")
    tmux.press("BSpace", "BSpace")
    tmux.type("25")
    tmux.press("Enter")
    applied["decode.every", 25] = tmux.shows(r"decode.every = 25: applied at step (\d+)")
    tmux.press("y")
    tmux.shows("Share of connections pruned")
    tmux.press("BSpace")
    tmux.type("0.3")
    tmux.press("Enter")
    applied["stages.0.sparsity", 0.3] = tmux.shows(r"stages.0.sparsity = 0.3: applied at step (\d+)")
    tmux.press("g")
    tmux.shows("Go to which stage")
    tmux.press("Enter")
    applied["stage", 1] = tmux.shows(r"go to stage 1: applied at step (\d+)")

    tmux.press("q")
    tmux.shows("the run goes on")
    tmux.press("d")
    tmux.until(lambda: not home.is_running())
    alone_at = step()
    tmux.until(lambda: step() > alone_at)

    cut_off = tmux.open("attach", "last")
    tmux.shows("● running", r"loss \d", "1 grow")
    tmux.say("kill-server")
    tmux.until(lambda: not cut_off.is_running())
    cut_off_at = step()
    tmux.until(lambda: step() > cut_off_at)
    assert state_of(folder) == "running"

    tmux.open("attach", "last")
    tmux.shows("● running", r"loss \d")
    tmux.press("x")
    tmux.shows("Stop this run")
    tmux.press("s")
    applied["stop", None] = tmux.shows(r"stop: applied at step (\d+)")
    tmux.until(lambda: folder.read_info().exit_code is not None)
    tmux.shows("○ finished")

    log = read_events(folder.events_jsonl)
    assert log.skipped == 0
    steps = [event.step for event in log.events if isinstance(event, Trained)]
    assert steps == list(range(1, len(steps) + 1)) and steps[-1] > cut_off_at
    edits = [event for event in log.events if isinstance(event, Edited)]
    assert [event.command for event in edits] == ["set", "set", "stage goto", "stop"]
    assert [(event.key, event.old, event.new) for event in edits[:2]] == [
        ("decode.every", 10, 25),
        ("stages.0.sparsity", 0.0, 0.3),
    ]
    assert [event.step for event in edits] == [int(match[1]) for match in applied.values()]
    assert all(event.who.endswith("TUI") for event in edits)
    (grown,) = (event for event in log.events if isinstance(event, StageStarted) and event.stage == 1)
    assert grown.step == edits[2].step
    end = log.events[-1]
    assert isinstance(end, RunEnded) and (end.state, end.exit_code, end.step) == ("stopped", 0, steps[-1])
    assert folder.read_info().state == "stopped"
