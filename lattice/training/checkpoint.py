"""Checkpoints: a folder of safetensors and JSON that is either complete and verified, or not there.

    checkpoints/step-00000500/  model.safetensors  optimizer.safetensors  state.json  tokenizer.json  MANIFEST.json

Written into a temporary folder, every file synced, the manifest (size and SHA-256 of each file) last, then renamed into
place and the parent synced.  A folder without a manifest that verifies is not a checkpoint: it is passed over with its
reason and never counted when old ones are deleted.  No pickle anywhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from monitors.runs import atomic_write, remove_torn

FORMAT = 1
MANIFEST = "MANIFEST.json"
_NAME = re.compile(r"step-(\d{8,})$")
_ASIDE = ".old-"
"""Prefix of the checkpoint of a step that is being saved again, until the new one stands."""
_FILES = ("model.safetensors", "optimizer.safetensors", "state.json", "tokenizer.json")


class CheckpointError(RuntimeError):
    """A checkpoint can't be written or read; the message says which file and why."""


@dataclass(frozen=True)
class LoadedCheckpoint:
    """What one checkpoint holds; tensors on the CPU."""

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
    """Writes checkpoint `step` below `folder` and verifies it; returns (path, bytes).  Raises CheckpointError.

    Nothing that was there before is touched unless the new one is complete.
    """
    target, temporary = folder / f"step-{step:08d}", folder / f".tmp-step-{step:08d}"
    aside = folder / f"{_ASIDE}{target.name}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove(temporary)
        needed = sum(tensor.nbytes for tensor in (*model.values(), *optimizer.values()))
        free = shutil.disk_usage(folder).free
        wanted = 1.1 * needed + 1_000_000
        if free < wanted:
            raise CheckpointError(f"{folder}: {free / 1e6:,.1f} MB free, a save needs {wanted / 1e6:,.1f} MB; make room")
        temporary.mkdir(mode=0o700)
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
        _sync(temporary)
        if target.exists():  # a resumed run saves a step again: move the old one aside first, so that one always stands
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
            with contextlib.suppress(OSError):  # where this fails, too, `steps` finds it all the same
                os.rename(aside, target)
        reason = getattr(error, "strerror", None) or str(error)
        raise CheckpointError(f"{target}: could not be saved: {reason}") from error
    return target, written


def steps(folder: Path) -> list[tuple[int, Path]]:
    """Checkpoint folders that carry a manifest, newest first (not yet verified).

    One that was set aside counts where a crash kept its successor from taking its place.
    """
    if not folder.is_dir():
        return []
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):  # what is set aside sorts first, and gives way to its successor
        match = _NAME.match(path.name.removeprefix(_ASIDE))
        if match and (path / MANIFEST).is_file() and not path.is_symlink():
            found[int(match[1])] = path
    return sorted(found.items(), reverse=True)


def load(path: Path) -> LoadedCheckpoint:
    """One checkpoint, verified against its manifest.  Raises CheckpointError naming the file that is wrong."""
    try:
        for name in (MANIFEST, *_FILES):
            if not stat.S_ISREG((path / name).lstat().st_mode):  # a link to a device would be read for ever
                raise CheckpointError(f"{path / name}: is not a plain file; the checkpoint is damaged")
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        if manifest.get("format") != FORMAT:
            raise CheckpointError(f"{path}: written in format {manifest.get('format')!r}; this version reads format {FORMAT}")
        for name in _FILES:
            entry, file = manifest["files"][name], path / name
            if file.stat().st_size != entry["bytes"] or _digest(file) != entry["sha256"]:
                raise CheckpointError(f"{file}: does not match its manifest; the checkpoint is damaged")
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        tokenizer = (path / "tokenizer.json").read_text(encoding="utf-8")
        model, optimizer = load_file(path / "model.safetensors"), load_file(path / "optimizer.safetensors")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise CheckpointError(f"{path}: is not a checkpoint of this program ({type(error).__name__}: {error})") from error
    return LoadedCheckpoint(path, model, optimizer, state, tokenizer)


def load_newest(folder: Path) -> tuple[LoadedCheckpoint, list[str]]:
    """The newest checkpoint that verifies, and why newer ones were passed over.  Raises CheckpointError if none does."""
    passed_over: list[str] = []
    for _, path in steps(folder):
        try:
            return load(path), passed_over
        except CheckpointError as error:
            passed_over.append(str(error))
    detail = f" ({'; '.join(passed_over)})" if passed_over else ""
    raise CheckpointError(f"{folder}: no complete checkpoint{detail}")


def mark_best(folder: Path, path: Path, bleu: float) -> bool:
    """Marks `path` as the best checkpoint if no other that still stands scored higher; says whether it did.  Raises OSError."""
    standing = _best(folder)
    if standing is not None and standing[0] != path and standing[1] >= bleu:
        return False
    atomic_write(folder / "best.json", json.dumps({"name": path.name, "bleu": bleu}))
    return True


def best_path(folder: Path) -> Path | None:
    """The checkpoint marked best by `mark_best`, if it is still there."""
    standing = _best(folder)
    return standing[0] if standing else None


def _best(folder: Path) -> tuple[Path, float] | None:
    try:
        entry = json.loads((folder / "best.json").read_text(encoding="utf-8"))
        name, bleu = str(entry["name"]), float(entry["bleu"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    return (folder / name, bleu) if _NAME.match(name) and (folder / name / MANIFEST).is_file() else None


def retire(folder: Path, keep: int) -> None:
    """Deletes all but the `keep` newest complete checkpoints and the best one; leftovers of interrupted saves, too."""
    best = best_path(folder)
    for _, path in steps(folder)[keep:]:
        if path != best:
            _remove(path)
    remove_torn(folder)
    for path in folder.glob(".tmp-step-*"):
        _remove(path)
    for path in folder.glob(f"{_ASIDE}step-*"):
        # The crash lay between two renames: the set-aside checkpoint is the complete one, unless its successor stands.
        target = folder / path.name.removeprefix(_ASIDE)
        if (target / MANIFEST).is_file():
            _remove(path)
        else:
            os.rename(path, target)


def _remove(path: Path) -> None:
    """Deletes a folder; the manifest first, so that a crash in between leaves something that is no checkpoint."""
    if path.is_symlink():  # never what it leads to
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
