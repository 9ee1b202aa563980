"""Paths of files to write are judged before the work that they are for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from app.exit_codes import ExitCode, Stop
from app.new_files import check_file


def test_a_new_file_one_that_is_there_and_a_device_pass(tmp_path: Path) -> None:
    (there := tmp_path / "there").write_text("text")
    for path in (tmp_path / "new", there, Path(os.devnull)):
        check_file("--out", path)
    assert there.read_text() == "text" and list(tmp_path.iterdir()) == [there]


def test_a_folder_a_missing_folder_and_a_place_without_access_are_refused(tmp_path: Path, monkeypatch) -> None:
    def told(path: Path) -> str:
        with pytest.raises(Stop) as refused:
            check_file("--plot", path)
        assert refused.value.code is ExitCode.USAGE
        return str(refused.value)

    assert told(tmp_path) == f"--plot {tmp_path}: is a folder; name a file"
    gone = tmp_path / "gone"
    assert told(gone / "a.png") == f"--plot {gone / 'a.png'}: there is no folder {gone}; make it first"
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "no file can be written there; name another place" in told(tmp_path / "a.png")
