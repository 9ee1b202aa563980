"""The engine: trains one run, from its config to its last event.

It makes the run folder or takes up an old one, and holds its lock.  It writes `run.json`, `events.jsonl`, volumes and
checkpoints.  It lets others watch and steer.  On signals it saves (app.run_process.signals).
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from app import planning
from app.exit_codes import ExitCode, Stop
from app.finding import run_config
from app.run_process import launch, signals
from app.run_process.about_data import about_data, about_scores
from app.run_process.prepare import prepare
from app.run_process.record import Record
from app.version import VERSION
from app.wire.feed import Feed
from app.wire.protocol import RECENT
from app.wire.server import Server
from lattice.data.batches import TokenizedCorpus, corpus_tokenizer
from lattice.data.corpus import Corpus
from lattice.data.tokenizer import Tokenizer
from lattice.kernels.native import KernelUnavailable
from lattice.observing.decode_monitor import DecodeMonitor
from lattice.observing.leak_monitor import LeakMonitor
from lattice.observing.measuring import Measuring, device_name
from lattice.observing.memory_monitor import MemoryMonitor
from lattice.observing.plasticity_monitor import PlasticityMonitor
from lattice.observing.volume_monitor import VolumeMonitor
from lattice.training import changes, checkpoint
from lattice.training.build import build_trainer
from lattice.training.callbacks import Callback
from lattice.training.checkpointer import Checkpointer
from lattice.training.health import Recovery
from lattice.training.progress import Progress
from lattice.training.state import TrainingState
from lattice.training.trainer import Trainer, TrainingFailed
from monitors import measured
from monitors.event_log import EventLog
from monitors.events import Decoded, RunEnded, RunStarted
from monitors.held_folder import HeldFolder
from monitors.leak_detector import Buffer, Detector
from monitors.plain_files import atomic_write
from monitors.runs import RunFolder, RunFolderError, RunInfo, why
from monitors.text_safety import printable
from monitors.volumes import Volumes
from presets.layers import to_toml
from presets.schema import RunConfig


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended, and its folder."""

    folder: RunFolder
    code: ExitCode
    reason: str
    final: Decoded | None = None
    """The scores of a finished run on all held-out sentences."""

    trained: bool = True
    """False if nothing was left to train."""


def start(
    config: RunConfig, preset: str, runs_dir: Path, callbacks: list[Callback], leaks: LeakMonitor | None = None
) -> RunOutcome:
    """Trains a new run to its end.  Raises Stop if it can't begin.

    A process that trains several runs passes one leak monitor, `leaks`, to all of them.  Otherwise the run makes its own.
    """
    device, corpus = prepare(config)
    tokenizer = _tokenizer(corpus, config.text.vocabulary)
    folder = None
    try:
        folder = RunFolder.create(runs_dir, preset, time.time())
        own = {"run": folder.name, "preset": preset, "created": time.time(), "version": VERSION}
        info = RunInfo.of_this_process(**own, folder=folder.identity(), measure=config.data.measure)
        folder.config_toml.write_text(to_toml(config), encoding="utf-8")
        folder.write_info(info)
    except (RunFolderError, OSError) as error:
        if folder is not None:
            shutil.rmtree(folder.path, ignore_errors=True)
        raise Stop(ExitCode.FAILED, f"the run folder can't be written: {why(error)}") from error
    return _train(_Job(folder, info, config, corpus, tokenizer, device, callbacks, leaks=leaks))


_latest_tokenizer: dict[tuple[str, int], Tokenizer] = {}


def _tokenizer(corpus: Corpus, vocabulary: int) -> Tokenizer:
    """The tokenizer of the corpus.  If it would equal that of this process's last run, that one is used again.

    For every tokenizer that has encoded a corpus, the library keeps about 0.5 MB for ever.
    """
    key = (corpus.fingerprint(), vocabulary)
    if key not in _latest_tokenizer:
        _latest_tokenizer.clear()
        _latest_tokenizer[key] = corpus_tokenizer(corpus, vocabulary)
    return _latest_tokenizer[key]


