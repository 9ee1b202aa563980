"""A program that saves checkpoints and dies while it does: `python dying_saves.py SCENARIO FOLDER`.

It prints a line of JSON for every death.  Scenarios:

    kill new      saves a step that is not there yet; SIGKILL ends a forked child before its k-th file operation, for every k
                  until the save is complete
    kill again    the same with a step that is there already
    limit         stops the child's writing after N bytes of a file, as a full disk does, for several N
    full          needs a FOLDER on a small file system
    read-only     needs a FOLDER on a file system that is read-only

The children are forked from one process that has torch loaded, so a death takes milliseconds.  File operations are those that
Python's audit events report (open, mkdir, rename, remove, rmdir, listing, chmod), every fsync, and the middle and the end of
every write.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from lattice.training import checkpoint

OPERATIONS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir", "os.scandir", "os.chmod", "os.truncate"}
KEEP = 2


def tensors(step: int) -> dict[str, torch.Tensor]:
    return {"a": torch.full((600,), float(step)), "b": torch.arange(40) * step}


def put(folder: Path, step: int, version: int = 0) -> None:
    """Does what a checkpointer does: saves, marks the best, retires."""
    values = tensors(step + 1000 * version)
    path, _ = checkpoint.save(folder, step, values, values, {"progress": {"step": step, "version": version}}, "{}" * 500)
    checkpoint.mark_best(folder, path, float(step), "bleu")
    checkpoint.retire(folder, KEEP)


def found(folder: Path) -> dict[str, object]:
    """The checkpoint that a resumed run would take, and the steps of all complete checkpoints."""
    saved, passed_over = checkpoint.load_newest(folder)
    progress = saved.state["progress"]
    wanted = tensors(progress["step"] + 1000 * progress["version"])
    whole = all(torch.equal(values[name], wanted[name]) for values in (saved.model, saved.optimizer) for name in wanted)
    complete = []
    for step, path in checkpoint.steps(folder):
        try:
            checkpoint.load(path)
            complete.append(step)
        except checkpoint.CheckpointError:
            pass
    return progress | {"whole": whole, "passed_over": passed_over, "complete": complete}


def forked(work: Callable[[], None]) -> tuple[int, str]:
    """Runs a function in a child process.  Returns the exit status, and the message of CheckpointError."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        status = 1
        try:
            work()
            status = 0
        except checkpoint.CheckpointError as error:
            os.write(writing, str(error).encode())
            status = 3
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as said:
        words = said.read()
    return os.waitpid(child, 0)[1], words


def die_before(fatal: int) -> None:
    """From here on, the process is killed before its file operation number `fatal`."""
    seen = 0

    def tick(_: object = None) -> None:
        nonlocal seen
        seen += 1
        if seen == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(lambda event, _: tick() if event in OPERATIONS else None)
    sync, write_text, save_file = os.fsync, Path.write_text, checkpoint.save_file

    def torn_text(path: Path, text: str, **options: object) -> None:
        write_text(path, text[: len(text) // 2], **options)
        tick()
        write_text(path, text, **options)
        tick()

    def torn_tensors(values: dict[str, torch.Tensor], path: Path) -> None:
        save_file(values, path)
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        tick()
        path.write_bytes(whole)
        tick()

    os.fsync = lambda descriptor: (tick(), sync(descriptor))[1]
    Path.write_text, checkpoint.save_file = torn_text, torn_tensors


def tell(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


def kill(folder: Path, again: bool) -> None:
    fatal, status = 0, -1
    while status:
        fatal += 1
        shutil.rmtree(folder, ignore_errors=True)
        for step in (1, 2, 3):
            put(folder, step)

        def save(fatal: int = fatal) -> None:
            die_before(fatal)
            put(folder, 3 if again else 4, version=1)

        status, _ = forked(save)
        after = found(folder)
        put(folder, 5)
        left = sorted(path.name for path in folder.iterdir() if not path.name.startswith("step-"))
        tell(at=fatal, killed=os.WIFSIGNALED(status), left=left, then=found(folder)["step"], **after)


def limit(folder: Path) -> None:
    for most in (*range(0, 8000, 500), 10**9):
        shutil.rmtree(folder, ignore_errors=True)
        put(folder, 1)

        def save(most: int = most) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
            put(folder, 2)

        _, words = forked(save)
        left = sorted(path.name for path in folder.iterdir() if not path.name.startswith("step-"))
        tell(at=most, said=words, left=left, **found(folder))


def full(folder: Path) -> None:
    """Fills up the small file system of `folder`, checkpoint by checkpoint.  The check of free space is switched off."""
    honest = shutil.disk_usage
    shutil.disk_usage = lambda path: honest(path)._replace(free=10**12)
    checkpoint.retire = lambda *_: None
    for step in range(1, 1000):
        try:
            put(folder, step)
        except (checkpoint.CheckpointError, OSError) as error:
            tell(at=step, said=str(error), **found(folder))
            return


def read_only(folder: Path) -> None:
    """Saves on a read-only file system that has checkpoints, which `put` made before it became read-only."""
    try:
        put(folder, 2)
    except checkpoint.CheckpointError as error:
        tell(said=str(error), **found(folder))


if __name__ == "__main__":
    torch.set_num_threads(1)
    scenario, place = sys.argv[1], Path(sys.argv[2])
    match scenario:
        case "kill new" | "kill again":
            kill(place, scenario == "kill again")
        case "limit":
            limit(place)
        case "full":
            full(place)
        case "put":
            put(place, 1)
        case "read-only":
            read_only(place)
