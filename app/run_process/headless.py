"""The output of a run without screens while it trains: a live line on a terminal, plain lines if piped, or JSON.

Everything for people goes to stderr.  Only JSON goes to stdout.
"""

from __future__ import annotations

import sys
import time
from collections import deque

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text as RichText

from app import formats, streams
from lattice.training.callbacks import Callback
from monitors.events import (
    AnyEvent,
    BadStep,
    Decoded,
    Edited,
    RolledBack,
    RunStarted,
    Saved,
    StageEnded,
    StageStarted,
    Trained,
    Warned,
)
from monitors.text_safety import printable
from presets.live import with_settings
from presets.schema import RunConfig

PLAIN_EVERY_S = 10.0
"""Least seconds between two lines of progress if stderr is no terminal."""

SPEED_WINDOW = 50
"""The speed and the time left are averages over this many steps."""


class WhileHeard(Callback):
    """Passes events on to a callback that writes to stream `descriptor` (1 or 2), for as long as that stream is open.

    A lost terminal or a closed pipe does not stop a run.  From then on, the output goes to /dev/null.
    """

    def __init__(self, voice: Callback, descriptor: int) -> None:
        self._voice: Callback | None = voice
        self._descriptor = descriptor

    def on_event(self, event: AnyEvent) -> None:
        if self._voice is None:
            return
        try:
            self._voice.on_event(event)
        except OSError as error:
            self._voice = None
            streams.lose(self._descriptor)
            if not isinstance(error, BrokenPipeError):  # as of a full disk
                print(f"events can't be written any more: {error.strerror or error}; the run goes on", file=sys.stderr)


class JsonLines(Callback):
    """The callback that prints every event as one line of JSON on stdout."""

    def on_event(self, event: AnyEvent) -> None:
        print(event.model_copy(update={"time": time.time()}).model_dump_json(), flush=True)


class _TimeLeft(ProgressColumn):
    def render(self, task: Task) -> RichText:
        left = task.fields["left"]
        return RichText(f"{formats.duration(left)} left" if left is not None else "")


class Lines(Callback):
    """The callback that reports progress to people on stderr: a bar with the time left on a terminal, else some lines."""

    def __init__(self, config: RunConfig, console: Console | None = None) -> None:
        self._config = config
        self._console = console or Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)
        self._bar: Progress | None = None
        self._times: deque[float] = deque(maxlen=SPEED_WINDOW)
        self._spoken = 0.0
        self._score = formats.judged(config.data.measure, None, None)
        self._stage_start = 0

    def on_event(self, event: AnyEvent) -> None:
        match event:
            case RunStarted():
                verb = "resumed" if event.resumed else "started"
                self._say(f"run {event.run} {verb}: {event.message}")
            case StageStarted():
                self._start_stage(event)
            case Trained():
                self._trained(event)
            case Decoded():
                self._decoded(event)
            case BadStep():
                self._say(f"step {event.step}: {event.reason}; skipped ({event.in_a_row} in a row)")
            case RolledBack():
                self._say(f"step {event.step}: {event.reason}; back to the weights of step {event.to_step}")
            case Warned():
                self._say(f"note: {event.message}")
            case Edited():
                self._edited(event)
            case StageEnded():
                self._stop_bar()
                self._say(f"stage {event.name} ended at step {event.step} ({event.reason})")
            case Saved() if self._bar is None:
                self._say(
                    f"step {event.step}: checkpoint saved ({formats.bytes_(event.bytes)} in {formats.duration(event.seconds)})"
                )

    def close(self) -> None:
        self._stop_bar()

    def _edited(self, event: Edited) -> None:
        change = f": {event.key} {event.old} -> {event.new}" if event.key else ""
        self._say(f"step {event.step}: {event.command} by {event.who}{change}")
        if event.command == "set":
            self._config = with_settings(self._config, {event.key: event.new})

    def _start_stage(self, event: StageStarted) -> None:
        stage = self._config.stages[event.stage]
        self._stage_start = sum(stage.steps for stage in self._config.stages[: event.stage])
        self._say(
            f"stage {event.name}: {formats.shape(event.shape)} = {formats.count(event.cells)} cells, {event.ticks} ticks, "
            f"{event.kernel}; planned memory {formats.bytes_(event.plan_bytes)}, "
            f"micro-batch {event.micro_batch} x {event.accumulation}"
            + (f", segments of {event.checkpoint_ticks} ticks" if event.checkpoint_ticks else "")
        )
        if self._console.is_terminal:
            columns = TextColumn("{task.description}"), BarColumn(24), TextColumn("{task.fields[line]}"), _TimeLeft()
            self._bar = Progress(*columns, console=self._console, refresh_per_second=4, transient=True)
            self._task = self._bar.add_task(event.name, total=stage.steps, line="", left=None)
            self._bar.start()

    def _trained(self, event: Trained) -> None:
        now = time.monotonic()
        self._times.append(now)
        span = self._times[-1] - self._times[0]
        pace = span / (len(self._times) - 1) if len(self._times) > 1 else None
        stage = self._config.stages[event.stage]
        done = event.step - self._stage_start
        left = pace * max(0, stage.steps - done) if pace else None
        line = f"step {event.step}  loss {formats.loss(event.loss)}  {self._score}"
        if pace:
            line += f"  {1000 * pace:.0f} ms/step"
        if self._bar is not None:
            self._bar.update(self._task, completed=done, line=line, left=left)
        elif now - self._spoken >= PLAIN_EVERY_S:
            self._spoken = now
            self._say(f"{line}  {formats.duration(left)} left in stage {stage.name}" if left is not None else line)

    def _decoded(self, event: Decoded) -> None:
        self._score = formats.judged(event.measure, event.bleu, event.exact)
        sample = event.samples[event.step // self._config.decode.every % len(event.samples)]
        loss = f"held-out loss {formats.loss(event.valid_loss)}"
        if event.measure == "bleu":
            self._say(f"step {event.step}: {self._score}, {loss}, exact {event.exact:.0%} of {event.count}")
        else:
            self._say(f"step {event.step}: {self._score} of {event.count} answers, {loss}")
        if event.has_questions:
            self._say(f"  question: {printable(sample.source)}")
            self._say(f"  right:    {printable(sample.reference)}")
            self._say(f"  said:     {printable(sample.said)}")
        else:
            self._say(f"    {printable(sample.reference)}")
            self._say(f" -> {printable(sample.said)}")

    def _stop_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _say(self, line: str) -> None:
        (self._bar.console if self._bar is not None else self._console).print(printable(line), markup=False)
        sys.stderr.flush()
