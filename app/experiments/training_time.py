"""The CPU seconds that an experiment's run spends on training."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from monitors import gauges


class TrainingTime:
    """Counts the CPU seconds of this process from `begin` on, without those within `left_out`."""

    def __init__(self) -> None:
        self._start = self._left_out = 0.0

    def begin(self) -> None:
        """Training begins now."""
        self._start = gauges.cpu_seconds()

    def so_far(self) -> float:
        """CPU seconds of training so far."""
        return gauges.cpu_seconds() - self._start - self._left_out

    @contextlib.contextmanager
    def left_out(self) -> Iterator[None]:
        """What is done within the `with` block is no training."""
        clock = gauges.cpu_seconds()
        try:
            yield
        finally:
            self._left_out += gauges.cpu_seconds() - clock
