"""Starting an engine that outlives whoever started it: a process in a session of its own, its words in RUN/engine.log.

The launcher hands the engine the writing end of a pipe; the engine says the run's folder through it when the run is up and
can be watched, and turns its output to the log.  What goes wrong before that is the launcher's to tell.  Torch-free.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from app import child
from app.exit_codes import ExitCode, Stop
from monitors.plain_files import open_descriptor
from monitors.runs import RunFolder

READY_FD = "LATTICE_TUI_READY_FD"
"""Environment variable with the number of the pipe's writing end."""


def launch(arguments: list[str], runs_dir: Path) -> RunFolder:
    """Starts `lattice-tui train ARGUMENTS` on its own and returns the run's folder once it is up, some seconds later.

    `arguments` are options of `train` without --runs-dir and --detach.  Raises Stop with the engine's own words and exit code
    where it refuses to begin.
    """
    command = child.command("app.cli", "train", *arguments, "--runs-dir", os.fspath(runs_dir.absolute()))
    reading, writing = os.pipe()
    with tempfile.TemporaryFile() as said, os.fdopen(reading, encoding="utf-8", errors="surrogateescape") as ready:
        try:
            engine = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
                pass_fds=(writing,),
                env=child.environment(**{READY_FD: str(writing)}),
            )
        except OSError as error:
            raise Stop(ExitCode.FAILED, f"the engine can't be started: {error.strerror or error}") from error
        finally:
            os.close(writing)
        try:
            place = ready.read()  # until the engine closes its end, or dies
        except BaseException:  # an interrupt: nobody would know of a run that comes up now
            engine.kill()
            engine.wait()
            raise
        if place:
            # Where the launcher lives on, as the terminal interface does, its ended engines must not stay zombies.
            threading.Thread(target=engine.wait, name=f"engine {engine.pid}", daemon=True).start()
            return RunFolder(Path(place))
        code = engine.wait()
        said.seek(0)
        words = said.read().decode("utf-8", errors="replace").strip().splitlines()
    why = "\n".join(line.removeprefix("lattice-tui: ") for line in words[-20:]) or f"the engine ended with {code} at once"
    raise Stop(ExitCode(code) if code in set(ExitCode) and code else ExitCode.FAILED, why)


def report_ready(folder: RunFolder) -> None:
    """In the engine: tells the launcher, if there is one, that the run is up, and writes to the run's log from here on."""
    descriptor = os.environ.pop(READY_FD, "")
    if not descriptor.isdecimal():
        return
    sys.stdout.flush()
    sys.stderr.flush()
    log = open_descriptor(folder.engine_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    with os.fdopen(int(descriptor), "wb") as ready, contextlib.suppress(BrokenPipeError):  # a launcher that is gone
        ready.write(os.fsencode(folder.path.absolute()))
        ready.flush()
