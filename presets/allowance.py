"""What this process may use of the machine: cores and memory, under the limits of its container or job.

Control groups limit memory and processor time, and nothing else on the machine shows it: a container sees all cores and all
memory of its host, and is killed when it takes them.  Version 1 and 2 of control groups are read.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc/self")


@dataclass(frozen=True)
class MemoryLimit:
    """The lowest limit of the control groups that this process is in, and the fewest bytes that one of them has left."""

    limit_bytes: int
    free_bytes: int


def threads(configured: int) -> int:
    """The number of CPU threads of a run: `configured` (run.threads), if it is not 0.

    Otherwise OMP_NUM_THREADS; or else the cores that this process may use, at most as many as its quota of processor time.
    """
    return configured or _asked_for() or cores()


def cores() -> int:
    """The cores that this process may use, by its affinity and by the quota of its control groups (rounded up)."""
    here = len(os.sched_getaffinity(0))
    quotas = [math.ceil(quota) for group, version in _groups("cpu") if (quota := _quota(group, version)) is not None]
    return max(1, min([here, *quotas]))


def memory_limit() -> MemoryLimit | None:
    """The limit of memory that control groups set to this process; None if there is none."""
    found = [limit for group, version in _groups("memory") if (limit := _limit(group, version)) is not None]
    if not found:
        return None
    return MemoryLimit(min(limit.limit_bytes for limit in found), min(limit.free_bytes for limit in found))


def _asked_for() -> int:
    """OMP_NUM_THREADS, of which a list has one number per nesting level; 0 if it is no such number."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(first) if first.isdecimal() else 0


def _quota(group: Path, version: int) -> float | None:
    """The processor time per time of a group, in cores."""
    if version == 2:
        quota, _, period = _text(group / "cpu.max").partition(" ")
    else:
        quota, period = _text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us")
    whole, part = _number(quota), _number(period)
    return whole / part if whole and part else None  # "max", "-1", or no such file


def _limit(group: Path, version: int) -> MemoryLimit | None:
    """The limit of one group.  What it holds of files that nobody has used lately can be dropped, and counts as free."""
    limit = _number(_text(group / ("memory.max" if version == 2 else "memory.limit_in_bytes")))
    if limit is None or limit >= 2**60:  # version 1 writes a huge number for "none"
        return None
    used = _number(_text(group / ("memory.current" if version == 2 else "memory.usage_in_bytes"))) or 0
    fields = dict(line.split(" ", 1) for line in _text(group / "memory.stat").splitlines() if " " in line)
    dropped = _number(fields.get("inactive_file" if version == 2 else "total_inactive_file", "")) or 0
    return MemoryLimit(limit, max(0, limit - max(0, used - dropped)))


def _groups(controller: str) -> Iterator[tuple[Path, int]]:
    """The folders of the control groups that this process is in, from its own up to the root, each with its version."""
    paths = dict[str, str]()
    for line in _text(PROC / "cgroup").splitlines():
        _, names, group = [*line.split(":", 2), "", ""][:3]
        paths.update({name: group for name in names.split(",")})  # version 2 has no names
    for line in _text(PROC / "mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        mount, kind = before.split(" "), after.split(" ")
        if len(mount) < 5 or len(kind) < 3 or not kind[0].startswith("cgroup"):
            continue
        version = 2 if kind[0] == "cgroup2" else 1
        path = paths.get("" if version == 2 else controller)
        if path is None or (version == 1 and controller not in kind[2].split(",")):
            continue
        yield from ((group, version) for group in _upwards(Path(mount[4]), mount[3], path))


def _upwards(mount: Path, root: str, path: str) -> Iterator[Path]:
    """The group `path` and its parents, as far as they are below the folder `mount`, which shows the hierarchy from `root`.

    In a container, `path` may be that of the host, where `mount` shows the container's own group: then that alone is left.
    """
    inside = os.path.relpath(path, root) if (path + "/").startswith(root.rstrip("/") + "/") else "."
    group = mount / inside
    while not group.is_dir() and group != mount:
        group = group.parent
    yield group
    while group != mount:
        group = group.parent
        yield group


def _text(path: Path) -> str:
    """A file without its last newline; empty if it can't be read."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() else None
