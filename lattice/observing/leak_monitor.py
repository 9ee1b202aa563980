"""The leak monitor: looks for leaks while a run trains.  It gives the leak detector a sample at each quiet point.

A quiet point is the end of a step with a look of the decode monitor.  By then, the step has saved, re-clustered and rewired, if
it does so at all.  For that, the leak monitor must be the last of the callbacks.  Samples are compared only if the work is
equal: the same shape, sparsity and profile.
"""

from __future__ import annotations

import torch

from lattice.training.callbacks import Callback
from lattice.training.state import TrainingState
from monitors import torch_memory
from monitors.gauges import Absent
from monitors.leak_detector import Detector

EVERY = 50
"""Fewest steps between two samples.  A sample takes 50 to 100 ms, most of it for garbage collection."""


class LeakMonitor(Callback):
    """The callback that emits LeaksJudged at each sample, and Warned when a meter is first found to leak.

    `detector` may come from an earlier run of this process.  Then its window and its count of steps go on.
    `every` is the fewest steps between two samples.
    """

    def __init__(self, detector: Detector, every: int = EVERY) -> None:
        self.detector, self._every = detector, every
        self._start: float | None = None
        self._last = 0
        self._looked_at = -1
        self._warned: set[str] = set()

    def after_look(self, state: TrainingState, change: torch.Tensor | None) -> None:
        self._looked_at = state.progress.step

    def after_step(self, state: TrainingState) -> None:
        step = state.progress.step
        if self._start is None:
            self._start, self._last = self.detector.step - (step - 1), step - 1
        if self._looked_at != step or step - self._last < self._every:
            return
        self._last = step
        device, stage = state.device, state.stage
        read = {
            "allocated": torch_memory.allocated(device),
            "reserved": torch_memory.reserved(device),
            "driver": torch_memory.driver_used(device),
        }
        found = self.detector.sample(
            self._start + step,
            f"{stage.shape} {stage.sparsity} {stage.profile}",
            {name: value for name, value in read.items() if not isinstance(value, Absent)},
            {"tensors": torch_memory.tensors},
        )
        state.tell(found.model_copy(update=state.here))
        for meter in found.meters:
            if meter.verdict == "leak" and meter.name not in self._warned:
                self._warned.add(meter.name)
                growth = f"{meter.name} grow by {meter.slope:.3g} {meter.unit} a step; `soak` and docs/reliability.md tell more"
                state.warn(f"this process leaks: {growth}")
