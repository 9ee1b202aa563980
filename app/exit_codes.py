"""What the program's exit codes mean."""

from enum import IntEnum


class ExitCode(IntEnum):
    OK = 0
    FAILED = 1
    """The run failed: training diverged, a file could not be written."""
    USAGE = 2
    """Wrong arguments, config or data; nothing was started."""
    NO_DEVICE = 3
    """The device asked for is not there, or the run does not fit its memory."""
    LEAK = 4
    NO_SUCH_RUN = 5
    INTERRUPTED = 130
    """SIGINT; the run was saved."""
    PIPE = 141
    """The reader of stdout left before the end."""
    TERMINATED = 143
    """SIGTERM; the run was saved."""


class Stop(Exception):
    """Ends a command with one sentence on stderr and an exit code."""

    def __init__(self, code: ExitCode, message: str) -> None:
        super().__init__(message)
        self.code = code
