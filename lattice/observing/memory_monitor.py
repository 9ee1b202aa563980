"""The memory monitor: reports what the training process holds in memory."""

from __future__ import annotations

import torch

from lattice.training.callbacks import Callback
from lattice.training.state import TrainingState
from monitors import gauges, torch_memory
from monitors.events import MemorySampled


class MemoryMonitor(Callback):
    """The callback that emits MemorySampled after the first step and at every look of the decode monitor.

    It must come after the decode monitor.  Otherwise, if the first step has a look, it would report twice.
    """

    def __init__(self) -> None:
        self._has_told = False

    def after_step(self, state: TrainingState) -> None:
        if not self._has_told:
            self._tell(state)

    def after_look(self, state: TrainingState, change: torch.Tensor | None) -> None:
        self._tell(state)

    def _tell(self, state: TrainingState) -> None:
        self._has_told = True
        state.tell(sampled(state.device, state.progress.step, state.progress.stage))


def sampled(device: torch.device, step: int, stage: int) -> MemorySampled:
    """What this process holds now, in bytes.  A count is None if it does not exist, as those of torch on the CPU."""
    host = gauges.host_memory()
    return MemorySampled(
        step=step,
        stage=stage,
        device=str(device),
        device_uuid=torch_memory.uuid(device) or "",
        rss_bytes=host.rss_bytes if host else None,
        allocated_bytes=_known(torch_memory.allocated(device)),
        reserved_bytes=_known(torch_memory.reserved(device)),
        peak_bytes=torch_memory.most_held(device),
    )


def _known(count: int | gauges.Absent) -> int | None:
    return None if isinstance(count, gauges.Absent) else count
