"""A finished run that the tests of commands read."""

from __future__ import annotations

import shutil

import pytest
import torch

QUICK = ("--preset", "tiny", "--steps", 6, "--set", "decode.every=3", "--set", "checkpoint.every=2", "--set", "run.threads=1")


@pytest.fixture(scope="session")
def home(tmp_path_factory, sentences, cli):
    """(its folder, how `train` ended) of a finished run of the tiny preset, in the runs folder `runs` there.

    Tests copy it before they change anything.
    """
    place, threads = tmp_path_factory.mktemp("home"), torch.get_num_threads()
    data = shutil.copy(sentences, place / "data.txt")
    told = cli("train", *QUICK, "--data", data, "--runs-dir", place / "runs", "--json")
    torch.set_num_threads(threads)  # a run sets the number of torch's threads
    assert told.code == 0, told.err
    return place, told
