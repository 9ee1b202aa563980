"""Watches one process for leaks: takes a sample at each quiet point, judges all samples, and names what grows.

A suspect is a kind of object whose count has risen since the window began: tensors by shape, descriptors by kind, threads by
name.  For Python's memory, a suspect is the line that allocates it.  tracemalloc finds it: it is switched on when Python's
memory grows (or from the start, by option), read twice, and switched off.
"""

from __future__ import annotations

import gc
import os
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from monitors import leaks, meters
from monitors.events import LeaksJudged, MeterVerdict
from monitors.leaks import METERS, Judged, Meter, Window

SITES_FIRST, SITES_LAST = 2, 8
"""Samples after tracing began at which allocations are read.  What has grown in between is the suspect."""

MOST_KINDS = 256
"""Most kinds of a census that are kept."""

SMALL_BYTES = 512
"""Python's own allocator serves requests up to this size, and the C heap larger ones (SMALL_REQUEST_THRESHOLD in obmalloc)."""

NUMPY_CACHED_BYTES, NUMPY_CACHED_ARRAYS = 1024, 7
"""Numpy's cache holds arrays below this many bytes, and this many of each size (numpy/_core/src/multiarray/alloc.c)."""

SHOWN = 3
"""Most suspects that are named."""

PYTHON_MEMORY = ("python objects", "heap", "rss", "uss")

Census = Callable[[], Counter[str]]


@dataclass(frozen=True)
class Buffer:
    """A component's own buffer: `held` gives the bytes of each of its items, `most` is how many items it may have.

    A buffer that fills up to its bound is no leak, so its bytes and objects are subtracted from the meters.  Beyond its bound
    it leaks.
    """

    held: Callable[[], Sequence[int]]
    most: int


@dataclass
class _Tracing:
    """The state of tracing with tracemalloc."""

    always: bool
    since: int | None = None
    first: dict[str, int] = field(default_factory=dict)
    taken: int = 0
    """Number of Python objects in `first`."""
    suspects: tuple[str, ...] = ()


