"""What a run says of its text when it begins: what is not used, what is cut, and how BLEU counts it."""

from __future__ import annotations

from collections.abc import Iterator

from lattice.data.batches import TokenizedCorpus
from lattice.data.corpus import Corpus
from lattice.observing.decode_monitor import settled_tokenization
from lattice.training.state import TrainingState


def about_data(corpus: Corpus, text: TokenizedCorpus) -> Iterator[str]:
    """Files and targets that are not used, and sentences that are left out or cut."""
    yield from corpus.notes
    for reason, count in corpus.left_out.items():
        yield f"{count} sentences left out: {reason}"
    yield from text.train.cuts("training")
    yield from text.valid.cuts("held-out")


def about_scores(state: TrainingState) -> Iterator[str]:
    """How BLEU splits held-out text, if not at spaces as usual."""
    if state.config.data.measure == "bleu" and (tokenize := settled_tokenization(state)) != "13a":
        units = "Chinese characters and words" if tokenize == "zh" else "characters"
        yield f"BLEU counts {units} (sacrebleu's tokenizer {tokenize}): held-out text has too few spaces to count words"
