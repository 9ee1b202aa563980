"""Opens the model that a run saved."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from app.exit_codes import ExitCode, Stop
from app.finding import run_config
from lattice.data.tokenizer import Tokenizer
from lattice.model.text_lattice import TextLattice, load_model
from lattice.observing.scoring import chunk_size
from lattice.training import checkpoint
from lattice.training.progress import Progress
from monitors.runs import RunFolder
from presets.live import with_settings
from presets.plan import plan
from presets.schema import RunConfig


@dataclass(frozen=True)
class Opened:
    """A model as a run saved it, ready to decode text."""

    config: RunConfig
    model: TextLattice
    tokenizer: Tokenizer
    progress: Progress
    chunk: int
    """Sentences to decode at once."""


def open_run(folder: RunFolder, device: torch.device, best: bool = False) -> Opened:
    """Loads the newest complete checkpoint, or the best one, with the settings that were in effect when it was saved.

    Raises Stop if there is no such checkpoint, or if it does not fit the run's config.
    """
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
