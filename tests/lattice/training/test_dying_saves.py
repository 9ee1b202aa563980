"""Tests of saves that are killed or run out of disk, at any point: a complete checkpoint loads, and none is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = Path(__file__).with_name("dying_saves.py")
PYTHON = f"{sys.executable} {SCRIPT}"


def told(command: list[str]) -> list[dict]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def script(scenario: str, folder: Path) -> list[dict]:
    return told([sys.executable, str(SCRIPT), scenario, str(folder)])


@pytest.mark.parametrize("again", [False, True], ids=["a new step", "the same step again"])
def test_a_save_killed_before_any_of_its_file_operations_leaves_the_newest_whole_checkpoint_and_all_others(tmp_path, again):
    deaths = script("kill again" if again else "kill new", tmp_path / "checkpoints")
    assert [death["at"] for death in deaths] == list(range(1, len(deaths) + 1)) and len(deaths) > 50
    assert [death["killed"] for death in deaths] == [True] * (len(deaths) - 1) + [False]
    new = [death["version"] == 1 for death in deaths]
    assert new == sorted(new)  # the old one until the new one stands, and the new one from then on
    assert 10 < new.index(True) < len(new) - 1
    for death, stands in zip(deaths, new, strict=True):
        assert death["whole"] and death["passed_over"] == [], death
        # Steps 2 and 3 stood before; nothing goes before what takes its place is whole.
        assert death["step"] == (4 if stands and not again else 3), death
        assert {2, 3} <= set(death["complete"]) or (stands and {3, death["step"]} <= set(death["complete"])), death
        # The next save clears away what the dead one left.
        assert death["then"] == 5 and set(death["left"]) <= {"best.json"}, death


def test_a_disk_that_is_full_after_any_number_of_bytes_loses_no_checkpoint_and_is_told(tmp_path):
    *failed, whole = script("limit", tmp_path / "checkpoints")
    assert whole["step"] == 2 and whole["said"] == ""
    for case in failed:
        assert (case["step"] == 1 and case["whole"] and case["left"] == ["best.json"]) or case["step"] == 2, case
        if case["step"] == 1:
            assert "could not be saved: " in case["said"] and "\n" not in case["said"], case
    assert sum(case["step"] == 1 for case in failed) >= 5


def mounted(tmp_path: Path, commands: str) -> list[dict]:
    """Runs shell commands with a file system of 1.5 MB at ./small, if this machine lets a user mount one."""
    small = tmp_path / "small"
    small.mkdir()
    mount = f"mount -t tmpfs -o size=1500k none {small}"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True, check=False).returncode:
        pytest.skip("no user may mount a file system here")
    return told(["unshare", "-rm", "sh", "-ec", f"{mount}; cd {small}; {commands}"])


def test_a_file_system_that_fills_up_keeps_its_checkpoints_and_is_told(tmp_path):
    (end,) = mounted(tmp_path, f"{PYTHON} full {tmp_path}/small/c")
    assert end["at"] > 5 and end["step"] == end["at"] - 1 and end["whole"]
    assert "No space left on device" in end["said"]


def test_a_file_system_that_became_read_only_keeps_its_checkpoints_and_is_told(tmp_path):
    place = f"{tmp_path}/small/c"
    (end,) = mounted(tmp_path, f"{PYTHON} put {place}; mount -o remount,ro {tmp_path}/small; {PYTHON} read-only {place}")
    assert end["step"] == 1 and end["whole"] and "could not be saved: Read-only file system" in end["said"]