class Detector:
    """Turns readings and censuses into verdicts.

    `others` are further processes to meter, by name; each gives its pid, or None if it does not run.
    """

    def __init__(
        self,
        buffers: Mapping[str, Buffer] | None = None,
        others: Mapping[str, Callable[[], int | None]] | None = None,
        trace: bool = False,
        warm_up: int = leaks.WARM_UP,
    ) -> None:
        self._buffers, self._others = dict(buffers or {}), dict(others or {})
        self._tracing = _Tracing(trace)
        self._before: dict[str, Counter[str]] = {}
        self.step = 0.0
        """The step of the latest sample."""
        self._samples, self.latest = 0, LeaksJudged(samples=0, verdict="measuring", meters=())
        own = [Meter(f"buffer {name}", "count", 1) for name in self._buffers]
        for name in self._others:
            # Of another process only its pages can be read: they confirm one another, above their floors.
            own += [
                Meter(f"{name} rss", "bytes", 16 * leaks.MIB, (f"{name} uss",)),
                Meter(f"{name} uss", "bytes", 16 * leaks.MIB, (f"{name} rss",)),
            ]
        self.window = Window((*METERS, *own), warm_up)
        leaks.judge(METERS[0], range(leaks.WINDOW), [0.0] * leaks.WINDOW)  # what this imports is no growth of the run's
        _fill_numpys_cache()

    def join(self, name: str, buffer: Buffer) -> None:
        """Adds a component's buffer.  It replaces one of the same name, as from an earlier run in this process."""
        self._buffers[name] = buffer
        if f"buffer {name}" not in {meter.name for meter in self.window.meters}:
            self.window.join(Meter(f"buffer {name}", "count", 1))

    def sample(self, step: float, work: str, more: Mapping[str, float], censuses: Mapping[str, Census]) -> LeaksJudged:
        """Takes a sample at a quiet point, and returns the verdict.

        `more` are readings that this package can't take itself.  `censuses` count objects by kind; their totals are readings,
        too.  Garbage is collected first, since what waits for collection is no leak.
        """
        gc.collect()
        _clear_type_cache()
        self._samples, self.step = self._samples + 1, step
        known: dict[str, Census] = {"descriptors": meters.descriptors, "threads": meters.threads, **censuses}
        counted = {name: census() for name, census in known.items()}
        readings = meters.readings() | dict(more)
        readings |= {name: float(sum(counted[name].values())) for name in censuses}
        for name, buffer in self._buffers.items():
            held = buffer.held()
            readings[f"buffer {name}"] = max(0, len(held) - buffer.most)
            small = sum(size <= SMALL_BYTES for size in held)
            large = sum(size for size in held if size > SMALL_BYTES)
            _subtract(readings, {"rss": sum(held), "uss": sum(held), "heap": large, "python objects": small})
        traces = tracemalloc.get_tracemalloc_memory()
        _subtract(readings, {"rss": traces, "uss": traces, "heap": traces, "python objects": self._tracing.taken})
        for name, pid in self._others.items():
            if (number := pid()) is not None:
                readings |= {f"{name} {key}": value for key, value in meters.readings(number).items()}
        if not self._before and self.window.warm:
            self._before = {name: Counter(dict(kinds.most_common(MOST_KINDS))) for name, kinds in counted.items()}
        self.window.add(step, work, readings)
        judged = self.window.judge()
        self._trace(judged)
        found = tuple(self._told(each, counted, judged) for each in judged)
        self.latest = LeaksJudged(samples=len(self.window), verdict=leaks.worst([m.verdict for m in found]), meters=found)
        return self.latest

    def close(self) -> None:
        """Stops tracing if it is on."""
        if self._tracing.since is not None:
            tracemalloc.stop()
            self._tracing.since = None

    def _told(self, judged: Judged, counted: Mapping[str, Counter[str]], among: Sequence[Judged]) -> MeterVerdict:
        name = judged.meter.name
        fields = {"name": name, "unit": judged.meter.unit, "value": judged.value, "verdict": judged.verdict}
        fields |= {"slope": judged.slope, "low": judged.low, "growth": judged.growth}
        suspect = self._suspect(name, counted, among) if judged.verdict in ("suspicious", "leak") else ""
        return MeterVerdict(**fields, suspect=suspect)

    def _suspect(self, name: str, counted: Mapping[str, Counter[str]], among: Sequence[Judged]) -> str:
        if name in counted:
            return self._grown(name, counted[name])
        if name in ("allocated", "reserved", "driver", "heap", "rss", "uss") and "tensors" in counted:
            tensors = next((each for each in among if each.meter.name == "tensors"), None)
            if tensors is not None and tensors.verdict == "leak":
                return "tensors " + self._grown("tensors", counted["tensors"])
        return ", ".join(self._tracing.suspects) if name in PYTHON_MEMORY else ""

    def _grown(self, name: str, now: Counter[str]) -> str:
        more = (now - self._before.get(name, Counter())).most_common(SHOWN)
        return ", ".join(f"{kind} (+{count})" for kind, count in more)

    def _trace(self, judged: Sequence[Judged]) -> None:
        """Switches tracemalloc on if Python's memory grows and no suspect is known, and off once it has named one."""
        state = self._tracing
        if state.since is None:
            grows = any(each.verdict in ("suspicious", "leak") for each in judged if each.meter.name in PYTHON_MEMORY)
            if not state.suspects and (state.always or grows) and not tracemalloc.is_tracing():
                tracemalloc.start()
                state.since = self._samples
            return
        passed = self._samples - state.since
        if passed == SITES_FIRST:
            before = _blocks()
            state.first = _sites()
            state.taken = _blocks() - before
        elif passed == SITES_LAST:
            more = Counter(_sites())
            more.subtract(state.first)
            state.suspects = tuple(f"{site} (+{size} B)" for site, size in more.most_common(SHOWN) if size > 0)
            state.first, state.taken = {}, 0
            self.close()


def _subtract(readings: dict[str, float], taken: Mapping[str, int]) -> None:
    """Takes away from the readings what is known to be no leak."""
    for name in taken.keys() & readings.keys():
        readings[name] -= taken[name]


def _clear_type_cache() -> None:
    """Empties Python's cache of attribute lookups, up to 4096 names, many of them strings made for a single lookup from C."""
    if hasattr(sys, "_clear_internal_caches"):  # Python 3.13, which deprecates the other
        sys._clear_internal_caches()
    else:
        sys._clear_type_cache()


def _fill_numpys_cache() -> None:
    """Fills numpy's cache, which keeps up to 7 freed arrays of every size below 1 KiB, 3.6 MB in all.

    A window that gets longer with each sample needs arrays of new sizes.  That takes half a megabyte of the C heap, which would
    look like a leak.
    """
    import numpy as np

    for size in range(1, NUMPY_CACHED_BYTES):
        _ = [np.empty(size, np.uint8) for _ in range(NUMPY_CACHED_ARRAYS)]


def _blocks() -> int:
    """Blocks in use of Python's allocator, without those that wait to be collected."""
    gc.collect()
    _clear_type_cache()
    return sys.getallocatedblocks()


def _sites() -> dict[str, int]:
    """Live bytes by the line that allocated them since tracing began, without tracemalloc's own."""
    snapshot = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(False, tracemalloc.__file__)])
    lines = snapshot.statistics("lineno")
    return {_site(line.traceback[0]): line.size for line in lines}


def _site(frame: tracemalloc.Frame) -> str:
    return f"{os.sep.join(frame.filename.split(os.sep)[-3:])}:{frame.lineno}"
