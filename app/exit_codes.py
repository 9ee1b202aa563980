"""The program's exit codes, and the exception that ends a command with one."""

from enum import IntEnum


class ExitCode(IntEnum):
    """An exit code of the program."""

    OK = 0
    FAILED = 1
    """The run failed: training diverged, a file could not be written, or further signals ended it unsaved."""
    USAGE = 2
    """Wrong arguments, config or data.  Nothing was started."""
    NO_DEVICE = 3
    """The device that was asked for is not there, or the run does not fit its memory."""
    LEAK = 4
    """The soak found a leak."""
    NO_SUCH_RUN = 5
    """There is no such run, or nothing listens for it."""
    INTERRUPTED = 130
    """SIGINT.  The run was saved."""
    USER_SIGNAL_1 = 138
    """SIGUSR1, with checkpoint.on_warning = stop.  The run was saved."""
    USER_SIGNAL_2 = 140
    """SIGUSR2, likewise."""
    PIPE = 141
    """The reader of stdout left before the end."""
    TERMINATED = 143
    """SIGTERM.  The run was saved."""
    CPU_LIMIT = 152
    """SIGXCPU, with checkpoint.on_warning = stop.  The run was saved."""


class Stop(Exception):
    """Ends a command with a message on stderr and an exit code."""

    def __init__(self, code: ExitCode, message: str) -> None:
        super().__init__(message)
        self.code = code
