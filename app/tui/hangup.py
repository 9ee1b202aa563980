"""Ends the program when its terminal is gone.  Textual alone would try for ever to draw on it and to read its keys.

A terminal that goes away sends SIGHUP to its session, and that ends a program.  SIGHUP does not arrive under `nohup`, without a
controlling terminal, or if a container's shell has died.  So a thread also polls the terminal.  Training runs in a process of
its own and goes on.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading


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
