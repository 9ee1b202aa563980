"""The load that a soak puts on a run besides training: a screen in a terminal, viewers, commands and nonsense.

A thread of its own talks to the engine over its socket, as any other process would.  Unexpected failures are kept in `errors`.
It is no failure if the run ends in the middle of an act.
"""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from app import child
from app.terminal import Terminal, TerminalError
from app.wire.client import ClientError, Connection, Watch, send
from monitors.runs import RunFolder, RunFolderError, list_runs

PAUSE_S = 0.25
"""Mean time between two acts."""

MOST_ERRORS = 100
"""At most this many errors are kept, since a list that grows for days would look like a leak."""

SCREEN_BACK_S = 10.0
"""Pause before the next try if no screen could be attached, for example between two runs."""

WHO = "soak"


class Load:
    """Acts on the newest run of `runs_dir` from `start` to `stop`.  Without `chaos` it only keeps a screen attached."""

    def __init__(self, runs_dir: Path, chaos: bool, seed: int) -> None:
        self._runs_dir, self._chaos = runs_dir, chaos
        self._draw = random.Random(seed)
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._act, name="soak", daemon=True)
        self._screen: Terminal | None = None
        self._watched: Path | None = None
        self._tried = -SCREEN_BACK_S
        self.acts: dict[str, int] = {}
        self.errors: list[str] = []

    def screen_pid(self) -> int | None:
        """The process of the attached screen; None if there is none."""
        return self._screen.program.pid if self._screen is not None else None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._leaving.set()
        self._thread.join()
        self._end_screen()

    def _act(self) -> None:
        acts: list[Callable[[RunFolder], None]] = [self._watch, self._leave_at_once, self._nonsense, self._refused]
        acts += [
            self._edit,
            self._edit,
            self._pause,
            self._command("decode"),
            self._command("checkpoint"),
            self._hold,
            self._wound,
        ]
        while not self._leaving.wait(self._draw.uniform(0, 2 * PAUSE_S)):
            folder = self._newest()
            if folder is None:
                continue
            self._keep_screen(folder)
            if not self._chaos:
                continue
            act = self._draw.choice(acts)
            try:
                act(folder)
                self.acts[act.__name__] = self.acts.get(act.__name__, 0) + 1
            except (ClientError, OSError) as error:
                if self._newest() is not None and not self._leaving.is_set() and _is_up(folder):
                    self._wrong(f"{act.__name__.strip('_')}: {error}")

    def _newest(self) -> RunFolder | None:
        """The newest run, if its engine listens already."""
        with contextlib.suppress(RunFolderError):
            for row in list_runs(self._runs_dir)[:1]:
                folder = RunFolder(Path(row["path"]))
                return folder if _is_up(folder) else None
        return None

    def _wrong(self, what: str) -> None:
        if len(self.errors) < MOST_ERRORS:
            self.errors.append(what)

    # The screen

    def _keep_screen(self, folder: RunFolder) -> None:
        """Keeps one screen attached while the run lasts, and throws away what it has drawn."""
        if self._screen is not None:
            self._screen.forget()
            if self._screen.program.poll() is None:
                return
            if self._watched == folder.path:
                self._wrong(f"the screen ended with {self._screen.program.returncode}")
            self._end_screen()
        if time.monotonic() - self._tried < SCREEN_BACK_S:
            return
        self._tried, self._watched = time.monotonic(), folder.path
        command = child.command("app.cli", "attach", str(folder.path))
        environment = child.environment(TERM="xterm-256color", COLORTERM="truecolor")
        try:
            self._screen = Terminal(command, 160, 50, environment)
        except (OSError, TerminalError) as error:
            self._wrong(f"no screen: {error}")

    def _end_screen(self) -> None:
        if self._screen is not None:
            self._screen.__exit__()
            self._screen = None

    # Acts

    def _watch(self, folder: RunFolder) -> None:
        with Watch(folder, recent=self._draw.choice((0, 16, 256)), timeout_s=10.0) as updates:
            for _, seen in zip(range(self._draw.randrange(1, 20)), updates, strict=False):
                if self._leaving.is_set() or seen.event.kind == "run_ended":
                    return

    def _leave_at_once(self, folder: RunFolder) -> None:
        for connection in [Connection(folder, 10.0) for _ in range(self._draw.randrange(1, 6))]:
            connection.close()

    def _nonsense(self, folder: RunFolder) -> None:
        """Sends bytes that are no frame.  The engine should hang up, and nothing else should happen."""
        path = folder.read_info().socket
        if path is None:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
            channel.settimeout(10.0)
            channel.connect(path)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                channel.sendall(self._draw.randbytes(self._draw.choice((1, 100, 10_000))) + b"\n")
                while channel.recv(65536):
                    pass

    def _refused(self, folder: RunFolder) -> None:
        for key, value in (("decode.evry", 3), ("run.seed", 1), ("decode.every", -1)):
            if self._send(folder, "set", {"key": key, "value": value}):
                self._wrong(f"set {key}={value} was obeyed")

    def _edit(self, folder: RunFolder) -> None:
        stage = folder.read_info().stage
        key, values = self._draw.choice(
            (
                ("optimizer.learning_rate", (1e-3, 2e-3, 3e-3)),
                ("optimizer.clip", (0.5, 1.0)),
                ("decode.samples", (2, 6)),
                ("checkpoint.every", (40, 80)),
                (f"stages.{stage}.activity_threshold", (0.01, 0.02)),
                (f"stages.{stage}.sparsity", (0.3, 0.4)),
                (f"stages.{stage}.rewiring.regrow", ("activity", "gradient", "random")),
                (f"stages.{stage}.profile", ("learning", "consolidation")),
            )
        )
        self._send(folder, "set", {"key": key, "value": self._draw.choice(values)})

    def _pause(self, folder: RunFolder) -> None:
        self._send(folder, "pause", {})
        self._leaving.wait(PAUSE_S)
        self._send(folder, "resume", {})

    def _hold(self, folder: RunFolder) -> None:
        self._send(folder, "stage", {"action": "hold"})
        self._send(folder, "stage", {"action": "release"})

    def _wound(self, folder: RunFolder) -> None:
        self._send(folder, "wound", {"wound": "connections:0.1"})
        if self._draw.random() < 0.5:
            self._send(folder, "heal", {"by": "stdp", "waves": 2})
        self._send(folder, "heal", {})  # the wounds of a lattice in which no cell fires, which STDP can't heal, would add up

    def _command(self, name: str) -> Callable[[RunFolder], None]:
        def act(folder: RunFolder) -> None:
            self._send(folder, name, {})

        act.__name__ = name
        return act

    def _send(self, folder: RunFolder, command: str, args: dict[str, Any]) -> bool:
        return send(folder, command, args, WHO, timeout_s=120.0).ok


def _is_up(folder: RunFolder) -> bool:
    with contextlib.suppress(RunFolderError):
        info = folder.read_info()
        return info.socket is not None and info.state in ("running", "paused")
    return False


@contextlib.contextmanager
def loaded(load: Load) -> Iterator[Load]:
    load.start()
    try:
        yield load
    finally:
        load.stop()
