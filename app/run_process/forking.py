"""Forking: makes a new run that begins from a checkpoint of another one, its parent, with some settings changed.

    parent   ---- step 100 ----------------- step 400
    fork          step 100 ~~~~~~~ its own

The folder of the fork gets

- the parent's events and volumes up to the checkpoint, so that its curves and slices show their past,
- an `edited` event for every change,
- the checkpoint, with the changes in it,
- `config.toml`, with all settings as they are from there on.

From then on, the fork is a run that was stopped at that step.  To train it is to resume it.  Without changes, it goes on like
its parent, bit for bit.

Two kinds of settings can't be changed: those that shape the checkpoint's tensors, and those of a stage that is over.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app import configure
from app.exit_codes import ExitCode, Stop
from app.finding import find_run, run_config
from app.run_process import prepare
from app.run_process.record import standing
from app.version import VERSION
from lattice.data.batches import TokenizedCorpus
from lattice.data.corpus import Corpus
from lattice.data.text_tasks import clean
from lattice.data.tokenizer import Tokenizer
from lattice.training import changes as on_the_way
from lattice.training import checkpoint
from lattice.training.build import build_trainer
from lattice.training.progress import Progress
from lattice.training.state import TrainingState
from monitors.event_log import EventLog
from monitors.events import Edited, RunStarted
from monitors.plain_files import atomic_write, open_plain
from monitors.runs import RunFolder, RunFolderError, RunInfo, why
from monitors.volumes import Volumes
from presets import layers
from presets.layers import ConfigError, to_toml
from presets.live import live_settings, with_settings
from presets.measure import score_by, ties
from presets.schema import RunConfig

BUILT_IN = (
    "text.", "lattice.channels", "lattice.port_channels", "lattice.arm", "lattice.gru_width", "rule.kind", "rule.hidden",
    "rule.scope",
)  # fmt: skip
"""Settings that shape a checkpoint's tensors, that its tokenizer comes from, or that its text parts were trained for."""

BUILT_INTO_STAGE = ("shape", "strides.x", "strides.y", "strides.z", "clustering.clusters", "clustering.clustering_integration")

SETS_MEMORY = ("training.", "run.", "optimizer.name", "rule.update_probability")
"""Settings by which the micro-batch and the segments were chosen."""

STARTS = (
    "lattice.memory_ticks", "lattice.port_start", "connections.start", "connections.noise", "connections.bias_local",
    "connections.bias_distant",
)  # fmt: skip
"""Settings that only decide how a lattice starts.  After its start, a growth alone may draw by them again."""

NEVER_AGAIN = ("lattice.memory_ticks", "lattice.port_start", "connections.start")
"""Those of STARTS that no growth draws by, because it carries all cells over."""

END_RULE = ("steps", "until_loss", "until_plateau")


@dataclass(frozen=True)
class Changes:
    """What a fork changes: `--set` assignments, options that stand for a setting, and the steps of the whole run."""

    assignments: tuple[str, ...] = ()
    given: configure.Given | None = None
    steps: int | None = None


@dataclass(frozen=True)
class ForkPoint:
    """Where a fork begins: the parent's checkpoint, and the config that was in effect when it was saved."""

    parent: RunFolder
    saved: checkpoint.LoadedCheckpoint
    progress: Progress
    config: RunConfig

    @property
    def name(self) -> str:
        return f"{self.parent.name}@{self.progress.step}"


def make_fork(name: str, changes: Changes, runs_dir: Path) -> RunFolder:
    """Makes the folder of a run that begins from `RUN`, `RUN@STEP` or `RUN@best`.  It is ready to be resumed.

    Raises Stop if there is no such run or checkpoint, if the changes are not possible, or if the folder can't be written.
    """
    start = find_start(name, runs_dir)
    config = changed(start, changes)
    reopened = _ends_otherwise(start, config)
    current = start.progress.stage + (1 if start.progress.stage_over and not reopened else 0)
    if current >= len(config.stages) or (not reopened and start.progress.finished(len(config.stages))):
        raise Stop(
            ExitCode.USAGE,
            f"{start.name} is the end of its last stage, and nothing is left to train; give it more with --steps "
            f"(it has done {start.progress.step})",
        )
    edits = _edits(start, config)
    _hold(start, config, edits, current)
    configure.require_text(config, f"lattice-tui fork {name}", start.parent.name)
    device, corpus = prepare.prepare(config)
    _not_seen(start, config, corpus)

    text = TokenizedCorpus.of(corpus, config, Tokenizer.from_json(start.saved.tokenizer))
    state = build_trainer(config, text, device).state
    try:
        saved = start.saved.state | {"live": live_settings(config)}
        on_the_way.resume(state, start.saved.model, start.saved.optimizer, saved)
    except ValueError as error:
        raise Stop(ExitCode.USAGE, f"{start.name} can't begin with these settings: {error}") from error
    on_the_way.reach_sparsity(state)
    if reopened:
        state.progress.reopen_stage()
    if any(edit.key.startswith(SETS_MEMORY) for edit in edits):
        state.progress.settle_memory(None, None)
    if corpus.fingerprint() != start.saved.state.get("data"):
        state.progress.score_anew()
    state.progress.note_edits(len(edits))
    return _write(start, config, edits, state, corpus.fingerprint(), runs_dir)


