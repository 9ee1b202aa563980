"""The wheel holds all that a run needs: C sources, presets and styles, too."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("app", "lattice", "monitors", "presets")


@pytest.mark.slow
def test_a_run_trains_from_the_wheel_alone(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, ROOT]
    built = subprocess.run(build, capture_output=True, text=True, check=False)
    if built.returncode:
        pytest.skip(f"no wheel can be built here: {built.stderr.strip().splitlines()[-1]}")
    (wheel,) = tmp_path.glob("*.whl")
    tracked = subprocess.run(
        ["git", "ls-files", *PACKAGES, "lattice_tui.py"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    with zipfile.ZipFile(wheel) as archive:
        assert set(tracked) <= set(archive.namelist())
        archive.extractall(tmp_path / "installed")
    environment = os.environ | {
        "PYTHONPATH": str(tmp_path / "installed"),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),  # the kernels are compiled anew, from the wheel's sources
    }
    train = [sys.executable, "-P", "-m", "app.cli", "train", "--preset", "tiny", "--steps", "4", "--json"]
    done = subprocess.run(train, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert '"state": "finished"' in done.stdout and "tick kernel: native" in done.stderr
    where = [sys.executable, "-P", "-c", "import app; print(app.__file__)"]
    assert str(tmp_path) in subprocess.run(where, env=environment, capture_output=True, text=True, check=True).stdout
