"""Checkpoints on disk: folders of safetensors and JSON.  A checkpoint is either complete and verified, or it is not there.

    checkpoints/step-00000500/  model.safetensors  optimizer.safetensors  state.json  tokenizer.json  MANIFEST.json

A save writes and syncs every file in a temporary folder.  The manifest, with the size and the SHA-256 of each file, comes last.
Then the folder is renamed into its place, and its parent folder is synced.

A folder is no checkpoint if its manifest is missing or does not verify.  Loading passes it over and says why.  Deleting old
checkpoints does not count it as one of those to keep.  There is no pickle in a checkpoint.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from monitors.plain_files import atomic_write, give_to_owner, remove_torn
from presets.measure import Measure

FORMAT = 1
MANIFEST = "MANIFEST.json"
_NAME = re.compile(r"step-(\d{8,})$")
_ASIDE = ".old-"
"""Prefix of the old checkpoint of a step, while a new one of the same step is put in its place."""
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What reading a file raises that is not what it should be."""
_FILES = ("model.safetensors", "optimizer.safetensors", "state.json", "tokenizer.json")


class CheckpointError(RuntimeError):
    """A checkpoint can't be written or read.  The message says which file is concerned and why."""


@dataclass(frozen=True)
class LoadedCheckpoint:
    """The content of one checkpoint.  All tensors are on the CPU."""

    path: Path
    model: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]
    state: dict[str, Any]
    tokenizer: str


def save(
    folder: Path,
    step: int,
    model: dict[str, torch.Tensor],
    optimizer: dict[str, torch.Tensor],
    state: dict[str, Any],
    tokenizer: str,
) -> tuple[Path, int]:
    """Writes the checkpoint of `step` into `folder`.  Returns its path and its size in bytes.

    Whatever was there before is touched only after the new checkpoint is complete.
    Raises CheckpointError if there is too little room, or if a file can't be written.
    """
    target, temporary = folder / f"step-{step:08d}", folder / f".tmp-step-{step:08d}"
    aside = folder / f"{_ASIDE}{target.name}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)  # never the run folder, which may have been moved
        give_to_owner(folder, folder.parent)
        _remove(temporary)
        needed = sum(tensor.nbytes for tensor in (*model.values(), *optimizer.values()))
        free = shutil.disk_usage(folder).free
        wanted = 1.1 * needed + 1_000_000
        if free < wanted:
            raise CheckpointError(f"{folder}: {free / 1e6:,.1f} MB free, a save needs {wanted / 1e6:,.1f} MB; make room")
        temporary.mkdir(mode=0o700)
        give_to_owner(temporary, folder)
        for name, tensors in (("model.safetensors", model), ("optimizer.safetensors", optimizer)):
            # safetensors refuses strided tensors.
            save_file({key: value.detach().to("cpu").contiguous() for key, value in tensors.items()}, temporary / name)
        (temporary / "state.json").write_text(json.dumps({"format": FORMAT, **state}, sort_keys=True), encoding="utf-8")
        (temporary / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
        manifest: dict[str, dict[str, object]] = {}
        written = 0
        for name in _FILES:
            _sync(temporary / name)
            size = (temporary / name).stat().st_size
            manifest[name] = {"bytes": size, "sha256": _digest(temporary / name)}
            written += size
        (temporary / MANIFEST).write_text(json.dumps({"format": FORMAT, "step": step, "files": manifest}), encoding="utf-8")
        _sync(temporary / MANIFEST)
        for path in temporary.iterdir():
            give_to_owner(path, folder)
        _sync(temporary)
        if target.exists():  # a resumed run saves a step again: the old one is moved aside first, so that one is always there
            _remove(aside)
            os.rename(target, aside)
            os.rename(temporary, target)
            _remove(aside)
        else:
            os.rename(temporary, target)
        _sync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if aside.exists() and not target.exists():
            with contextlib.suppress(OSError):  # even if this fails, `steps` finds the old checkpoint
                os.rename(aside, target)
        reason = getattr(error, "strerror", None) or str(error)
        raise CheckpointError(f"{target}: could not be saved: {reason}") from error
    return target, written


def steps(folder: Path) -> list[tuple[int, Path]]:
    """Lists (step, path) of the checkpoint folders that have a manifest, newest first.  Verifies none of them.

    One that another user has closed counts: loading it says why it can't be read.

    A checkpoint that was moved aside counts if a crash kept the new one of its step from taking its place.
    """
    if not folder.is_dir():
        return []
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):  # one that was moved aside sorts first, so that the new one of its step replaces it
        match = _NAME.match(path.name.removeprefix(_ASIDE))
        if match and not path.is_symlink() and _has_manifest(path):
            found[int(match[1])] = path
    return sorted(found.items(), reverse=True)


def _has_manifest(path: Path) -> bool:
    try:
        return (path / MANIFEST).is_file()
    except PermissionError:
        return True


