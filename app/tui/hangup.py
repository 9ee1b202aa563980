"""How the program ends if it is told so from outside: by a signal, or because its terminal is gone.

A signal leaves the screen as `q` does, so that the terminal is itself again.  If that is not done soon, for example since the
terminal takes no output, the program ends all the same.

Textual alone would try for ever to draw on a terminal that is gone, and to read its keys.  Such a terminal sends SIGHUP to its
session, but SIGHUP does not arrive under `nohup`, without a controlling terminal, or if a container's shell has died.  So a
thread also polls the terminal.  Training runs in a process of its own and goes on.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import sys
import termios
import threading
from collections.abc import Callable

ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
"""Signals that ask a screen to end."""

GRACE_S = 5.0
"""Seconds for the screen to end in order, after a signal."""


def end_on_signals(leave: Callable[[int], None]) -> None:
    """From now on, each of ENDING calls `leave` with its exit code.  Call it in the running event loop of the main thread."""
    loop = asyncio.get_running_loop()
    before = termios.tcgetattr(sys.stdin.fileno()) if sys.stdin and sys.stdin.isatty() else None

    def end(code: int) -> None:
        def now() -> None:
            if before is not None:
                termios.tcsetattr(sys.stdin.fileno(), termios.TCSANOW, before)
            os._exit(code)

        timer = threading.Timer(GRACE_S, now)
        timer.daemon = True
        timer.start()
        leave(code)

    for number in ENDING:
        loop.add_signal_handler(number, end, 128 + number)


def end_with_the_terminal() -> None:
    """From now on this process ends when the terminal on stdin hangs up, with the exit code of SIGHUP."""
    if not (sys.stdin and sys.stdin.isatty()):
        return
    terminal = select.poll()
    terminal.register(sys.stdin.fileno(), 0)  # no news of keys: what is always told is that the other end is closed

    def wait() -> None:
        terminal.poll()
        os._exit(128 + signal.SIGHUP)

    threading.Thread(target=wait, name="hangup", daemon=True).start()


def can_be_resumed() -> bool:
    """Whether a shell with job control waits, which can put a suspended program into the foreground again.

    Such a shell gives each of its commands a process group.  A program that shares the group of its session's leader, as in a
    container, in `ssh -t HOST lattice-tui` or as the first command of a window, would be stopped for good.
    """
    return os.getpgrp() != os.getsid(0)
