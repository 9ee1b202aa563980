"""Measurements: what is added is read again, for its own machine; damage costs a line alone; the file is bounded."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
from pathlib import Path

import pytest

from monitors import measured
from monitors.measured import MOST, StageRecord, add, read

KEY = "a processor, 2 cores, torch 2, cpu"


def record(peak: int = 10**9, machine: str = KEY) -> StageRecord:
    return StageRecord(machine, {"states": 5 * 10**8, "ticks": 8}, peak, 0.25, 20, 1.8e9)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "measured.jsonl"


def test_what_was_added_is_read_in_its_order(path):
    for peak in (3, 1, 2):
        add(path, record(peak))
    assert read(path, KEY) == ([record(3), record(1), record(2)], "")
    assert path.stat().st_mode & 0o077 == 0


def test_other_machines_measurements_stay_and_are_not_told(path):
    add(path, record(1, "another"))
    add(path, record(2))
    assert [each.peak_bytes for each in read(path, KEY)[0]] == [2]
    assert [each.peak_bytes for each in read(path, "another")[0]] == [1]


def test_no_file_is_no_measurement(path):
    assert read(path, KEY) == ([], "")


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"\xff\xfe\x00",
        b"null",
        b"[1, 2]",
        json.dumps(record().as_json() | {"more": 1}).encode(),
        json.dumps(record().as_json() | {"peak_bytes": -1}).encode(),
        json.dumps(record().as_json() | {"peak_bytes": 0}).encode(),
        json.dumps(record().as_json() | {"step_s": "fast"}).encode(),
        json.dumps(record().as_json() | {"features": {"states": float("nan")}}).encode(),
        json.dumps(record().as_json() | {"features": [1]}).encode(),
        json.dumps(record().as_json() | {"machine": 7}).encode(),
        b"[" * 100_000,
        json.dumps(record().as_json()).encode()[:-9],
    ],
    ids=lambda line: line[:12],
)
def test_a_damaged_line_is_passed_over_with_one_line_and_the_others_count(path, line):
    add(path, record(1))
    path.write_bytes(path.read_bytes() + line + b"\n")
    add(path, record(2))
    found, passed_over = read(path, KEY)
    assert [each.peak_bytes for each in found] == [1, 2]
    assert passed_over == (f"{path}: 1 line(s) passed over that are no measurement" if line else "")


def test_a_file_that_can_not_be_read_is_told_in_one_line(path):
    path.mkdir(parents=True)
    found, told = read(path, KEY)
    assert found == [] and str(path) in told and "\n" not in told


def test_only_the_newest_are_kept(path, monkeypatch):
    monkeypatch.setattr(measured, "MOST", 5)
    for peak in range(1, 9):
        add(path, record(peak))
    assert [each.peak_bytes for each in read(path, KEY)[0]] == [4, 5, 6, 7, 8]


def test_a_huge_file_is_read_from_its_end_only(path, monkeypatch):
    monkeypatch.setattr(measured, "MOST_BYTES", 2 * len(json.dumps(record(1).as_json())) + 40)
    path.parent.mkdir()
    path.write_text("".join(json.dumps(dataclasses.replace(record(), steps=n).as_json()) + "\n" for n in range(1, 3 * MOST)))
    found, passed_over = read(path, KEY)
    assert [each.steps for each in found] == [3 * MOST - 2, 3 * MOST - 1] and "1 line(s)" in passed_over


def _add_many(path: Path, first: int) -> None:
    for peak in range(first, first + 20):
        add(path, record(peak))


def test_processes_that_add_at_once_lose_nothing(path):
    processes = [multiprocessing.get_context("spawn").Process(target=_add_many, args=(path, first)) for first in (100, 200)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert {each.peak_bytes for each in read(path, KEY)[0]} == {*range(100, 120), *range(200, 220)}


def test_they_lie_beside_the_runs(monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert measured.place() == Path("/state/lattice-tui/measured.jsonl")
