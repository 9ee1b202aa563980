"""The package stays light: a terminal that watches a run loads neither torch nor numpy for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = {path.stem for path in (ROOT / "monitors").glob("*.py")} - {"__init__"}
HEAVY = {"torch", "numpy", "sacrebleu", "textual", "lattice", "app"}


def loaded_by(module: str) -> set[str]:
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", sorted(MODULES - {"torch_memory"}))
def test_importing_any_module_but_torch_memory_loads_nothing_heavy(module):
    assert loaded_by(f"monitors.{module}") & HEAVY == set()


def test_torch_memory_loads_torch_and_no_higher_part():
    assert loaded_by("monitors.torch_memory") & {"torch", "textual", "lattice", "app"} == {"torch"}
