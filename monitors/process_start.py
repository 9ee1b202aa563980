"""Tells processes apart by what no clock moves: the kernel's count of ticks between the boot and the start of a process."""

from __future__ import annotations

from pathlib import Path

import psutil

_START_TOLERANCE_S = 2.0
"""Most seconds between two readings of one process's start time in unix seconds, which derives from the clock."""

_START_TIME = 19
"""The field `starttime` of /proc/PID/stat, counted from the one after the command's name (proc(5) calls it the 22nd)."""


def start_of(pid: int) -> str:
    """The boot and the tick at which a process started, as `BOOT:TICKS`; "" if there is no such process, or no /proc.

    No other process has the same pid and the same start, and setting the clock does not change them.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}:{int(fields[_START_TIME])}"
    except (OSError, ValueError, IndexError):
        return ""


def is_alive(pid: int, start: str, started: float) -> bool:
    """True if the process is there, is no zombie, and is the one that started then.

    `start` is what `start_of` said of it.  If it is "", as in old records, `started` decides, psutil's create_time.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        now = start_of(pid) if start else ""
        return now == start if now else abs(process.create_time() - started) <= _START_TOLERANCE_S
    except (psutil.NoSuchProcess, ValueError, OverflowError):
        return False
    except psutil.AccessDenied:  # it is there, and hidden from us
        return True