def find_start(name: str, runs_dir: Path) -> ForkPoint:
    """The run and the checkpoint that `RUN[@STEP]` names.

    Raises Stop if there is no such run or checkpoint; the message names the checkpoints that there are.
    """
    run, at, wanted = name.rpartition("@")
    if not (at and run and (wanted.isdecimal() or wanted == "best")):
        run, wanted = name, ""
    parent = find_run(runs_dir, run)
    try:
        if not wanted:
            saved, _ = checkpoint.load_newest(parent.checkpoints)
        elif (path := _checkpoint(parent, wanted)) is not None:
            saved = checkpoint.load(path)
        else:
            steps = [str(step) for step, _ in reversed(checkpoint.steps(parent.checkpoints))]
            there = f"it has checkpoints of steps {', '.join(steps)}" if steps else "it has none yet"
            which = "checkpoint marked best" if wanted == "best" else f"checkpoint of step {wanted}"
            raise Stop(ExitCode.USAGE, f"{parent.name} has no {which}; {there} (checkpoint.keep says how many are kept)")
        progress = Progress.from_json(saved.state["progress"])
        config = with_settings(run_config(parent), saved.state.get("live", {}))
    except (checkpoint.CheckpointError, ValueError, KeyError, TypeError) as error:
        raise Stop(ExitCode.FAILED, f"{parent.name} can't be forked: {error}") from error
    return ForkPoint(parent, saved, progress, config)


def changed(start: ForkPoint, changes: Changes) -> RunConfig:
    """The config of the fork.  Raises Stop if the changes make no valid config."""
    try:
        config = layers.change(start.config, changes.assignments, configure.as_assignments(changes.given or {}))
        return config if changes.steps is None else _of_length(config, start.progress, changes.steps)
    except ConfigError as error:
        raise Stop(ExitCode.USAGE, str(error)) from error


def _checkpoint(parent: RunFolder, wanted: str) -> Path | None:
    if wanted == "best":
        return checkpoint.best_path(parent.checkpoints)
    return dict(checkpoint.steps(parent.checkpoints)).get(int(wanted))


def _of_length(config: RunConfig, progress: Progress, steps: int) -> RunConfig:
    """The config with `--steps N`, N being the steps of the whole run, including those before the fork.

    The remaining steps are shared by the stages in the ratio of the steps that each has left.  If none has any left, the last
    stage gets them all.
    """
    over = bool(progress.stage_over)
    last = len(config.stages) - 1
    first = min(progress.stage + over, last)
    done = [progress.stage_step if i == progress.stage else 0 for i in range(len(config.stages))]
    parts = {i: max(0, config.stages[i].steps - done[i]) for i in range(first, last + 1)}
    left = steps - progress.step
    if left < len(parts):
        raise Stop(
            ExitCode.USAGE, f"--steps: {progress.step} steps are done before the fork, so at least {progress.step + len(parts)}"
        )
    whole, assignments = sum(parts.values()), []
    for i, part in parts.items():
        later = last - i
        share = left if i == last else min(max(1, round(left * part / whole)) if whole else 1, left - later)
        left, whole = left - share, whole - part
        assignments.append(f"stages.{i}.steps={done[i] + share}")
    return layers.change(config, assignments)


def _ends_otherwise(start: ForkPoint, config: RunConfig) -> bool:
    """True if the stage of the checkpoint is over, but goes on by its new end rule."""
    progress = start.progress
    before, now = start.config.stages[progress.stage], config.stages[progress.stage]
    another = any(getattr(before, rule) != getattr(now, rule) for rule in END_RULE)
    return bool(progress.stage_over) and another and progress.stage_step < now.steps


def _edits(start: ForkPoint, config: RunConfig) -> list[Edited]:
    """An event for each setting that the fork changes.  Its command is `set` if a live run could change it, too."""
    before, now, live = layers.flatten(start.config), layers.flatten(config), live_settings(config)
    here = {"step": start.progress.step, "stage": start.progress.stage, "who": f"fork of {start.name}"}
    return [
        Edited(command="set" if key in live else "fork", key=key, old=_scalar(before[key][0]), new=_scalar(value), **here)
        for key, (value, _) in now.items()
        if value != before[key][0]
    ]


def _scalar(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int | float | str) else json.dumps(value)


