"""Tests of an old run: a folder of version 0.1.0, killed in the middle of its second stage, still resumes, replays and decodes.

`run-0.1.0` was written by an early version 0.1.0, before the packages were divided into folders.  It has two stages, pruned and
regrown connections, clusters, STDP together with the gradient, Adafactor, and one setting that was changed during training.
`run-0.1.0-losses.json` has the losses of the steps after its checkpoint, as that version went on.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from monitors.event_log import each_event
from monitors.events import Decoded, Edited, Trained
from monitors.runs import RunFolder

HERE = Path(__file__).parent
NAME = "20261130-151122-tiny"


@pytest.fixture
def old_run(tmp_path):
    return Path(shutil.copytree(HERE / "run-0.1.0", tmp_path / NAME))


def test_an_old_run_resumes_with_the_losses_that_its_own_version_had(cli, old_run, tmp_path):
    told = cli("train", "--resume", NAME, "--runs-dir", tmp_path, "--json")
    assert (told.code, told.json["state"], told.json["step"]) == (0, "finished", 100)
    losses = {event.step: event.loss for event in _events(old_run) if isinstance(event, Trained)}
    assert sorted(losses) == list(range(1, 101))
    written = [event.loss for event in _events(HERE / "run-0.1.0") if isinstance(event, Trained)][:50]
    expected = dict(enumerate(json.loads((HERE / "run-0.1.0-losses.json").read_text()), start=51))
    # On the processor that wrote them they are equal bit for bit; another one rounds otherwise.
    for step in range(51, 61):
        assert losses[step] == pytest.approx(expected[step], rel=1e-3)
    assert [losses[step] for step in range(1, 51)] == written


def _events(folder):
    return list(each_event(folder / "events.jsonl"))


def test_an_old_run_is_listed_replayed_and_decoded(cli, old_run, tmp_path):
    (row,) = cli("runs", "--runs-dir", tmp_path, "--json").json["runs"]
    assert (row["run"], row["stage"]) == (NAME, 1)
    kinds = {type(event) for event in _events(old_run)}
    assert {Trained, Decoded, Edited} <= kinds
    shown = cli("screenshot", NAME, "--runs-dir", tmp_path, "--out", tmp_path / "run.svg")
    assert shown.code == 0 and "grow" in (tmp_path / "run.svg").read_text()
    assert cli("decode", NAME, "the cat", "--runs-dir", tmp_path, "--json").json["step"] == 50


def test_an_old_checkpoint_is_loaded_to_the_last_bit(cli, old_run, tmp_path):
    from safetensors.torch import load_file

    forked = cli("fork", f"{NAME}@50", "--runs-dir", tmp_path, "--steps", "51", "--set", "checkpoint.every=1000", "--json")
    assert forked.code == 0
    fork = RunFolder.find(tmp_path, forked.json["run"])
    before = load_file(old_run / "checkpoints/step-00000050/model.safetensors")
    after = load_file(fork.checkpoints / "step-00000050/model.safetensors")
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
