"""No decoded or quoted text can steer the terminal it is shown on."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from monitors.text_safety import printable

ORDINARY = ["", "a dog runs .", "naïve Straße", "собака бежит", "犬が走る", "🐕 dog", "a\u00a0b", r"C:\new"]


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_of_any_script_is_left_as_it_is(text):
    assert printable(text) == text


@pytest.mark.parametrize("text", ["می\u200cخواهم", "क\u094d\u200dष", "👩\u200d🔬"])
def test_joiners_that_words_and_emoji_are_spelled_with_are_kept(text):
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2Jgone", r"\x1b[2Jgone"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b31m", r"\x9b31m"),
        ("two\nlines\r\t\x00", r"two\nlines\r\t\x00"),
        ("\x7f\x08", r"\x7f\x08"),
        ("a\u202eb\u2066c", r"a\u202eb\u2066c"),
        ("\u200e\u200b\ufeff", r"\u200e\u200b\ufeff"),
        ("a\u2028b\u2029", r"a\u2028b\u2029"),
        ("\ud800", r"\ud800"),
        ("\U000e0041", r"\U000e0041"),
    ],
    ids=["escape", "title", "c1", "lines", "delete", "bidi", "invisible", "separators", "surrogate", "tag"],
)
def test_what_a_terminal_would_obey_is_shown_as_an_escape(text, shown):
    assert printable(text) == shown


def test_of_all_control_and_formatting_characters_only_the_joiners_stay():
    hostile = [c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]
    assert len(hostile) > 2000  # mostly surrogates
    assert [c for c in hostile if not printable(c).isprintable()] == ["\u200c", "\u200d"]