def _hold(start: ForkPoint, config: RunConfig, edits: list[Edited], current: int) -> None:
    """Raises Stop if a change would not fit the checkpoint, or would have no effect.  The message names every such change."""
    problems = []
    last = start.progress.stage == len(config.stages) - 1
    for edit in edits:
        head, _, rest = edit.key.partition(".")
        number, _, setting = rest.partition(".")
        here = head == "stages" and int(number) == start.progress.stage
        if head == "stages" and int(number) < current:
            problems.append(f"{edit.key}: that stage is over at step {start.progress.step}")
        elif edit.key.startswith(BUILT_IN) or (here and setting in BUILT_INTO_STAGE):
            if (old := _in_effect(start.config, edit.key, edit.old)) != (new := _in_effect(config, edit.key, edit.new)):
                problems.append(
                    f"{edit.key}: the checkpoint was trained with {old} and can't go on with {new}; train a new run"
                )
        elif (edit.key in STARTS and (last or edit.key in NEVER_AGAIN)) or (here and setting == "waves"):
            problems.append(f"{edit.key}: decides how a lattice starts, and the checkpoint's has started; train a new run")
    if problems:
        raise Stop(ExitCode.USAGE, "\n".join(problems))


def _in_effect(config: RunConfig, key: str, value: object) -> object:
    """What a setting amounts to where none stands for a number."""
    match key:
        case "rule.hidden" if config.rule.kind == "mlp":
            return config.rule.hidden_numbers
        case "lattice.port_channels":
            return config.lattice.port_channels or config.lattice.channels
        case "lattice.gru_width":
            return config.lattice.gru_units
    return value


def _not_seen(start: ForkPoint, config: RunConfig, corpus: Corpus) -> None:
    """Raises Stop if the fork would be scored on sentences that its parent was trained on, or if the text has changed."""
    if corpus.fingerprint() == start.saved.state.get("data"):
        return
    if _sources(start.config) == _sources(config):
        raise Stop(ExitCode.USAGE, f"{corpus.name}: the text has changed since {start.parent.name} was started")
    trained = {clean(pair, start.config.data.task).casefold() for pair in prepare.read_corpus(start.config).train}
    if seen := sum(clean(pair, config.data.task).casefold() in trained for pair in corpus.valid):
        raise Stop(
            ExitCode.USAGE,
            f"{seen} of the fork's {len(corpus.valid)} held-out sentences were trained on by {start.parent.name}, so that its "
            "scores would mean nothing; name held-out text of its own with --valid, or leave data and seed as they were",
        )


def _sources(config: RunConfig) -> tuple[object, int]:
    return config.data, config.run.seed


def _write(
    start: ForkPoint, config: RunConfig, edits: list[Edited], state: TrainingState, fingerprint: str, runs_dir: Path
) -> RunFolder:
    """Writes the run folder.  If that fails, nothing is left of it.

    `run.json` is written last, because a folder without it is no run.
    """
    progress = state.progress
    try:
        preset = start.parent.read_info().preset
        folder = RunFolder.create(runs_dir, f"{preset}-fork", time.time())
    except RunFolderError as error:
        raise Stop(ExitCode.FAILED, f"{start.parent.name} can't be forked: {error}") from error
    try:
        folder.config_toml.write_text(to_toml(config), encoding="utf-8")
        _copy_events(start, folder, edits)
        Volumes(folder.volumes).take(Volumes(start.parent.volumes), progress.step)
        model, optimizer = state.tensors()
        rest = state.as_json() | {"data": fingerprint}
        path, _ = checkpoint.save(folder.checkpoints, progress.step, model, optimizer, rest, start.saved.tokenizer)
        measure, score = config.data.measure, score_by(config.data.measure, progress.bleu, progress.exact)
        if checkpoint.best_path(start.parent.checkpoints) == start.saved.path and score is not None:
            decides = () if progress.chrf is None else ties(progress.chrf, progress.exact or 0.0, progress.valid_loss)
            checkpoint.mark_best(folder.checkpoints, path, score, measure, decides)
        stand = standing(progress) | {"measure": measure}
        own = {"run": folder.name, "preset": preset, "parent": start.name, "created": time.time(), "version": VERSION}
        folder.write_info(RunInfo.of_this_process(state="stopped", reason="forked, not trained yet", **own, **stand))
    except BaseException as error:
        shutil.rmtree(folder.path, ignore_errors=True)
        if isinstance(error, OSError | checkpoint.CheckpointError):
            raise Stop(ExitCode.FAILED, f"the run folder can't be written: {why(error)}") from error
        raise
    return folder


def _copy_events(start: ForkPoint, folder: RunFolder, edits: list[Edited]) -> None:
    """Copies the parent's log up to the checkpoint, and adds the fork's changes.  Raises OSError if that fails."""
    with open_plain(start.parent.events_jsonl) as events:
        atomic_write(folder.events_jsonl, events)
    log = EventLog(folder.events_jsonl)
    try:
        log.rewind(start.progress.step, start.progress.edits)
        here = {"step": start.progress.step, "stage": start.progress.stage}
        log.append(RunStarted(run=folder.name, resumed=True, message=f"forked from {start.name}", **here))
        for edit in edits:
            log.append(edit)
    finally:
        log.close()
