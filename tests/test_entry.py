"""The installed program runs, whatever folders of its packages' names Python's path leads to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.version import VERSION

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("path", ["{there}", ""], ids=["PYTHONPATH", "current folder"])
def test_foreign_folders_of_the_same_names_are_not_in_the_way(path, tmp_path):
    for name in ("app", "lattice", "monitors", "presets"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('somebody else wrote this')\n")
    first = path.format(there=tmp_path)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([first, str(ROOT)]), "XDG_STATE_HOME": str(tmp_path)}
    for arguments in ("'--version'", "'presets', '--json'", "'runs'"):
        code = f"import sys; sys.argv = ['lattice-tui', {arguments}]; import lattice_tui; lattice_tui.main()"
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert arguments != "'--version'" or done.stdout == f"lattice-tui {VERSION}\n"
