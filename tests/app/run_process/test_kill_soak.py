"""Tests of a run that is killed (kill -9) at random moments, again and again: its files end as those of an undisturbed run."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from lattice.training import checkpoint
from monitors.event_log import read_events
from monitors.events import Decoded, Trained
from monitors.runs import RunFolder, list_runs

STEPS = 48
OPTIONS = ("--preset", "tiny", "--steps", STEPS, "--set", "run.threads=1", "--set", "checkpoint.every=4")
OPTIONS += ("--set", "decode.every=12", "--set", "stages.0.clustering.clusters=4", "--set", "stages.1.clustering.clusters=4")
OPTIONS += ("--set", "connections.learning=hybrid", "--set", "stages.1.sparsity=0.3")
CLOCKS = ("elapsed_s", "cpu_s", "saving_s")
"""The fields of a checkpoint that depend on time.  All else in its files is equal byte for byte, except for hashes of these."""


def place_of(runs: Path) -> RunFolder | None:
    rows = list_runs(runs)
    return RunFolder(Path(rows[0]["path"])) if rows else None


def content(folder: RunFolder) -> dict[str, bytes]:
    """The files of the newest checkpoint, without CLOCKS.  It must be complete, and the only one of its step."""
    saved, passed_over = checkpoint.load_newest(folder.checkpoints)
    assert passed_over == []
    files = {path.name: path.read_bytes() for path in saved.path.iterdir()}
    state, manifest = (json.loads(files.pop(name)) for name in ("state.json", "MANIFEST.json"))
    state["progress"] = {key: value for key, value in state["progress"].items() if key not in CLOCKS}
    for key in ("bytes", "sha256"):
        del manifest["files"]["state.json"][key]
    files["best.json"] = (folder.checkpoints / "best.json").read_bytes()
    return files | {"state.json": json.dumps(state).encode(), "MANIFEST.json": json.dumps(manifest).encode()}


def history(folder: RunFolder) -> list[tuple]:
    """Every step and look in the log, without times."""
    read = read_events(folder.events_jsonl)
    assert read.skipped == 0
    steps = [(e.step, e.stage, e.loss, e.grad_norm, e.learning_rate) for e in read.events if isinstance(e, Trained)]
    looks = [(e.step, e.bleu, e.valid_loss, e.samples, e.best) for e in read.events if isinstance(e, Decoded)]
    return steps + looks


def soak(tmp_path: Path, sentences: Path, process: type, rounds: int, seed: int) -> tuple[int, int]:
    """Kills that many times; (runs that came to their end, kills that fell into a save)."""
    draw = random.Random(seed)
    train = ("train", *OPTIONS, "--data", sentences)
    with process(tmp_path, *train, "--runs-dir", tmp_path / "whole") as run:
        assert run.wait().code == 0
    whole = place_of(tmp_path / "whole")
    kills = ended = in_saves = 0
    runs = tmp_path / "runs-0"
    while kills < rounds or not ended:
        folder = place_of(runs)
        resumable = folder is not None and checkpoint.steps(folder.checkpoints)
        if not resumable:  # killed before its first checkpoint: there is nothing to go on from
            runs = tmp_path / f"runs-{ended}-{kills}"
        command = ("train", "--resume", "last") if resumable else train
        with process(tmp_path, *command, "--runs-dir", runs) as run:
            grown, saving = draw.randrange(30), draw.random() < 0.4
            start = folder.events_jsonl.stat().st_size if resumable else 0

            def moment(runs: Path = runs, grown: int = grown, saving: bool = saving, start: int = start, run=run) -> bool:
                if run.popen.poll() is not None:
                    return True
                here = place_of(runs)
                if here is None:
                    return False
                if saving:
                    return any(here.checkpoints.glob(".tmp-step-*"))
                log = here.events_jsonl
                return log.exists() and log.stat().st_size - start > 150 * grown

            if kills < rounds:
                run.until(moment)
                if run.popen.poll() is None:
                    run.popen.kill()
            code = run.wait().code
        folder = place_of(runs)
        if code == 0:
            assert content(folder) == content(whole)
            assert history(folder) == history(whole)
            ended += 1
            runs = tmp_path / f"runs-{ended}-{kills}"
        else:
            assert code == -9
            kills += 1
            in_saves += bool(folder and any(folder.checkpoints.glob(".tmp-step-*")))
    return ended, in_saves


def test_a_run_that_is_killed_three_times_ends_in_the_files_of_the_one_that_is_not(tmp_path, sentences, process):
    ended, _ = soak(tmp_path, sentences, process, 3, seed=5)
    assert ended == 1


@pytest.mark.slow
def test_runs_that_are_killed_fifty_times_end_in_the_files_of_the_one_that_is_not(tmp_path, sentences, process):
    ended, in_saves = soak(tmp_path, sentences, process, 50, seed=11)
    print(f"{ended} runs came to their end, {in_saves} of 50 kills fell into a save")
    assert ended >= 2 and in_saves >= 3
