"""A screen ends with its terminal, also where no signal tells it."""

import os
import pty
import signal
import subprocess
import sys


def test_a_screen_ends_when_its_terminal_is_gone_and_no_signal_says_so(tmp_path):
    master, slave = pty.openpty()
    # A session of its own without a controlling terminal: closing the other end sends no SIGHUP.
    mine = {"XDG_STATE_HOME": str(tmp_path), "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
    screen = subprocess.Popen(
        [sys.executable, "-m", "app.cli"],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        env=os.environ | mine,
    )
    os.close(slave)
    try:
        drawn = b""
        while b"lattice-tui" not in drawn:
            drawn += os.read(master, 65536)
        os.close(master)
        assert screen.wait(60) == 128 + signal.SIGHUP
    finally:
        screen.kill()
        screen.wait()
