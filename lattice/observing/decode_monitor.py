"""The decode monitor: every so many steps, held-out sentences go through the lattice and come back as text.

Its cost is part of the event, so that it can be held against the training time it watches.
"""

from __future__ import annotations

import math
import time

import torch

from lattice.observing.evaluate import EVALUATION_STATES, chunk_size, held_out_loss, say
from lattice.training.callbacks import Callback
from lattice.training.trainer import Trainer
from monitors import gauges, torch_memory
from monitors.events import Decoded, Sample
from monitors.quality import score, sentence_bleu

ACTIVITY_SENTENCES = 8
"""Sentences that activity is measured on."""


class DecodeMonitor(Callback):
    """Looks every `config.decode.every` steps and at the end of a stage; updates the trainer's progress and emits Decoded."""

    def after_step(self, trainer: Trainer) -> None:
        if trainer.progress.step % trainer.config.decode.every == 0:
            self.look(trainer, trainer.config.decode.sentences)

    def at_stage_end(self, trainer: Trainer) -> None:
        if trainer.progress.step % trainer.config.decode.every:
            self.look(trainer, trainer.config.decode.sentences)

    def on_command(self, trainer: Trainer, command: str) -> None:
        if command == "decode":
            self.look(trainer, trainer.config.decode.sentences)

    def look(self, trainer: Trainer, count: int) -> Decoded:
        """Decodes and scores the first `count` held-out sentences (the same ones every time)."""
        config, progress, model = trainer.config, trainer.progress, trainer.model
        clock, memory = time.perf_counter(), _peak(trainer.device)
        gradient_share = model.gradient_share()
        sentences = trainer.valid_sentences
        rows = list(range(min(count, len(sentences))))
        chunk = chunk_size(config, trainer.stage, trainer.micro_batch)
        said = say(model, sentences, rows, trainer.tokenizer, chunk)
        pairs = [sentences.pairs[i] for i in rows]
        quality = score(said, [pair.target for pair in pairs])
        loss = held_out_loss(model, sentences, rows, chunk)
        # Two states more than decoding: those before and after the last tick are held against each other.
        few = max(1, chunk * EVALUATION_STATES // (EVALUATION_STATES + 2))
        source, _, _ = sentences.batch(rows[: min(ACTIVITY_SENTENCES, few)], trainer.device)
        change = model.change(source)
        best = quality.bleu > progress.best_bleu
        progress.bleu, progress.valid_loss = quality.bleu, loss if math.isfinite(loss) else None
        progress.best_bleu = max(quality.bleu, progress.best_bleu)
        progress.looks_without_gain = 0 if loss < progress.best_valid_loss else progress.looks_without_gain + 1
        progress.best_valid_loss = min(progress.best_valid_loss, loss) if math.isfinite(loss) else progress.best_valid_loss
        shown = config.decode.samples
        each = zip(pairs[:shown], said[:shown], sentence_bleu(said[:shown], [p.target for p in pairs[:shown]]), strict=True)
        event = Decoded(
            step=progress.step,
            stage=progress.stage,
            bleu=quality.bleu,
            chrf=quality.chrf,
            exact=quality.exact,
            valid_loss=loss,
            count=quality.count,
            signature=quality.signature,
            samples=tuple(Sample(source=p.source, reference=p.target, said=text, bleu=bleu) for p, text, bleu in each),
            seconds=time.perf_counter() - clock,
            peak_bytes=max(0, _peak(trainer.device) - memory),
            active_share=active_share(change, trainer.stage.activity_threshold),
            gradient_share=gradient_share,
            best=best,
        )
        trainer.emit(event)
        for callback in trainer.callbacks:
            callback.after_look(trainer, change)
        return event


def active_share(change: torch.Tensor | None, threshold: float) -> float:
    """Share of cells whose state still changes by more than `threshold` in the last tick; 0 where there are none."""
    return 0.0 if change is None else (change > threshold).float().mean().item()


def _peak(device: torch.device) -> int:
    """The highest memory use so far in bytes: of the device's allocator, or of the process where there is none."""
    if device.type == "cuda":
        return torch_memory.peak(device) or 0
    return gauges.peak_rss_bytes()
