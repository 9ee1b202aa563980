"""What signals do to a run: end it when it has saved, let it save and go on, or nothing.

SIGINT, SIGTERM               the step in progress is finished and saved, and the run ends
a second one within GRACE_S   does nothing: launchers forward what the terminal has sent to all, and fingers press twice
a third, or one after that    ends the run at once, and says what is lost
SIGUSR1, SIGUSR2, SIGXCPU     warnings of job schedulers: as checkpoint.on_warning says
SIGHUP                        nothing, so that a dropped terminal does not end a run
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator

from app.exit_codes import ExitCode
from lattice.training import checkpoint
from lattice.training.inbox import Order
from lattice.training.state import TrainingState
from monitors.runs import RunFolder
from monitors.text_safety import printable

STOPS = {signal.SIGINT: ExitCode.INTERRUPTED, signal.SIGTERM: ExitCode.TERMINATED}
WARNINGS = {
    signal.SIGUSR1: ExitCode.USER_SIGNAL_1,
    signal.SIGUSR2: ExitCode.USER_SIGNAL_2,
    signal.SIGXCPU: ExitCode.CPU_LIMIT,
}

GRACE_S = 5.0
"""Seconds after the first SIGINT or SIGTERM in which a second one does nothing."""


class SignalHandlers:
    """The handlers of a run's signals.  `clock` gives seconds, and `end` ends the process at once with an exit code."""

    def __init__(
        self,
        folder: RunFolder,
        state: TrainingState,
        clock: Callable[[], float] = time.monotonic,
        end: Callable[[int], object] = os._exit,
    ) -> None:
        self._folder, self._state, self._clock, self._end = folder, state, clock, end
        self._stops, self._first_at = 0, 0.0
        self._saves = False
        self.ended_by: signal.Signals | None = None
        """The signal that ends the run; None if none does."""

    @property
    def code(self) -> ExitCode:
        """The exit code of a run that has saved and ended."""
        return ExitCode.OK if self.ended_by is None else (STOPS | WARNINGS)[self.ended_by]

    def stop(self, number: int, _frame: object) -> None:
        """Handles SIGINT and SIGTERM."""
        received, now = signal.Signals(number), self._clock()
        self._stops += 1
        if self._stops == 1:
            self._first_at = now
            self._request_stop(received)
            say(
                f"{received.name}: step {self._state.progress.step + 1} is finished and saved, then the run ends; a third "
                f"signal, or a second after {GRACE_S:.0f} s, ends it at once, without saving"
            )
        elif self._stops == 2 and now - self._first_at < GRACE_S:
            say(f"{received.name} again: the run is saving and ends; once more ends it at once, without saving")
        else:
            say(f"{received.name}: ended at once; {self._lost()}")
            self._end(int(ExitCode.FAILED))

    def warn(self, number: int, _frame: object) -> None:
        """Handles SIGUSR1, SIGUSR2 and SIGXCPU.  However often they come, they never end a run that has not saved."""
        received = signal.Signals(number)
        if self.ended_by is not None or self._saves:
            return
        if self._state.config.checkpoint.on_warning == "stop":
            self._request_stop(received)
            say(f"{received.name}: step {self._state.progress.step + 1} is finished and saved, then the run ends")
            return
        self._saves = True
        say(f"{received.name}: a checkpoint is saved after this step, and the run goes on")
        self._state.inbox.put(Order("checkpoint", received.name, self._saved))

    def _request_stop(self, received: signal.Signals) -> None:
        if self.ended_by is None:
            self.ended_by = received
            self._state.request_stop(f"stopped by {received.name}")

    def _saved(self, step: int | None, error: str) -> None:
        """Answers the order for a checkpoint.  What went wrong, the checkpointer has told."""
        self._saves = False

    def _lost(self) -> str:
        """What a run loses that ends now, and how it goes on."""
        done, saved = self._state.progress.step, checkpoint.steps(self._folder.checkpoints)
        if not saved:
            return f"all {done} steps are lost, for no checkpoint was saved yet"
        last = saved[0][0]
        lost = f"the {done - last} steps since then are lost" if done > last else "nothing is lost"
        return f"the last checkpoint is of step {last}, and {lost}; lattice-tui train --resume {self._folder.name} goes on"


@contextlib.contextmanager
def handled(folder: RunFolder, state: TrainingState) -> Iterator[SignalHandlers]:
    """Handles the signals of a run within the `with` block."""
    handlers = SignalHandlers(folder, state)
    before = {number: signal.signal(number, handlers.stop) for number in STOPS}
    before |= {number: signal.signal(number, handlers.warn) for number in WARNINGS}
    before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield handlers
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def say(message: str) -> None:
    """Writes a line to stderr, past its buffer: a signal may have come in the middle of another line.

    On a terminal it first clears the line of the progress bar and shows the cursor, which the bar hides.
    """
    with contextlib.suppress(OSError):  # a terminal that is gone
        clear = "\r\x1b[K\x1b[?25h" if os.isatty(2) else ""
        os.write(2, f"{clear}lattice-tui: {printable(message)}\n".encode())
