"""The decode monitor: sends held-out sentences through the lattice while it trains, and scores the text that comes back.

Its event has its cost, which can be compared with the time of the training steps.
"""

from __future__ import annotations

import time

import torch

from lattice.data.pair import Pair
from lattice.data.script import tokenization
from lattice.data.tasks.named import held_out_task
from lattice.observing.after_each_word import MOST_WORDS, after_each_word, as_event, most_to_tell
from lattice.observing.scoring import EVALUATION_STATES, chunk_size, held_out_loss, say
from lattice.training.callbacks import Callback
from lattice.training.state import TrainingState
from monitors import torch_memory
from monitors.events import AfterWord, Decoded, Sample
from monitors.quality import Tokenization, score, sentence_bleu

SHOWN_CHARACTERS = 1000
"""Characters of a sentence that the log keeps of it."""

ACTIVITY_SENTENCES = 8
"""Most sentences that the cells' activity is measured on."""


class DecodeMonitor(Callback):
    """The callback that takes a look every `config.decode.every` steps, at the end of a stage, and on command.

    A look decodes and scores held-out sentences, updates the run's progress, and emits Decoded.
    """

    def after_step(self, state: TrainingState) -> None:
        if state.progress.step % state.config.decode.every == 0:
            self.look(state, state.config.decode.sentences)

    def at_stage_end(self, state: TrainingState) -> None:
        if state.progress.step % state.config.decode.every:
            self.look(state, state.config.decode.sentences)

    def on_command(self, state: TrainingState, command: str) -> None:
        if command == "decode":
            self.look(state, state.config.decode.sentences)

    def look(self, state: TrainingState, count: int) -> Decoded:
        """Decodes and scores the first `count` held-out sentences, which are the same ones every time.

        Emits the event and returns it.
        """
        config, progress, model = state.config, state.progress, state.model
        clock, memory = time.perf_counter(), torch_memory.most_held(state.device)
        gradient_share = model.gradient_share()
        sentences = state.valid_sentences
        rows = list(range(min(count, len(sentences))))
        chunk = chunk_size(config, state.stage, state.micro_batch)
        said = say(model, sentences, rows, state.tokenizer, chunk)
        pairs = [sentences.pairs[i] for i in rows]
        tokenize = settled_tokenization(state)
        quality = score(said, [pair.target for pair in pairs], tokenize)
        loss = held_out_loss(model, sentences, rows, chunk)
        # `change` holds two states more than decoding does: those before and after the last tick, which it compares.
        few = max(1, chunk * EVALUATION_STATES // (EVALUATION_STATES + 2))
        source, _, _ = sentences.batch(rows[: min(ACTIVITY_SENTENCES, few)], state.device)
        change = model.change(source)
        best = progress.note_look(quality, loss, config.data.measure)
        shown = config.decode.samples
        bleus = sentence_bleu(said[:shown], [pair.target for pair in pairs[:shown]], tokenize)
        each = zip(pairs[:shown], said[:shown], bleus, strict=True)
        word_by_word = _word_by_word(state, pairs[:shown], chunk) if config.text.reading == "time" else ()
        event = Decoded(
            step=progress.step,
            stage=progress.stage,
            bleu=quality.bleu,
            chrf=quality.chrf,
            exact=quality.exact,
            valid_loss=loss,
            count=quality.count,
            signature=quality.signature,
            samples=tuple(_sample(pair, text, bleu) for pair, text, bleu in each),
            seconds=time.perf_counter() - clock,
            peak_bytes=max(0, torch_memory.most_held(state.device) - memory),
            active_share=active_share(change, state.stage.activity_threshold),
            gradient_share=gradient_share,
            best=best,
            measure=config.data.measure,
            after_each_word=word_by_word,
        )
        state.tell(event)
        state.looked(change)
        return event


def settled_tokenization(state: TrainingState) -> Tokenization:
    """How BLEU splits text in this run.  All held-out targets decide at the first look, and it stays so."""
    settled = state.progress.tokenization
    return settled or state.progress.settle_tokenization(tokenization([pair.target for pair in state.valid_sentences.pairs]))


def _sample(pair: Pair, said: str, bleu: float) -> Sample:
    """A sentence as the log keeps it at every look: of a very long one, the beginning."""
    source, reference, said = (
        text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…" for text in (pair.source, pair.target, said)
    )
    return Sample(source=source, reference=reference, said=said, bleu=bleu)


def _word_by_word(state: TrainingState, pairs: list[Pair], chunk: int) -> tuple[AfterWord, ...]:
    """What the model would answer after each word of one of these sentences."""
    pair, task, limit = most_to_tell(pairs), held_out_task(state.config.data), state.config.text.max_tokens

    def right(beginning: str) -> str | None:
        if beginning == pair.source:
            return pair.target
        return task.answer_so_far(beginning) if task is not None else None

    words = pair.source.split()[:MOST_WORDS]
    return tuple(map(as_event, after_each_word(state.model, state.tokenizer, words, right, limit, chunk)))


def active_share(change: torch.Tensor | None, threshold: float) -> float:
    """Share of cells whose state changes by more than `threshold` in the last tick; 0 if there is no lattice.

    `change` [X, Y, Z] comes from TextLattice.change.
    """
    return 0.0 if change is None else (change > threshold).float().mean().item()
