"""Makes text from outside (data, decoder output, file names) safe to write to a terminal."""

from __future__ import annotations

import unicodedata

_JOINERS = "\u200c\u200d"
"""Formatting characters that Persian, Indic scripts and emoji are spelled with; they steer no terminal."""


def printable(text: str) -> str:
    r"""The text on one line, with what a terminal would obey shown as an escape: \x1b, \n, \u202e.

    Escaped are control characters (C0, C1, delete), formatting characters such as bidi overrides and zero-width spaces, line
    and paragraph separators, lone surrogates, and code points that are private or unassigned.  For reading only: a backslash
    in the text stays one, so the original can't be told back.
    """
    if text.isprintable():
        return text
    return "".join(map(_visible, text))


def _visible(character: str) -> str:
    category = unicodedata.category(character)
    if character in _JOINERS or (category[0] != "C" and category not in ("Zl", "Zp")):
        return character
    return character.encode("unicode_escape").decode("ascii")
