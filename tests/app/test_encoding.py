"""Any text can be printed, whatever letters the encoding of the output has."""

import contextlib
import io

import pytest
from rich.console import Console

from app import cli


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "koi8-u", "utf-8"])
def test_letters_that_an_output_lacks_are_written_as_escapes(monkeypatch, encoding):
    def command():
        print("кот 猫 \ud800 cat")
        Console(file=stream, width=60).print("кот 猫")

    stream = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(cli, "app", command)
    with contextlib.redirect_stdout(stream):
        cli.main()
    printed, rich = stream.buffer.getvalue().decode(encoding).splitlines()
    shown = {"koi8-u": "кот \\u732b", "utf-8": "кот 猫"}.get(encoding, "\\u043a\\u043e\\u0442 \\u732b")
    assert (printed, rich) == (f"{shown} \\ud800 cat", shown)
