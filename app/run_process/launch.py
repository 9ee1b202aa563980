"""Starts an engine that outlives its launcher.  It has a session of its own, and its output goes to RUN/engine.log.

The launcher gives the engine the writing end of a pipe.  When the run is up and can be watched, the engine writes the path of
the run's folder into the pipe, and from then on its output goes to the log.  If something goes wrong before that, the launcher
reports it.  Torch-free.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path

from app import child
from app.exit_codes import ExitCode, Stop
from monitors.plain_files import open_descriptor
from monitors.runs import RunFolder

READY_FD = "LATTICE_TUI_READY_FD"
"""The environment variable with the descriptor of the pipe's writing end."""


def launch(arguments: list[str], runs_dir: Path) -> RunFolder:
    """Starts `lattice-tui train ARGUMENTS` in a session of its own.  Returns the run's folder when it is up, seconds later.

    `arguments` are options of `train` other than --runs-dir and --detach.  If the run can't begin, raises Stop with the
    engine's own message and exit code.
    """
    command = child.command("app.cli", "train", *arguments, "--runs-dir", os.fspath(runs_dir.absolute()))
    reading, writing = os.pipe()
    output_file = os.memfd_create("engine output")  # in memory, since there may be no folder for temporary files
    with os.fdopen(output_file, "w+b") as output, os.fdopen(reading, encoding="utf-8", errors="surrogateescape") as ready:
        try:
            engine = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                pass_fds=(writing,),
                env=child.environment(**{READY_FD: str(writing)}),
            )
        except OSError as error:
            raise Stop(ExitCode.FAILED, f"the engine can't be started: {error.strerror or error}") from error
        finally:
            os.close(writing)
        try:
            run_path = ready.read()  # until the engine closes its end, or dies
        except BaseException:  # an interrupt: nobody would know of a run that comes up now
            engine.kill()
            engine.wait()
            raise
        if run_path:
            # If the launcher lives on, as the terminal interface does, engines that ended must not stay zombies.
            threading.Thread(target=engine.wait, name=f"engine {engine.pid}", daemon=True).start()
            return RunFolder(Path(run_path))
        code = engine.wait()
        output.seek(0)
        words = output.read().decode("utf-8", errors="replace").strip().splitlines()
    why = "\n".join(line.removeprefix("lattice-tui: ") for line in words[-20:]) or f"the engine ended with {code} at once"
    raise Stop(ExitCode(code) if code in set(ExitCode) and code else ExitCode.FAILED, why)


def report_ready(folder: RunFolder) -> None:
    """Reports to the launcher that the run is up.  From here on, output goes to the run's log.

    To be called in the engine.  Does nothing if there is no launcher.
    """
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
