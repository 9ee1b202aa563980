"""`bench heal` as a command: JSON that a script can read, a table that a person can."""

from __future__ import annotations

import pytest

TINY = ("bench", "heal", "--preset", "tiny", "--set", "run.threads=1")


def test_json_and_table_tell_of_the_same_acts(cli):
    told = cli(*TINY, "--wound", "connections:0.5", "--json")
    assert told.code == 0, told.err
    acts = [cost["act"] for cost in told.json["costs"]]
    assert acts == ["neighbours", "wave of STDP", "training step"]
    assert all(cost["seconds"] > 0 and cost["extra_bytes"] >= 0 for cost in told.json["costs"])
    assert 0.2 < told.json["lost"] / told.json["connections"] < 0.5  # those over a wall can't be lost
    shown = cli(*TINY).out
    assert all(act in shown for act in acts) and "wound connections:0.3" in shown


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--wound", "legs:1"], "is no wound"),
        (["--wound", "block:99"], "does not fit"),
        (["--set", "lattice.arm=identity"], "no connections"),
    ],
)
def test_what_has_nothing_to_heal_is_refused(cli, options, says):
    told = cli(*TINY, *options)
    assert told.code == 2 and says in told.err and told.err.count("\n") == 1
