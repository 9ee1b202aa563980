"""Folders of a user are found without a home folder, or refused with what would help."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from app import formats
from monitors import measured, places
from monitors.runs import runs_dir


@pytest.fixture
def homeless(monkeypatch):
    """A user whom no passwd entry knows, without HOME, as containers start programs."""

    def nowhere():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nowhere)


def test_without_a_home_folder_only_runs_without_a_place_are_refused(homeless, monkeypatch):
    with pytest.raises(places.NoHome, match="has no home folder to keep runs in; name a place with --runs-dir, or set HOME"):
        runs_dir(None)
    assert runs_dir(Path("/there")) == Path("/there")
    assert places.cache_folder() is None and measured.place() is None
    assert formats.path(Path("/there/run")) == "/there/run"
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert runs_dir(None) == Path("/state/lattice-tui/runs")


def test_a_cache_home_that_is_relative_does_not_count(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    assert places.cache_folder() == Path("/home/someone/.cache/lattice-tui")


def private_folders(monkeypatch, runtime: str, temporary: Path) -> list[Path]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    return list(places.private_folders())


def test_private_folders_are_made_for_their_owner_alone(monkeypatch, tmp_path):
    (tmp_path / "runtime").mkdir()
    found = private_folders(monkeypatch, str(tmp_path / "runtime"), tmp_path)
    assert found == [tmp_path / "runtime" / "lattice-tui", tmp_path / f"lattice-tui-{os.getuid()}"]
    assert {path.stat().st_mode & 0o777 for path in found} == {0o700}


@pytest.mark.parametrize("runtime", ["", "relative", "/nowhere/to/be/found"])
def test_a_runtime_folder_that_is_not_there_gives_way_to_the_temporary_one(runtime, monkeypatch, tmp_path):
    assert private_folders(monkeypatch, runtime, tmp_path) == [tmp_path / f"lattice-tui-{os.getuid()}"]


def test_a_link_or_a_folder_of_others_is_no_private_folder(monkeypatch, tmp_path):
    (tmp_path / "runtime").mkdir()
    (tmp_path / "runtime" / "lattice-tui").mkdir(mode=0o755)
    (tmp_path / f"lattice-tui-{os.getuid()}").symlink_to(tmp_path / "runtime")
    assert private_folders(monkeypatch, str(tmp_path / "runtime"), tmp_path) == []
