"""Tests of checkpoints: each is complete and verified, or not there.  A failed save leaves earlier ones as they were."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from lattice.training import checkpoint
from lattice.training.checkpoint import CheckpointError, best_path, load, load_newest, mark_best, retire, save, steps

TOKENIZER = '{"made": "ülp"}'
STATE = {"progress": {"step": 1, "loss": None}, "data": "abc"}
FILES = ("model.safetensors", "optimizer.safetensors", "state.json", "tokenizer.json")


def model(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "a": torch.randn(3, 4, generator=generator),
        "half": torch.randn(5, generator=generator).to(torch.bfloat16),
        "mask": torch.tensor([True, False]),
        "labels": torch.arange(4),
        "scalar": torch.tensor(2.5),
    }


def optimizer(seed: int = 0) -> dict[str, torch.Tensor]:
    return {"a/step": torch.tensor(3.0), "a/exp_avg": model(seed + 100)["a"]}


def put(folder: Path, step: int) -> Path:
    return save(folder, step, model(step), optimizer(step), STATE, TOKENIZER)[0]


def assert_holds(saved, step: int) -> None:
    for found, wanted in ((saved.model, model(step)), (saved.optimizer, optimizer(step))):
        assert found.keys() == wanted.keys()
        for name in wanted:
            assert found[name].dtype == wanted[name].dtype and torch.equal(found[name], wanted[name])


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("step-"))


# There and back


def test_a_save_does_not_make_a_run_folder_again_that_was_moved(tmp_path):
    with pytest.raises(CheckpointError, match="No such file or directory"):
        put(tmp_path / "moved" / "checkpoints", 7)
    assert list(tmp_path.iterdir()) == []


def test_what_is_saved_is_loaded_exactly(tmp_path):
    folder = tmp_path / "checkpoints"
    path, size = save(folder, 7, model(7), optimizer(7), STATE, TOKENIZER)
    assert path == folder / "step-00000007"
    assert size == sum((path / name).stat().st_size for name in FILES)
    saved = load(path)
    assert_holds(saved, 7)
    assert saved.state.items() >= STATE.items()
    assert (saved.tokenizer, saved.path) == (TOKENIZER, path)
    assert leftovers(folder) == []


def test_strided_tensors_are_saved_by_value(tmp_path):
    base = torch.arange(12.0).view(3, 4)
    path, _ = save(tmp_path, 1, {"column": base[:, 2], "turned": base.T}, {}, {}, "")
    found = load(path).model
    assert torch.equal(found["column"], torch.tensor([2.0, 6.0, 10.0])) and torch.equal(found["turned"], base.T)


def test_folders_are_private(tmp_path):
    path = put(tmp_path / "checkpoints", 1)
    assert [folder.stat().st_mode & 0o777 for folder in (path, path.parent)] == [0o700, 0o700]


def test_saving_a_step_again_replaces_it(tmp_path):
    put(tmp_path, 1)
    save(tmp_path, 1, model(50), optimizer(50), STATE, TOKENIZER)
    assert_holds(load_newest(tmp_path)[0], 50)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_steps_sort_by_number_even_beyond_eight_digits(tmp_path):
    for step in (99_999_999, 100_000_000, 5):
        put(tmp_path, step)
    assert [step for step, _ in steps(tmp_path)] == [100_000_000, 99_999_999, 5]


# Damage


def flip_a_byte(path: Path) -> str:
    file = path / "model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-3] ^= 0x10
    file.write_bytes(raw)
    return "model.safetensors: does not match its manifest"


def truncate(path: Path) -> str:
    file = path / "optimizer.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    return "optimizer.safetensors: does not match its manifest"


def change_the_state(path: Path) -> str:
    (path / "state.json").write_text("{}")
    return "state.json: does not match its manifest"


def lose_a_file(path: Path) -> str:
    (path / "tokenizer.json").unlink()
    return "tokenizer.json"


def halve_the_manifest(path: Path) -> str:
    file = path / "MANIFEST.json"
    file.write_text(file.read_text()[: len(file.read_text()) // 2])
    return "is not a checkpoint of this program"


def forget_a_file_in_the_manifest(path: Path) -> str:
    manifest = json.loads((path / "MANIFEST.json").read_text())
    del manifest["files"]["state.json"]
    (path / "MANIFEST.json").write_text(json.dumps(manifest))
    return "state.json"


def write_a_manifest_that_is_a_list(path: Path) -> str:
    (path / "MANIFEST.json").write_text("[]")
    return "is not a checkpoint of this program"


def write_a_manifest_of_another_format(path: Path) -> str:
    (path / "MANIFEST.json").write_text('{"format": 99}')
    return "written in format 99; this version reads format 1"


def replace_it_by_a_foreign_folder(path: Path) -> str:
    shutil.rmtree(path)
    path.mkdir()
    (path / "MANIFEST.json").write_bytes(b"\xff\xfe no JSON")
    (path / "photo.jpg").write_bytes(b"\xff\xd8")
    return "is not a checkpoint of this program"


DAMAGES = [
    flip_a_byte,
    truncate,
    change_the_state,
    lose_a_file,
    halve_the_manifest,
    forget_a_file_in_the_manifest,
    write_a_manifest_that_is_a_list,
    write_a_manifest_of_another_format,
    replace_it_by_a_foreign_folder,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused_and_the_older_one_is_loaded_instead(tmp_path, damage):
    put(tmp_path, 1)
    newest = put(tmp_path, 2)
    reason = damage(newest)
    with pytest.raises(CheckpointError) as refused:
        load(newest)
    assert str(newest) in str(refused.value) and reason in str(refused.value)
    saved, passed_over = load_newest(tmp_path)
    assert_holds(saved, 1)
    assert passed_over == [str(refused.value)]


def test_a_folder_without_a_manifest_does_not_count_as_a_checkpoint(tmp_path):
    put(tmp_path, 1)
    (put(tmp_path, 2) / "MANIFEST.json").unlink()
    saved, passed_over = load_newest(tmp_path)
    assert_holds(saved, 1)
    assert passed_over == []


def test_without_a_sound_checkpoint_every_reason_is_told(tmp_path):
    reasons = [damage(put(tmp_path, step)) for step, damage in enumerate((flip_a_byte, truncate), 1)]
    with pytest.raises(CheckpointError, match="no complete checkpoint") as refused:
        load_newest(tmp_path)
    assert all(reason in str(refused.value) for reason in reasons)


@pytest.mark.parametrize("place", ["missing", "file"])
def test_a_place_without_checkpoints_says_so(tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=f"{place}: no complete checkpoint$"):
        load_newest(tmp_path / place)


# Interrupted saves


def calls_of_one_save(monkeypatch, tmp_path: Path, name: str, again: bool) -> int:
    """How often a save calls `name`."""
    owner, attribute = (os, "rename") if name == "rename" else (checkpoint, name)
    honest, seen = getattr(owner, attribute), []
    folder = tmp_path / "counted"
    put(folder, 1)
    with monkeypatch.context() as patch:
        patch.setattr(owner, attribute, lambda *a, **k: (seen.append(a), honest(*a, **k))[1])
        put(folder, 1 if again else 2)
    return len(seen)


@pytest.mark.parametrize("again", [False, True], ids=["a new step", "the same step again"])
@pytest.mark.parametrize("name", ["rename", "save_file", "_sync"])
def test_a_save_that_fails_at_any_file_operation_leaves_a_loadable_checkpoint_and_no_leftovers(
    tmp_path, monkeypatch, name, again
):
    owner, attribute = (os, "rename") if name == "rename" else (checkpoint, name)
    honest = getattr(owner, attribute)
    count = calls_of_one_save(monkeypatch, tmp_path, name, again)
    assert count >= {"rename": 1 + again, "save_file": 2, "_sync": 7}[name]
    for fatal in range(count):
        folder = tmp_path / f"fails-{fatal}"
        put(folder, 1)
        calls = iter(range(count))

        def full(*arguments, calls=calls, fatal=fatal):
            if next(calls, fatal + 1) == fatal:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return honest(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(owner, attribute, full)
            with pytest.raises(CheckpointError, match="could not be saved: No space left on device"):
                save(folder, 1 if again else 2, model(9), optimizer(9), STATE, TOKENIZER)
        saved, passed_over = load_newest(folder)
        assert passed_over == []
        # Only the last sync, of the parent, comes when the new checkpoint already stands.
        new_one_stands = name == "_sync" and fatal == count - 1
        assert_holds(saved, 9 if new_one_stands else 1)
        assert leftovers(folder) == []
        put(folder, 3)
        assert_holds(load_newest(folder)[0], 3)


def test_a_crash_between_the_two_renames_of_a_repeated_step_loses_no_checkpoint(tmp_path, monkeypatch):
    class PowerCut(BaseException):
        pass

    put(tmp_path, 1)
    put(tmp_path, 2)
    honest, seen = os.rename, []

    def cut(source, target):
        if seen:
            raise PowerCut
        seen.append(target)
        honest(source, target)

    with monkeypatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr(os, "rename", cut)
        save(tmp_path, 2, model(9), optimizer(9), STATE, TOKENIZER)
    assert_holds(load_newest(tmp_path)[0], 2)
    retire(tmp_path, 2)
    assert [step for step, _ in steps(tmp_path)] == [2, 1] and leftovers(tmp_path) == []


def test_a_disk_that_is_too_full_is_told_before_anything_is_written(tmp_path, monkeypatch):
    put(tmp_path, 1)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 1000, 1000))
    monkeypatch.setattr(checkpoint, "save_file", lambda *_: pytest.fail("wrote to a full disk"))
    with pytest.raises(CheckpointError, match=r"MB free, a save needs .* MB; make room"):
        put(tmp_path, 2)
    assert_holds(load_newest(tmp_path)[0], 1)
    assert leftovers(tmp_path) == []


def test_a_path_below_a_file_is_refused_in_words(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="Not a directory"):
        put(tmp_path / "file" / "below", 1)


# Which ones are kept


def test_retiring_keeps_the_newest_and_the_best_and_removes_leftovers(tmp_path):
    paths = {step: put(tmp_path, step) for step in range(1, 7)}
    assert mark_best(tmp_path, paths[2], 40.0, "bleu")
    (paths[6] / "MANIFEST.json").unlink()  # a torn one is no checkpoint: it must not push a complete one out
    (tmp_path / ".tmp-step-00000007").mkdir()
    (tmp_path / ".old-step-00000005").mkdir()
    retire(tmp_path, 2)
    assert [step for step, _ in steps(tmp_path)] == [5, 4, 2]
    assert leftovers(tmp_path) == ["best.json"]


@pytest.mark.parametrize("harm", ["one letter", "shorter", "gone", "manifest"])
def test_a_damaged_checkpoint_is_not_counted_as_one_that_is_kept(tmp_path, harm):
    paths = {step: put(tmp_path, step) for step in range(1, 6)}
    file = paths[4] / ("MANIFEST.json" if harm == "manifest" else "model.safetensors")
    if harm == "gone":
        file.unlink()
    else:
        content = file.read_bytes()
        file.write_bytes({"shorter": content[:-9], "one letter": content[:-1] + b"?", "manifest": b"{"}[harm])
    retire(tmp_path, 2, [paths[5]])
    assert [step for step, _ in steps(tmp_path)] == [5, 4, 3]
    put(tmp_path, 6)
    retire(tmp_path, 2)
    assert [step for step, _ in steps(tmp_path)] == [6, 5]


def test_what_this_process_has_saved_is_not_read_again(tmp_path, monkeypatch):
    paths = [put(tmp_path, step) for step in range(1, 4)]
    monkeypatch.setattr(checkpoint, "_digest", lambda file: pytest.fail(f"read {file}"))
    retire(tmp_path, 2, paths)
    assert [step for step, _ in steps(tmp_path)] == [3, 2]


def test_only_a_higher_score_takes_over_the_mark_of_the_best(tmp_path):
    first, second, third = (put(tmp_path, step) for step in (1, 2, 3))
    assert best_path(tmp_path) is None
    assert mark_best(tmp_path, first, 10.0, "bleu")
    assert not mark_best(tmp_path, second, 10.0, "bleu")
    assert best_path(tmp_path) == first
    assert mark_best(tmp_path, third, 10.5, "bleu")
    assert best_path(tmp_path) == third


def test_between_equal_scores_ties_decide_and_unknown_ones_rank_below(tmp_path):
    first, second, third = (put(tmp_path, step) for step in (1, 2, 3))
    assert mark_best(tmp_path, first, 0.0, "bleu")
    assert mark_best(tmp_path, second, 0.0, "bleu", (20.0, 0.5, -1.0))
    assert not mark_best(tmp_path, third, 0.0, "bleu", (20.0, 0.5, -1.0))
    assert mark_best(tmp_path, third, 0.0, "bleu", (20.0, 0.5, -0.9))
    assert best_path(tmp_path) == third


def test_scores_of_another_measure_are_not_compared(tmp_path):
    first, second, third = (put(tmp_path, step) for step in (1, 2, 3))
    assert mark_best(tmp_path, first, 90.0, "bleu")
    assert mark_best(tmp_path, second, 10.0, "exact")
    assert not mark_best(tmp_path, third, 10.0, "exact")
    assert best_path(tmp_path) == second


def test_a_mark_of_version_0_1_0_is_one_of_bleu(tmp_path):
    first, second = put(tmp_path, 1), put(tmp_path, 2)
    (tmp_path / "best.json").write_text('{"name": "step-00000001", "bleu": 40.0}')
    assert best_path(tmp_path) == first
    assert not mark_best(tmp_path, second, 39.0, "bleu")
    assert mark_best(tmp_path, second, 41.0, "bleu")
    assert best_path(tmp_path) == second


def test_a_best_checkpoint_that_is_gone_no_longer_counts(tmp_path):
    first, second = put(tmp_path, 1), put(tmp_path, 2)
    mark_best(tmp_path, first, 90.0, "bleu")
    shutil.rmtree(first)
    assert best_path(tmp_path) is None
    assert mark_best(tmp_path, second, 1.0, "bleu")
    assert best_path(tmp_path) == second


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "null",
        '{"name": "step-00000001"}',
        '{"name": "../../etc", "bleu": 1}',
        '{"name": 3, "bleu": "x"}',
        '{"name": "step-00000001", "measure": "exact", "score": null}',
    ],
)
def test_a_mark_that_can_not_be_read_counts_as_none(tmp_path, content):
    put(tmp_path, 1)
    (tmp_path / "best.json").write_text(content)
    assert best_path(tmp_path) is None


# Several users


class Closed:
    """Folders that another user has closed: nothing in them can be looked at."""

    def __init__(self, monkeypatch, *closed: Path) -> None:
        looked, access = os.stat, os.access

        def refuse(path, *arguments, **options):
            if not isinstance(path, int) and Path(path).parent in closed:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return looked(path, *arguments, **options)

        monkeypatch.setattr(os, "stat", refuse)
        monkeypatch.setattr(os, "lstat", lambda path, **options: refuse(path, follow_symlinks=False, **options))
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) not in closed and access(path, mode))


def test_a_checkpoint_that_another_user_has_closed_is_passed_over_and_named(tmp_path, monkeypatch):
    put(tmp_path, 1)
    foreign = put(tmp_path, 2)
    Closed(monkeypatch, foreign)
    saved, passed_over = load_newest(tmp_path)
    assert saved.path.name == "step-00000001"
    assert passed_over == [f"{foreign}: no permission to read it; it belongs to user {os.getuid()}, you are user {os.getuid()}"]


def test_a_checkpoint_that_another_user_has_closed_is_neither_counted_nor_deleted(tmp_path, monkeypatch):
    first, second = put(tmp_path, 1), put(tmp_path, 2)
    foreign = put(tmp_path, 3)
    mark_best(tmp_path, foreign, 1.0, "bleu")
    Closed(monkeypatch, foreign)
    assert best_path(tmp_path) is None
    retire(tmp_path, keep=1)
    monkeypatch.undo()
    assert (first.exists(), second.exists(), foreign.exists()) == (False, True, True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_saves_into_a_users_run_is_the_users(tmp_path):
    os.chown(tmp_path, 12345, 12346)
    path = put(tmp_path / "checkpoints", 1)
    mark_best(tmp_path / "checkpoints", path, 1.0, "bleu")
    made = list(tmp_path.rglob("*"))
    assert len(made) == 8
    assert {(each.stat().st_uid, each.stat().st_gid) for each in made} == {(12345, 12346)}
