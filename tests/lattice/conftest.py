"""Fixtures of the lattice's tests: a small corpus, and trainers of the tiny preset whose events are recorded."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from lattice.data.batches import TokenizedCorpus, corpus_tokenizer
from lattice.data.corpus import Corpus, Pair
from lattice.data.grammar import generate
from lattice.data.tokenizer import Tokenizer
from lattice.training import changes, checkpoint
from lattice.training.build import build_trainer
from lattice.training.callbacks import Callback
from lattice.training.checkpointer import Checkpointer
from lattice.training.health import Recovery
from lattice.training.state import TrainingState
from lattice.training.trainer import Trainer
from monitors.events import AnyEvent, Event, Trained
from presets.layers import load
from presets.schema import RunConfig

if not torch.cuda.is_available():
    # Must be set before anything imports triton, so that triton's own functions are interpreted, too, and not compiled.
    os.environ.setdefault("TRITON_INTERPRET", "1")

SHORT = ("stages.0.steps=6", "stages.1.steps=6", "optimizer.warmup_steps=2", "decode.every=4", "checkpoint.every=3")
"""Settings that shorten the tiny preset to six steps per stage."""


class Heard(Callback):
    """Keeps every event."""

    def __init__(self) -> None:
        self.events: list[AnyEvent] = []

    def on_event(self, event: AnyEvent) -> None:
        self.events.append(event)

    def of(self, kind: type[Event]) -> list:
        return [event for event in self.events if isinstance(event, kind)]


class StopAt(Callback):
    """Asks for a stop after a step, as a signal handler would."""

    def __init__(self, step: int) -> None:
        self._step = step

    def after_step(self, state: TrainingState) -> None:
        if state.progress.step == self._step:
            state.request_stop("test")


class Bench(NamedTuple):
    trainer: Trainer
    heard: Heard


@pytest.fixture(scope="session")
def corpus() -> Corpus:
    pairs = tuple(Pair(text, text) for text in generate(364, seed=1))
    return Corpus("generated", pairs[:300], pairs[300:], {})


@pytest.fixture(scope="session")
def tokenizer(corpus: Corpus) -> Tokenizer:
    return corpus_tokenizer(corpus, 512)


@pytest.fixture(scope="session")
def config_of() -> Callable[..., RunConfig]:
    """`config_of("a.b=c", ...)`: the tiny preset, shortened, with these settings."""
    return lambda *assignments: load("tiny", None, [*SHORT, *assignments]).config


@pytest.fixture(scope="session")
def bench(corpus: Corpus, tokenizer: Tokenizer, config_of: Callable[..., RunConfig]) -> Callable[..., Bench]:
    """`bench("a.b=c", ..., callbacks=[...])`: a trainer of that config on the CPU, and the events that it emits."""

    def build(*assignments: str, callbacks: tuple[Callback, ...] = (), recovery: Recovery | None = None) -> Bench:
        config, heard = config_of(*assignments), Heard()
        text = TokenizedCorpus.of(corpus, config, tokenizer)
        trainer = build_trainer(config, text, torch.device("cpu"), callbacks, before=[heard], recovery=recovery)
        return Bench(trainer, heard)

    return build


def stopped_and_resumed(
    bench: Callable[..., Bench], settings: tuple[str, ...], folder: Path
) -> tuple[dict[str, torch.Tensor], ...]:
    """Checks that a run that stops after step 4 and resumes equals the uninterrupted one.  Returns its tensors, by part."""
    whole = bench(*settings)
    assert whole.trainer.run() == "finished"
    saver = Checkpointer(folder, "data")
    first = bench(*settings, callbacks=(saver, StopAt(4)))
    assert first.trainer.run() == "stopped"
    saver.save(first.trainer.state)
    saved, _ = checkpoint.load_newest(folder)
    second = bench(*settings)
    changes.resume(second.trainer.state, saved.model, saved.optimizer, saved.state)
    assert second.trainer.run() == "finished"
    expected = {event.step: event.loss for event in whole.heard.of(Trained)}
    assert {event.step: event.loss for event in second.heard.of(Trained)} == {s: v for s, v in expected.items() if s > 4}
    parts = list(second.trainer.state.tensors())
    for mine, theirs in zip(parts, whole.trainer.state.tensors(), strict=True):
        assert mine.keys() == theirs.keys()
        assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []
    return parts
