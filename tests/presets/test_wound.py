"""Wounds as people write them."""

from __future__ import annotations

import pytest

from presets.wound import KINDS, Wound, parse


@pytest.mark.parametrize("text", ["connections:0.3", "cells:0.1", "block:8", "shuffle:1", "noise:3"])
def test_every_kind_is_read_and_written_alike(text):
    assert str(parse(text)) == text
    assert parse(f" {text.replace(':', ' : ')} ") == parse(text)


def test_a_wound_of_every_kind_was_read():
    assert parse("connections:.5") == Wound("connections", 0.5)
    assert set(KINDS) == {"connections", "cells", "block", "shuffle", "noise"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is no wound"),
        ("connections", "connections:0.3"),
        ("arms:0.3", "connections, cells, block, shuffle, noise"),
        ("connections:", "a share of all connections"),
        ("connections:lots", "'lots' is no amount"),
        ("connections:nan", "is no amount"),
        ("connections:-0.1", "is no amount"),
        ("noise:inf", "is no amount"),
        ("connections:0", "would change nothing"),
        ("connections:1", "nothing to heal from"),
        ("cells:1.5", "nothing to heal from"),
        ("shuffle:1.1", "1 or less"),
        ("block:2.5", "whole number"),
    ],
)
def test_what_is_no_wound_is_refused_in_a_sentence_that_helps(text, says):
    with pytest.raises(ValueError, match=r"^[^\n]+$") as refused:
        parse(text)
    assert says in str(refused.value)
