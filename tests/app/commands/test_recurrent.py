"""A run with a recurrent network in the lattice's place: the commands that train, score and answer take it like any other."""

from __future__ import annotations

import pytest

GRU = ("--set", "lattice.arm=gru", "--set", "text.reading=time", "--set", "text.lag=2")
QUICK = ("--preset", "tiny", "--set", "run.threads=1")


@pytest.fixture(scope="module")
def runs(cli, sentences, tmp_path_factory):
    """A runs folder with one finished run."""
    place = tmp_path_factory.mktemp("runs")
    told = cli("train", *QUICK, *GRU, "--steps", 6, "--data", sentences, "--runs-dir", place, "--json")
    assert told.code == 0 and told.json["state"] == "finished", told.err
    return place


def test_it_is_scored_answers_resumes_and_is_planned(cli, runs, sentences):
    at = ("--runs-dir", runs)
    for control in ("none", "shuffled"):
        told = cli("evaluate", "last", "--data", sentences, "--control", control, *at, "--json")
        assert told.code == 0 and told.json["count"] == 300, told.err
    assert cli("decode", "last", "the cat", *at).code == 0
    assert cli("train", "--resume", "last", *at).code == 0
    (stage, _) = cli("plan", *QUICK, *GRU, "--json").json["stages"]
    assert stage["components"]["states"] == stage["components"]["connections"] == 0


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("evaluate", "last", "--data", "DATA", "--control", "bypass"), "no messages to bypass with lattice.arm = gru"),
        (("morphology", "last"), "was trained without a lattice (lattice.arm = gru)"),
        (("fork", "last", "--steps", 9, "--set", "lattice.gru_width=9"), "lattice.gru_width: the checkpoint was trained with"),
        (("fork", "last", "--steps", 9, "--set", "text.lag=3"), "text.lag: the checkpoint was trained with 2"),
    ],
)
def test_what_needs_a_lattice_or_other_tensors_is_refused(cli, runs, sentences, words, reason):
    words = [sentences if word == "DATA" else word for word in words]
    told = cli(*words, "--runs-dir", runs)
    assert told.code == 2 and reason in told.err and told.err.count("\n") == 1, told.err


@pytest.mark.parametrize("what", ["plasticity", "all"])
def test_benches_of_the_lattice_name_the_arm_that_has_none(cli, what):
    told = cli("bench", what, *QUICK[:2], *GRU)
    assert told.code == 2 and "lattice.arm: the gru arm has no" in told.err
