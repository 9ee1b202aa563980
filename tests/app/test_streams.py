"""The program says what it can, and no more, if stdout or stderr is full, closed, or lost."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from app import streams
from app.run_process.headless import WhileHeard

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = f"{sys.executable} -m app.cli"


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-c", line], cwd=ROOT, capture_output=True, text=True, env=os.environ | environment)


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("arguments", ["--version", "--help", "runs", "presets"])
def test_output_that_can_not_be_written_ends_a_command_with_one_sentence(arguments, unbuffered):
    done = shell(f"{PROGRAM} {arguments} > /dev/full", PYTHONUNBUFFERED=unbuffered)
    assert (done.returncode, done.stderr) == (1, "lattice-tui: the output can't be written: no space left on device\n")


def test_a_full_stderr_takes_nothing_from_a_command():
    assert shell(f"{PROGRAM} nosuch 2> /dev/full").returncode == 2
    assert shell(f"{PROGRAM} --version > /dev/full 2> /dev/full").returncode == 1


def test_messages_for_a_closed_stderr_do_not_appear_on_stdout():
    done = shell(f"{PROGRAM} nosuch 2>&-")
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize("closed", ["0<&-", ">&-", "2>&-", "0<&- >&- 2>&-"])
def test_a_file_never_gets_the_number_of_a_closed_stream(closed, tmp_path):
    """Otherwise what is printed, by C libraries too, would be written into a checkpoint."""
    file = tmp_path / "file"
    code = f"from app import streams; streams.prepare(); file = open({str(file)!r}, 'w'); print(file.fileno(), file=file)"
    code += "; import sys; print('said'); print('said', file=sys.stderr)"
    assert shell(f'{sys.executable} -c "{code}" {closed}').returncode == 0
    assert int(file.read_text()) > 2


def test_a_run_goes_on_when_its_events_can_not_be_written_and_says_so(capsys, monkeypatch):
    class Full:
        def on_event(self, event):
            raise OSError(errno.ENOSPC, "No space left on device")

    watch = WhileHeard(Full(), 1)
    lost = []
    monkeypatch.setattr(streams, "lose", lost.append)
    watch.on_event(None)
    watch.on_event(None)
    assert lost == [1]
    assert capsys.readouterr().err == "events can't be written any more: No space left on device; the run goes on\n"