def resume(folder: RunFolder, config: RunConfig, callbacks: list[Callback]) -> RunOutcome:
    """Continues a run from its newest complete checkpoint, to its end.  A finished run stays as it is.

    If the config names another place for the same text, it replaces the run's.  Raises Stop if the run can't be resumed, or if
    its text has changed.
    """
    device, corpus = prepare(config)
    try:
        saved, passed_over = checkpoint.load_newest(folder.checkpoints)
        info, progress = folder.read_info(), Progress.from_json(saved.state["progress"])
        same = {name: getattr(info, name) for name in ("preset", "created", "parent")}
        own = RunInfo.of_this_process(
            **same, run=folder.name, folder=folder.identity(), version=VERSION, measure=config.data.measure
        )
    except (checkpoint.CheckpointError, RunFolderError, OSError, KeyError, TypeError, ValueError) as error:
        raise Stop(ExitCode.FAILED, f"{folder.name} can't be resumed: {error}") from error
    if saved.state.get("data") != corpus.fingerprint():
        raise Stop(
            ExitCode.USAGE,
            f"{corpus.name}: the text has changed since {folder.name} was started; a resumed run needs the same data "
            f"(`lattice-tui fork {folder.name} --data PATH` begins a new run from it with other text)",
        )
    if info.state == "finished" and progress.finished(len(config.stages)):
        launch.report_ready(folder)
        return RunOutcome(folder, ExitCode.OK, "all stages are done", trained=False)
    for reason in passed_over:
        print(f"passed over a checkpoint: {printable(reason)}", file=sys.stderr)
    return _train(_Job(folder, own, config, corpus, Tokenizer.from_json(saved.tokenizer), device, callbacks, saved))


@dataclass(frozen=True)
class _Job:
    """A run that is to be trained: its folder, and all that it needs."""

    folder: RunFolder
    info: RunInfo
    config: RunConfig
    corpus: Corpus
    tokenizer: Tokenizer
    device: torch.device
    callbacks: list[Callback]
    saved: checkpoint.LoadedCheckpoint | None = None
    """The checkpoint to go on from; None for a new run."""
    leaks: LeakMonitor | None = None
    """The leak monitor of a process that trains several runs; None if this run makes its own."""


@dataclass(frozen=True)
class _Run:
    """The objects that work on one run until it ends."""

    trainer: Trainer
    text: TokenizedCorpus
    record: Record
    monitor: DecodeMonitor
    checkpointer: Checkpointer
    warnings: tuple[str, ...]
    """Warnings that are emitted when the log has begun."""


@dataclass(frozen=True)
class _Ending:
    code: ExitCode
    state: str
    reason: str
    final: Decoded | None = None


def _train(job: _Job) -> RunOutcome:
    with contextlib.ExitStack() as stack:
        run = _assemble(job, stack)
        received = stack.enter_context(signals.handled(job.folder, run.trainer.state))
        ending = _conduct(job, run, received)
        _conclude(run, ending)
        return RunOutcome(job.folder, ending.code, ending.reason, ending.final)


def _assemble(job: _Job, stack: contextlib.ExitStack) -> _Run:
    """Locks the folder, opens the log, builds the trainer, and opens the socket for others.

    The stack undoes all of it.  Raises Stop if the run can't begin.
    """
    folder, config, device = job.folder, job.config, job.device
    try:
        stack.enter_context(folder.lock())
        held = stack.enter_context(contextlib.closing(HeldFolder(folder)))
        if job.saved is not None and run_config(folder) != config:  # its text was moved
            atomic_write(folder.config_toml, to_toml(config))
        log = stack.enter_context(contextlib.closing(EventLog(folder.events_jsonl)))
    except RunFolderError as error:
        raise Stop(ExitCode.FAILED, str(error)) from error
    except OSError as error:
        reason = f"{error.filename or folder.events_jsonl} can't be written: {error.strerror or error}"
        raise Stop(ExitCode.FAILED, reason) from error
    feed = Feed()
    record = Record(held, log, job.info, feed)
    try:
        text = TokenizedCorpus.of(job.corpus, config, job.tokenizer)
        checkpointer = Checkpointer(folder.checkpoints, job.corpus.fingerprint())
        monitor, recovery, volumes = DecodeMonitor(), Recovery(folder.checkpoints), VolumeMonitor(folder.volumes)
        watching: list[Callback] = [monitor, PlasticityMonitor(), volumes, MemoryMonitor(), recovery]
        leaks = job.leaks
        if leaks is None:
            if (remembered := measured.place()) is not None:
                watching.append(Measuring(remembered))  # not with several runs, whose peaks would be taken for this one's
            leaks = LeakMonitor(stack.enter_context(contextlib.closing(Detector())))
        leaks.detector.join("feed", Buffer(feed.held, RECENT))
        trainer = build_trainer(
            config,
            text,
            device,
            [*watching, checkpointer, leaks],  # leaks comes last, when the step has done everything else
            before=[record, *job.callbacks],
            planning=planning.for_training(config, device.type, device_name(device)),
            recovery=recovery,
        )
        state = trainer.state
        if job.saved is not None:
            changes.resume(state, job.saved.model, job.saved.optimizer, job.saved.state)
            log.rewind(state.progress.step, state.progress.edits)
            Volumes(folder.volumes).rewind(state.progress.step)
        server = Server(folder, feed, state.inbox, lambda: record.info.state)

        def follow() -> str | None:
            checkpointer.move(folder.checkpoints)
            recovery.move(folder.checkpoints)
            volumes.move(folder.volumes)
            server.move()
            return server.path

        record.when_moved = follow
        no_socket = server.start()
        stack.callback(server.close)
        record.update(socket=server.path)
    except (OSError, RunFolderError, RuntimeError, ValueError, TypeError, KeyError) as error:
        failure = device_failure(error, device)
        if failure is None and isinstance(error, RuntimeError) and not isinstance(error, KernelUnavailable):
            raise
        code, reason = (ExitCode.NO_DEVICE, failure) if failure else (ExitCode.FAILED, why(error))
        with contextlib.suppress(OSError, RunFolderError):
            record.update(state="failed", reason=reason, exit_code=int(code), socket=None)
        raise Stop(code, f"{folder.name} can't be trained: {reason}") from error
    warnings = (*filter(None, [no_socket]), *about_data(job.corpus, text), *about_scores(state))
    return _Run(trainer, text, record, monitor, checkpointer, warnings)


