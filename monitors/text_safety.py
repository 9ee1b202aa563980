"""Makes text from outside (data, decoder output, file names) safe to write to a terminal."""

from __future__ import annotations

import unicodedata

_JOINERS = "\u200c\u200d"
"""Formatting characters that Persian, Indic scripts and emoji need; terminals do not obey them."""


def printable(text: str) -> str:
    r"""The text on one line, in which characters that a terminal would obey are escapes such as \x1b, \n, \u202e.

    Escaped are control characters (C0, C1, delete), formatting characters such as bidi overrides and zero-width spaces, line
    and paragraph separators, lone surrogates, and private or unassigned code points.  A backslash in the text stays as it is,
    so the original can't be restored.
    """
    if text.isprintable():
        return text
    return "".join(map(_visible, text))


def _visible(character: str) -> str:
    category = unicodedata.category(character)
    if character in _JOINERS or (category[0] != "C" and category not in ("Zl", "Zp")):
        return character
    return character.encode("unicode_escape").decode("ascii")
