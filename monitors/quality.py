"""How good decoded text is: corpus BLEU and chrF by sacrebleu, BLEU per sentence, and the share that came back unchanged.

sacrebleu is imported when first needed, because it pulls in numpy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Tokenization = Literal["13a", "zh", "char"]
"""How sacrebleu splits text for BLEU: at spaces and punctuation (13a), also around each Chinese character (zh), or into
characters (char)."""


@dataclass(frozen=True)
class Quality:
    """Scores of a corpus of `count` sentences: BLEU and chrF in 0..100, `exact` in 0..1, and sacrebleu's signature of BLEU."""

    bleu: float
    chrf: float
    exact: float
    count: int
    signature: str


def score(said: list[str], references: list[str], tokenize: Tokenization = "13a") -> Quality:
    """Scores sentences against one reference each, with sacrebleu's defaults but for the tokenization.

    These are scores of a corpus, not means over sentences.  If no sentence has four tokens, BLEU is 0 even if all are perfect,
    because there are no 4-grams to match.  lattice.data.script chooses the tokenization for a text.  Raises ValueError if there
    is nothing to score or if the lists differ in length.
    """
    if len(said) != len(references):
        raise ValueError(f"said, references: {len(said)} sentences can't be scored against {len(references)} references")
    if not said:
        raise ValueError("said: no sentences to score")
    from sacrebleu.metrics import BLEU, CHRF

    # `force` changes no score: it silences the advice to detokenize, which captions ending in " ." set off.
    bleu = BLEU(force=True, tokenize=tokenize)
    streams = [references]  # sacrebleu wants one list per *reference stream*, not one per sentence
    quality = Quality(
        bleu=bleu.corpus_score(said, streams).score,
        chrf=CHRF().corpus_score(said, streams).score,
        exact=sum(a == b for a, b in zip(said, references, strict=True)) / len(said),
        count=len(said),
        signature=str(bleu.get_signature()),
    )
    _forget()
    return quality


def sentence_bleu(said: list[str], references: list[str], tokenize: Tokenization = "13a") -> list[float]:
    """BLEU (0..100) of each sentence by itself, with sacrebleu's effective order: longer n-grams than it has do not count.

    These are for reading; their mean is not the BLEU of the corpus.
    """
    from sacrebleu.metrics import BLEU

    bleu = BLEU(effective_order=True, tokenize=tokenize)
    scores = [bleu.sentence_score(text, [reference]).score for text, reference in zip(said, references, strict=True)]
    _forget()
    return scores


def _forget() -> None:
    """Empties sacrebleu's caches of tokenized sentences.  Each would keep up to 65 536 sentences of a run, some 50 MB."""
    from sacrebleu.tokenizers import tokenizer_13a, tokenizer_char, tokenizer_re, tokenizer_zh

    tokenizer_13a.Tokenizer13a.__call__.cache_clear()
    tokenizer_re.TokenizerRegexp.__call__.cache_clear()
    tokenizer_char.TokenizerChar.__call__.cache_clear()
    tokenizer_zh.TokenizerZh.__call__.cache_clear()
