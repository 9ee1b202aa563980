"""A screen ends in order when a signal tells it, and ends with its terminal, also where no signal tells it."""

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator

import pytest

from app.tui import hangup
from app.tui.app import LatticeApp
from app.tui.screens.home import HomeScreen

SCREEN = [sys.executable, "-m", "app.cli"]


class Opened:
    """The home screen in a terminal of 160x50, whose shell exports another size; `master` is the terminal's other end."""

    def __init__(self, state: str) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 50, 160, 0, 0))
        self.attributes = termios.tcgetattr(slave)
        mine = {"XDG_STATE_HOME": state, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", "COLUMNS": "80", "LINES": "24"}
        # A session of its own without a controlling terminal: closing the other end sends no SIGHUP.
        streams = {"stdin": slave, "stdout": slave, "stderr": slave}
        self.screen = subprocess.Popen(SCREEN, **streams, start_new_session=True, env=os.environ | mine)
        os.close(slave)
        self.drawn = b""

    def until(self, shown: bytes) -> None:
        while shown not in self.drawn:
            self.drawn += os.read(self.master, 65536)

    def rest(self) -> bytes:
        """What is drawn until the program has ended."""
        rest = b""
        try:
            while data := os.read(self.master, 65536):
                rest += data
        except OSError:  # EIO: nobody has the other end open any more
            pass
        return rest


@pytest.fixture
def opened(tmp_path) -> Iterator[Opened]:
    opened = Opened(str(tmp_path))
    yield opened
    opened.screen.kill()
    opened.screen.wait()


def test_a_screen_ends_when_its_terminal_is_gone_and_no_signal_says_so(opened):
    opened.until(b"lattice-tui")
    os.close(opened.master)
    assert opened.screen.wait(60) == 128 + signal.SIGHUP


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_leaves_the_terminal_as_it_was(opened, number):
    opened.until(b"lattice-tui")
    assert b"\x1b[?1049h" in opened.drawn
    opened.screen.send_signal(number)
    rest = opened.rest()
    assert opened.screen.wait(60) == 128 + number
    for off in (b"\x1b[?1049l", b"\x1b[?1000l", b"\x1b[?1003l", b"\x1b[?2004l", b"\x1b[?25h"):
        assert off in rest
    assert termios.tcgetattr(opened.master) == opened.attributes
    assert b"Traceback" not in opened.drawn + rest
    os.close(opened.master)


def test_an_exported_size_does_not_go_before_that_of_the_terminal(opened):
    opened.until(b"\x1b[50;1H")  # the row of the keys
    os.close(opened.master)


def test_ctrl_z_without_a_shell_to_come_back_to_says_so(use, tmp_path, monkeypatch):
    sent: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append(number))
    monkeypatch.setattr(hangup, "can_be_resumed", lambda: False)

    async def look(screen):
        await screen.until(lambda: isinstance(screen.app.screen, HomeScreen))
        await screen.press("ctrl+z")
        await screen.until(lambda: [told for told in screen.app._notifications if "no shell here" in told.message])

    use(LatticeApp(tmp_path), (100, 30), look)
    assert sent == []


def test_a_command_of_a_shell_with_job_control_can_be_resumed_and_the_first_of_a_session_can_not(monkeypatch):
    monkeypatch.setattr(os, "getsid", lambda pid: 100)
    monkeypatch.setattr(os, "getpgrp", lambda: 200)
    assert hangup.can_be_resumed()
    monkeypatch.setattr(os, "getpgrp", lambda: 100)
    assert not hangup.can_be_resumed()