def _conduct(job: _Job, run: _Run, received: signals.SignalHandlers) -> _Ending:
    """Trains until the run finishes, stops or fails."""
    trainer, state = run.trainer, run.trainer.state
    try:
        launch.report_ready(job.folder)
        state.tell(_run_started(state, job))
        for message in run.warnings:
            state.warn(message)
        ended, final = trainer.run(), None
        run.record.follow_folder(state)
        if ended == "stopped":
            run.checkpointer.save(state)
            if run.record.follow_folder(state):  # it was moved during the save
                run.checkpointer.save(state)
        else:
            final = run.monitor.look(state, len(run.text.valid))
        if run.checkpointer.failure:
            return _Ending(ExitCode.FAILED, "failed", run.checkpointer.failure, final)
        return _Ending(received.code, ended, state.stop_request or "all stages are done", final)
    except (TrainingFailed, RunFolderError) as error:
        return _Ending(ExitCode.FAILED, "failed", str(error))
    except RuntimeError as error:
        failure = device_failure(error, job.device, f", with {state.micro_batch} sentence(s) at once")
        if failure is None:
            raise
        return _Ending(ExitCode.NO_DEVICE, "failed", failure)
    except OSError as error:
        reason = f"{error.filename or job.folder.path}: {error.strerror or error}"
        return _Ending(ExitCode.FAILED, "failed", reason)


def _conclude(run: _Run, ending: _Ending) -> None:
    """Writes the last event and the last `run.json`.  If that fails, as on a full disk, stderr says why."""
    state = run.trainer.state
    try:
        state.tell(RunEnded(state=ending.state, reason=ending.reason, exit_code=int(ending.code), **state.here))
        run.record.follow(state, state=ending.state, reason=ending.reason, exit_code=int(ending.code), socket=None)
    except (OSError, RunFolderError) as error:
        if str(error) != ending.reason:  # of a folder that is gone, the reason tells
            print(f"the end of the run could not be recorded: {why(error)}", file=sys.stderr)


def device_failure(error: Exception, device: torch.device, at: str = "") -> str | None:
    """Describes an error in one sentence if memory ran out or the GPU failed; None for any other error.

    `at` is put after "out of memory on DEVICE".
    """
    message = str(error).strip().partition("\n")[0]
    if isinstance(error, torch.OutOfMemoryError):
        return f"out of memory on {device}{at}: {message}"
    # The GPU fell off the bus, was reset, or is too full for CUDA's own libraries.  Only a new process can use it after that.
    if isinstance(error, torch.AcceleratorError) or (isinstance(error, RuntimeError) and "CUDA error" in message):
        return f"{device} stopped working: {message}; the last checkpoint stands, and --resume goes on from it"
    return None


def _run_started(state: TrainingState, job: _Job) -> RunStarted:
    corpus = job.corpus
    message = f"{len(corpus.train)} sentences to train on, {len(corpus.valid)} held out, from {corpus.name}"
    return RunStarted(run=job.folder.name, resumed=job.saved is not None, message=message, **state.here)
