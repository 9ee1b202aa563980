"""What root makes in another user's folder belongs to that user; what anybody else makes stays their own."""

from __future__ import annotations

import os

import pytest

from monitors.plain_files import atomic_write, give_to_owner, open_descriptor


def test_only_root_gives_files_away(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(os, "chown", lambda made, user, group: given.append((made, user)))
    monkeypatch.setattr(os, "stat", lambda path: os.stat_result((0o700, 1, 1, 1, 12345, 12345, 0, 0, 0, 0)))
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    give_to_owner(tmp_path / "file", tmp_path)
    assert given == []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    give_to_owner(tmp_path / "file", tmp_path)
    assert given == [(tmp_path / "file", 12345)]


def test_a_file_system_that_refuses_leaves_the_file_to_root(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise PermissionError("root is nobody here")

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "chown", refuse)
    atomic_write(tmp_path / "file", "text")
    assert (tmp_path / "file").read_text() == "text"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_files_that_root_makes_in_a_users_folder_are_the_users(tmp_path):
    os.chown(tmp_path, 12345, 12346)
    atomic_write(tmp_path / "whole", "text")
    os.close(open_descriptor(tmp_path / "log", os.O_WRONLY | os.O_CREAT))
    assert {(path.stat().st_uid, path.stat().st_gid) for path in tmp_path.iterdir()} == {(12345, 12346)}
