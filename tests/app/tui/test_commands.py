"""The commands around the screens: what they load, what they say without a terminal, the picture."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def loaded(code: str) -> set[str]:
    """First parts of the names of the modules that a fresh interpreter has after this code."""
    code += "\nimport json, sys; print('\\n' + json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_help_loads_neither_torch_nor_textual():
    code = "import sys\nsys.argv = ['lattice-tui', '--help']\nfrom app.cli import main\ntry: main()\nexcept SystemExit: pass"
    assert loaded(code) & {"torch", "numpy", "textual", "sklearn", "tokenizers", "lattice"} == set()


def test_the_interface_loads_without_torch():
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in (ROOT / "app" / "tui").rglob("*.py")]
    names = [name.removesuffix(".__init__") for name in names]
    assert len(names) > 15
    code = "import app.tui.app\n" + "\n".join(f"import {name}" for name in names)
    assert loaded(code) & {"torch", "numpy", "textual", "sklearn", "tokenizers", "lattice"} == {"textual"}


def test_a_whole_home_screen_is_drawn_without_torch(tmp_path):
    code = f"""
import asyncio
from pathlib import Path
from app.tui.app import LatticeApp
async def show():
    async with LatticeApp(Path({str(tmp_path)!r})).run_test(size=(80, 24)) as pilot:
        await pilot.press("enter")
        await pilot.pause()
asyncio.run(show())
"""
    assert loaded(code) & {"torch", "textual", "lattice"} == {"textual"}


def test_the_refresh_rate_is_low_and_set_before_textual_is_there():
    code = "from app.tui import environment; environment.prepare({}); import textual.constants as c; print(c.MAX_FPS)"
    for fps, shown in (("None", "30"), ("3", "3")):
        done = subprocess.run([sys.executable, "-c", code.format(fps)], cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == shown


def test_without_a_terminal_the_screens_say_what_else_there_is(cli, recorded, runs_dir):
    for command in ([], ["attach", "last"]):
        told = cli(*(command or []), "--runs-dir", runs_dir)
        assert told.code == 2 and "needs a terminal" in told.err


def test_attach_to_no_such_run_is_exit_code_5(cli, runs_dir):
    assert cli("attach", "nothing-like-it", "--runs-dir", runs_dir).code == 5


def test_a_screenshot_is_an_svg_of_the_run(cli, recorded, runs_dir, tmp_path):
    out = tmp_path / "run.svg"
    told = cli("screenshot", recorded.path, "--out", out, "--size", "120x40", "--runs-dir", runs_dir)
    assert told.code == 0, told.err
    said = "".join(xml.etree.ElementTree.parse(out).getroot().itertext()).replace("\xa0", " ")
    assert recorded.name in said and "step 20/20" in said
    assert cli("screenshot", "last", "--size", "big", "--runs-dir", runs_dir).code == 2
    missing = cli("screenshot", "last", "--out", tmp_path / "gone" / "a.svg", "--runs-dir", runs_dir)
    assert missing.code == 2 and "there is no folder" in missing.err


def test_a_screenshot_of_the_home_screen_lists_presets_and_runs(cli, recorded, tmp_path):
    out = tmp_path / "home.svg"
    told = cli("screenshot", "--home", "--out", out, "--size", "120x40", "--runs-dir", recorded.path.parent)
    assert told.code == 0, told.err
    said = "".join(xml.etree.ElementTree.parse(out).getroot().itertext()).replace("\xa0", " ")
    assert recorded.name in said and "baseline" in said
