"""Scripts: which writing systems a text uses, such as LATIN or CYRILLIC; and how BLEU is to split such text."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from monitors.quality import Tokenization

UNSPACED = frozenset(
    ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN", "TAI", "YI", "BALINESE", "JAVANESE")
)
"""Scripts that are written without spaces between words."""

KANA_SHARE = 0.05
"""Text with more kana than this is Japanese, and not Chinese."""

LONG_WORD = 4
"""Letters between two spaces, on average, from which a text of such scripts counts as unspaced, and not as split into words."""

LONG_ENOUGH = 0.1
"""Least share of sentences that have four words.  With fewer, BLEU of words would rest on a few odd sentences, or be 0."""

_WORD = re.compile(r"[!-/:-@\[-`{-~]|[^\s!-/:-@\[-`{-~]+")
"""A token as sacrebleu's 13a splits, about."""


def script_shares(texts: Iterable[str]) -> dict[str, float]:
    """The share of each script among the letters of some texts, most frequent first.

    The script of a letter is the first word of its Unicode name; the standard library knows no other.
    """
    letters = Counter(letter for text in texts for letter in text if letter.isalpha())
    scripts: Counter[str] = Counter()
    for letter, count in letters.items():
        scripts[unicodedata.name(letter, "UNNAMED").partition(" ")[0]] += count
    return {script: count / scripts.total() for script, count in scripts.most_common()}


def tokenization(references: Sequence[str]) -> Tokenization:
    """How BLEU is to split text like these references: 13a if words stand between spaces and sentences have four of them.

    Otherwise `zh` for Chinese, and `char` for Japanese, Thai and other scripts without spaces, and for lines of a word or two.
    (sacrebleu's `ja-mecab` needs a dictionary that is not among the dependencies.)
    """
    shares = script_shares(references)
    letters = sum(map(str.isalpha, "".join(references)))
    unspaced = sum(share for script, share in shares.items() if script in UNSPACED) > 0.5
    run_together = unspaced and letters > LONG_WORD * sum(len(text.split()) for text in references)
    enough = sum(len(_WORD.findall(text)) >= 4 for text in references) >= LONG_ENOUGH * len(references)
    if enough and not run_together:
        return "13a"
    kana = shares.get("HIRAGANA", 0.0) + shares.get("KATAKANA", 0.0)
    return "zh" if shares.get("CJK", 0.0) > 0.5 and kana <= KANA_SHARE else "char"
