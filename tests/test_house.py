"""The house: what may import what, and what must load without torch."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from app.version import VERSION

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "presets": {"presets"},
    "monitors": {"monitors", "presets"},
    "lattice": {"lattice", "monitors", "presets"},
    "app": {"app", "lattice", "monitors", "presets"},
}
SOURCES = sorted(path.relative_to(ROOT) for part in MAY_IMPORT for path in (ROOT / part).rglob("*.py"))


def module(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path) -> set[str]:
    """First-party parts that a file imports anywhere in it, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module.partition(".")[0])
    return found & {*MAY_IMPORT, "tests"}


def loaded_by(*modules: str) -> set[str]:
    """First parts of the names of all modules that importing these loads."""
    code = f"import sys, {', '.join(modules)}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_imports_follow_the_arrows_app_lattice_monitors_presets(path):
    assert imported(path) <= MAY_IMPORT[path.parts[0]]


def test_the_arrows_are_really_used():
    edges = {(path.parts[0], part) for path in SOURCES for part in imported(path)}
    assert {
        ("app", "lattice"),
        ("app", "monitors"),
        ("app", "presets"),
        ("lattice", "monitors"),
        ("lattice", "presets"),
    } <= edges


def test_presets_load_without_torch_and_without_the_rest_of_the_house():
    names = [module(path) for path in SOURCES if path.parts[0] == "presets"]
    assert len(names) > 3
    assert loaded_by(*names) & {"torch", "numpy", "textual", "monitors", "lattice", "app"} == set()


def test_monitors_but_torch_memory_load_without_torch():
    names = [module(path) for path in SOURCES if path.parts[0] == "monitors" and path.stem != "torch_memory"]
    assert len(names) > 3
    assert loaded_by(*names) & {"torch", "numpy", "textual", "lattice", "app"} == set()


def test_the_side_of_the_commands_that_starts_loads_without_torch():
    names = [module(path) for path in SOURCES if path.parts[:2] == ("app", "commands")]
    assert len(names) > 15
    names += [f"app.{name}" for name in ("cli", "finding", "wire.protocol", "wire.client", "run_process.launch")]
    assert loaded_by(*names) & {"torch", "numpy", "textual", "sklearn", "tokenizers", "sacrebleu", "lattice"} == set()


def test_the_lattice_loads_without_a_terminal_interface():
    # Triton is there where torch is built for CUDA.
    of_triton = set() if importlib.util.find_spec("triton") else {"triton_tick"}
    names = [module(path) for path in SOURCES if path.parts[0] == "lattice" and path.stem not in of_triton]
    assert loaded_by(*names) & {"torch", "textual", "typer", "app"} == {"torch"}


def test_the_version_is_the_one_of_the_package():
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == VERSION
