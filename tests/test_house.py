"""The house: what may import what, and what must load without torch."""

from __future__ import annotations

import ast
import graphlib
import importlib.util
import re
import subprocess
import sys
import tomllib
from collections import Counter
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
ROOMS = {
    "lattice": (
        {"bench"},
        {"observing"},
        {"training"},
        {"healing", "optimizers", "structure"},
        {"model"},
        {"data", "plasticity"},
        {"kernels"},
        {"random_streams"},
    ),
    "app": (
        {"cli"},
        {"commands"},
        {"bench", "experiments", "saved_models", "soak", "tui"},
        {"run_process"},
        {"wire"},
        {"child", "configure", "finding", "formats", "options", "pictures", "planning", "terminal"},
        {"new_files"},
        {"exit_codes", "streams", "version"},
    ),
}
"""The rooms of a floor from the top down; a file at the floor's root is a room by itself.  A room imports only from rooms below
it, never from one beside it."""

SOURCES = sorted(path.relative_to(ROOT) for part in MAY_IMPORT for path in (ROOT / part).rglob("*.py"))


def module(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


MODULES = {module(path) for path in SOURCES}


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


def imports(path: Path) -> set[str]:
    """First-party modules that a file imports anywhere in it: inside functions, and for type checkers alone, too."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            for name in node.names:
                full = f"{node.module}.{name.name}"  # a module, or something in one
                found.add(full if full in MODULES else node.module)
    return found & MODULES


def room(name: str) -> str:
    return name.split(".")[1]


def loaded_by(*modules: str) -> set[str]:
    """First parts of the names of all modules that importing these loads."""
    code = f"import sys, {', '.join(modules)}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_imports_follow_the_arrows_app_lattice_monitors_presets(path):
    assert imported(path) <= MAY_IMPORT[path.parts[0]]


def test_no_files_import_each_other_in_a_circle():
    sorter = graphlib.TopologicalSorter({module(path): imports(path) - {module(path)} for path in SOURCES})
    sorter.prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("floor", ROOMS)
def test_rooms_import_only_from_rooms_below_them(floor):
    height = {name: -level for level, names in enumerate(ROOMS[floor]) for name in names}
    arrows = {
        (module(path), to)
        for path in SOURCES
        if path.parts[0] == floor and len(path.parts) > 1 and module(path) != floor
        for to in imports(path)
        if to.startswith(f"{floor}.") and room(to) != room(module(path))
    }
    assert len(arrows) > 20
    assert [(a, b) for a, b in sorted(arrows) if height[room(a)] <= height[room(b)]] == []


def test_every_room_has_its_place():
    for floor, levels in ROOMS.items():
        rooms = {room(name) for name in MODULES if name.startswith(f"{floor}.")}
        assert rooms == set().union(*levels)


def written(source: str) -> list[str]:
    """Attributes that a source assigns to anything but `self` and `cls`."""
    attributes = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute))
    return [
        ast.unparse(node)
        for node in attributes
        if isinstance(node.ctx, ast.Store) and ast.unparse(node.value) not in ("self", "cls")
    ]


@pytest.mark.parametrize("path", [path for path in SOURCES if path.parts[0] in ("app", "lattice")], ids=str)
def test_who_is_given_a_training_state_changes_it_by_its_methods(path):
    owned = re.compile(r"\b(state|training|trainer|progress|model|lattice|optimizer|steering|inbox)\.\w+$")
    source = (ROOT / path).read_text(encoding="utf-8")
    assert [each for each in written(source) if owned.search(each)] == []


def test_a_write_from_outside_would_be_found():
    source = "def f(self, state, x):\n    state.progress.step += 1\n    x.model.lattice.ticks, self.y = 1, 2\n"
    assert written(source) == ["state.progress.step", "x.model.lattice.ticks"]


def test_no_two_classes_share_a_name():
    names = [
        node.name
        for path in SOURCES
        for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]
    assert len(names) > 200
    assert [name for name, count in Counter(names).items() if count > 1] == []


def test_no_two_files_share_a_name_but_those_named_for_what_a_person_types_or_sees():
    """A command's file has the command's name, an experiment's file the experiment's, a panel's file the panel's."""
    named = ("app/commands/", "app/experiments/", "app/tui/widgets/")
    stems = [path.stem for path in SOURCES if path.stem not in ("__init__",) and not path.as_posix().startswith(named)]
    assert [name for name, count in Counter(stems).items() if count > 1] == []


@pytest.mark.parametrize("path", [path for path in SOURCES if path.parts[0] == "app"], ids=str)
def test_no_console_turns_what_it_prints_into_pictures(path):
    """Rich takes `:house:` of `task:house:` for the name of an emoji, unless it is told not to."""
    calls = [node for node in ast.walk(ast.parse((ROOT / path).read_text())) if isinstance(node, ast.Call)]
    consoles = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "Console"]
    for call in consoles:
        assert "emoji" in {keyword.arg for keyword in call.keywords}, f"{path}:{call.lineno}: Console(..., emoji=False)"


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
    of_triton = set() if importlib.util.find_spec("triton") else {"triton_tick", "triton_rule"}
    names = [module(path) for path in SOURCES if path.parts[0] == "lattice" and path.stem not in of_triton]
    assert loaded_by(*names) & {"torch", "textual", "typer", "app"} == {"torch"}


def test_the_version_is_the_one_of_the_package():
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == VERSION
