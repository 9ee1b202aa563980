"""The end of a screen whose terminal is gone: Textual alone would wait to draw on it, and look for its keys, for ever.

A terminal that goes tells its session by SIGHUP, which ends a program.  Where that reaches nobody (`nohup`, no controlling
terminal, a container's shell that died) only asking for it does.  Training runs in a process of its own and goes on.
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