def load(path: Path) -> LoadedCheckpoint:
    """Loads one checkpoint and verifies it against its manifest.  Raises CheckpointError, which names the damaged file."""
    try:
        _verify(path)
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        tokenizer = (path / "tokenizer.json").read_text(encoding="utf-8")
        model, optimizer = load_file(path / "model.safetensors"), load_file(path / "optimizer.safetensors")
    except PermissionError as error:
        told = f"{path}: no permission to read it; it belongs to user {path.lstat().st_uid}, you are user {os.geteuid()}"
        raise CheckpointError(told) from error
    except (*_UNREADABLE, SafetensorError) as error:
        raise CheckpointError(f"{path}: is not a checkpoint of this program ({type(error).__name__}: {error})") from error
    return LoadedCheckpoint(path, model, optimizer, state, tokenizer)


def _verify(path: Path) -> None:
    """Holds the files of a checkpoint against its manifest.  Raises CheckpointError, or one of _UNREADABLE."""
    for name in (MANIFEST, *_FILES):
        if not stat.S_ISREG((path / name).lstat().st_mode):  # reading a link to a device might never end
            raise CheckpointError(f"{path / name}: is not a plain file; the checkpoint is damaged")
    manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    if manifest.get("format") != FORMAT:
        raise CheckpointError(f"{path}: written in format {manifest.get('format')!r}; this version reads format {FORMAT}")
    for name in _FILES:
        entry, file = manifest["files"][name], path / name
        if file.stat().st_size != entry["bytes"] or _digest(file) != entry["sha256"]:
            raise CheckpointError(f"{file}: does not match its manifest; the checkpoint is damaged")


def _is_whole(path: Path) -> bool:
    try:
        _verify(path)
    except (*_UNREADABLE, CheckpointError):
        return False
    return True


def load_newest(folder: Path) -> tuple[LoadedCheckpoint, list[str]]:
    """Loads the newest checkpoint that verifies.  Returns it, and one reason for each newer one that was passed over.

    Raises CheckpointError if no checkpoint verifies.
    """
    passed_over: list[str] = []
    for _, path in steps(folder):
        try:
            return load(path), passed_over
        except CheckpointError as error:
            passed_over.append(str(error))
    detail = f" ({'; '.join(passed_over)})" if passed_over else ""
    raise CheckpointError(f"{folder}: no complete checkpoint{detail}")


def mark_best(folder: Path, path: Path, score: float, measure: Measure, ties: tuple[float, ...] = ()) -> bool:
    """Marks `path` as the best checkpoint, unless another one that is still there scored at least as high by the same measure.

    Between equal scores, `ties` decide (presets.measure); one whose ties are not known ranks below.  Returns whether it was
    marked.  Raises OSError if the mark can't be written.
    """
    standing = _best(folder)
    comparable = standing is not None and standing.path != path and standing.measure == measure
    if standing is not None and comparable and (standing.score, *standing.ties) >= (score, *ties):
        return False
    atomic_write(folder / "best.json", json.dumps({"name": path.name, "measure": measure, "score": score, "ties": ties}))
    return True


def best_path(folder: Path) -> Path | None:
    """The checkpoint that `mark_best` marked, or None if it is no longer there."""
    standing = _best(folder)
    return standing.path if standing else None


@dataclass(frozen=True)
class _Best:
    path: Path
    score: float
    measure: str
    ties: tuple[float, ...]


def _best(folder: Path) -> _Best | None:
    """What best.json says.  In version 0.1.0 it had `bleu`, and neither score nor measure nor ties."""
    try:
        entry = json.loads((folder / "best.json").read_text(encoding="utf-8"))
        name, measure = str(entry["name"]), str(entry.get("measure", "bleu"))
        score, ties = entry["score"] if "score" in entry else entry["bleu"], tuple(map(float, entry.get("ties", ())))
        found = _Best(folder / name, float(score), measure, ties)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
    return found if _NAME.match(name) and os.path.isfile(found.path / MANIFEST) else None


def retire(folder: Path, keep: int, own: Collection[Path] = ()) -> None:
    """Deletes all checkpoints but the `keep` newest and the best one.  Deletes what interrupted saves left behind, too.

    A damaged one among the newest stays, and does not count.  Those that another user has closed are neither counted nor
    deleted.  `own` are those that this process has saved itself.  They were verified as they were written, and are not read
    again.
    """
    best, kept = best_path(folder), 0
    for _, path in steps(folder):
        if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            continue
        if kept < keep:
            kept += path in own or _is_whole(path)
        elif path != best:
            _remove(path)
    remove_torn(folder)
    for path in folder.glob(".tmp-step-*"):
        _remove(path)
    for path in folder.glob(f"{_ASIDE}step-*"):
        # A crash came between the two renames.  This checkpoint is needed unless the new one of its step is in place.
        target = folder / path.name.removeprefix(_ASIDE)
        if (target / MANIFEST).is_file():
            _remove(path)
        else:
            os.rename(path, target)


def _remove(path: Path) -> None:
    """Deletes a folder.  The manifest goes first, so that what a crash leaves behind is no checkpoint."""
    if path.is_symlink():  # only the link goes, never its target
        path.unlink()
    elif path.exists():
        (path / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(path)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
