"""Scripts: which writing systems a text uses, such as LATIN or CYRILLIC."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable


def script_shares(texts: Iterable[str]) -> dict[str, float]:
    """The share of each script among the letters of some texts, most frequent first.

    The script of a letter is the first word of its Unicode name; the standard library knows no other.
    """
    letters = Counter(letter for text in texts for letter in text if letter.isalpha())
    scripts: Counter[str] = Counter()
    for letter, count in letters.items():
        scripts[unicodedata.name(letter, "UNNAMED").partition(" ")[0]] += count
    return {script: count / scripts.total() for script, count in scripts.most_common()}
