"""`bench` as commands: JSON that a script can read, tables that a person can, a picture, and what is refused."""

from __future__ import annotations

import json
import math
import sys

import pytest

from app import configure
from app.bench import everything, tables
from app.exit_codes import ExitCode, Stop
from lattice.bench import growth_curve
from lattice.bench.timings import tick_bytes

SHAPES = ((4, 4, 8), (4, 4, 16))


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(everything, "GROWTH", SHAPES)
    monkeypatch.setattr(everything, "TICK_SHAPE", SHAPES[0])
    monkeypatch.setattr(everything, "SHAPES", SHAPES[:1])
    monkeypatch.setattr("lattice.bench.timings.COPY_FLOATS", 1024)
    monkeypatch.setattr(everything, "TICK_KERNELS", ("native", "reference"))
    for library in ("spikingjelly", "cax"):
        monkeypatch.setitem(sys.modules, library, None)


def test_all_tells_every_part_as_json_and_draws_the_growing_lattice(small, tmp_path, capsys):
    everything.run("tiny", [], 3, 1.0, tmp_path / "growth.png", True)
    told = json.loads(capsys.readouterr().out)
    assert {"machine", "copy_gbps", "rows", "decode_share", "remarks"} == told.keys()
    assert {row["part"] for row in told["rows"]} == {"growth", "tick", "step", "plasticity"}
    assert {tuple(row["shape"]) for row in told["rows"] if row["part"] == "growth"} == set(SHAPES)
    assert all(row["min"] <= row["median"] <= row["max"] and row["ns_per_cell"] > 0 for row in told["rows"])
    assert told["decode_share"] > 0
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_a_library_that_is_not_installed_is_named_and_nothing_is_made_up_for_it(small, capsys):
    everything.run("tiny", [], 3, 1.0, None, False)
    shown = capsys.readouterr().out
    assert "spikingjelly: not compared" in shown and "--no-deps" in shown
    assert "cax: not compared" in shown and "`pip install cax` adds it" in shown
    assert "others" not in shown and "growth" in shown


def test_the_lattice_grows_until_memory_ends_and_goes_forward_alone_before_that():
    limit = tick_bytes(SHAPES[1], 1, ("native",), both=False)
    assert tick_bytes(SHAPES[0], 1, ("native",)) < limit < tick_bytes(SHAPES[1], 1, ("native",))
    told: list[str] = []
    rows, remarks = growth_curve.bench_growth(3, limit, told.append, (*SHAPES, (8, 8, 16)))
    kinds = {shape: {row.name.split()[0] for row in rows if row.shape == shape} for shape in (*SHAPES, (8, 8, 16))}
    assert kinds == {SHAPES[0]: {"forward", "forward+backward"}, SHAPES[1]: {"forward"}, (8, 8, 16): set()}
    assert told == ["growth: 4x4x8", "growth: 4x4x16, forward only"]
    assert len(remarks) == 2 and remarks[1].startswith("8x8x16: takes")


def test_decode_tells_what_a_look_costs_between_two_looks(capsys):
    tables.decode("tiny", [], 3, True)
    told = json.loads(capsys.readouterr().out)
    step, look = told["rows"]
    assert (step["name"], look["name"]) == ("step", "decode")
    every = configure.load("tiny", None, []).config.decode.every
    assert math.isclose(told["decode_share"], look["median"] / (every * step["median"]))


def test_only_the_named_kernels_are_timed_and_unknown_ones_refused(capsys):
    tables.tick("4,4,8", 2, 3, ["reference"], True)
    names = {row["name"] for row in json.loads(capsys.readouterr().out)["rows"]}
    assert names == {"forward reference", "forward+backward reference", "forward+backward reference held"}
    with pytest.raises(Stop, match="'fast' is not one of native, native-bf16, compiled, reference") as stopped:
        tables.tick("4,4,8", 1, 3, ["fast"], True)
    assert stopped.value.code == ExitCode.USAGE
