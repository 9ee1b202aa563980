"""A clock of CPU seconds that moves only as a test says."""

from __future__ import annotations

import pytest

from app.experiments import training_time


class Clock:
    """CPU seconds as experiments read them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self._monkeypatch = monkeypatch
        monkeypatch.setattr(training_time.gauges, "cpu_seconds", lambda: self.now)

    def costs(self, owner: object, name: str, seconds: float) -> None:
        """Each call of this function of `owner` takes so long from now on."""
        function = getattr(owner, name)

        def call(*arguments):
            self.now += seconds
            return function(*arguments)

        self._monkeypatch.setattr(owner, name, call)


@pytest.fixture
def cpu_clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """`cpu_clock.costs(Trainer, "step", 1.0)`: a step takes a second of CPU time, and nothing else any."""
    return Clock(monkeypatch)
