"""Opening what a run left behind: its config, and its model from a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from app.exit_codes import ExitCode, Stop
from lattice.data.tokenizer import Tokenizer
from lattice.model.text_lattice import TextLattice, load_model
from lattice.observing.evaluate import chunk_size
from lattice.training import checkpoint
from lattice.training.progress import Progress
from monitors.runs import NoSuchRun, RunFolder, RunFolderError
from presets.layers import ConfigError, from_toml
from presets.live import with_settings
from presets.plan import plan
from presets.schema import RunConfig


def find_run(runs_dir: Path, name: str) -> RunFolder:
    """Raises Stop if there is no such run."""
    try:
        return RunFolder.find(runs_dir, name)
    except NoSuchRun as error:
        raise Stop(ExitCode.NO_SUCH_RUN, str(error)) from error
    except RunFolderError as error:
        raise Stop(ExitCode.FAILED, str(error)) from error


def run_config(folder: RunFolder) -> RunConfig:
    """The config a run was started with.  Raises Stop."""
    try:
        return from_toml(folder.read_config(), str(folder.config_toml))
    except OSError as error:
        raise Stop(ExitCode.NO_SUCH_RUN, f"{folder.config_toml} can't be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise Stop(ExitCode.USAGE, f"{folder.config_toml}: not valid UTF-8: {error.reason}") from error
    except ConfigError as error:
        raise Stop(ExitCode.USAGE, str(error)) from error


@dataclass(frozen=True)
class Opened:
    """A model as a run saved it, ready to speak."""

    config: RunConfig
    model: TextLattice
    tokenizer: Tokenizer
    progress: Progress
    chunk: int
    """Sentences to decode at once."""


def open_run(folder: RunFolder, device: torch.device, best: bool = False) -> Opened:
    """Loads the newest complete checkpoint, or the best one, with the settings that held when it was saved.  Raises Stop."""
    config = run_config(folder)
    try:
        path = checkpoint.best_path(folder.checkpoints) if best else None
        if best and path is None:
            raise Stop(ExitCode.FAILED, f"{folder.name} has no checkpoint marked best yet; leave --best out for the newest")
        saved = checkpoint.load(path) if path else checkpoint.load_newest(folder.checkpoints)[0]
        config = with_settings(config, saved.state.get("live", {}))
        progress = Progress.from_json(saved.state["progress"])
        tokenizer = Tokenizer.from_json(saved.tokenizer)
        model = TextLattice(config, progress.stage, tokenizer.vocabulary, device)
        load_model(model, saved.model)
    except (checkpoint.CheckpointError, ValueError, KeyError, TypeError, IndexError) as error:
        raise Stop(ExitCode.FAILED, f"{folder.name} can't be opened: {error}") from error
    stage = plan(config)[progress.stage]
    return Opened(
        config, model.eval(), tokenizer, progress, chunk_size(config, config.stages[progress.stage], stage.micro_batch)
    )
