"""`bench plasticity` as a command: JSON that a script can read, a table that a person can."""

from __future__ import annotations

import json

import pytest

from app.bench import plasticity_tables
from app.exit_codes import ExitCode, Stop


@pytest.mark.slow
def test_json_and_table_tell_the_same_kinds_of_numbers(monkeypatch, capsys):
    monkeypatch.setattr(plasticity_tables, "SHAPES", ((4, 4, 8),))
    plasticity_tables.plasticity("tiny", [], 1, 3, True)
    told = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in told["rows"]] == ["stdp native", "stdp plain"]
    assert {"ns_per_connection", "floor_ratio", "speedup", "shape", "threads"} <= told["rows"][0].keys()
    assert told["copy_gbps"] > 0 and told["step_share"] < 1
    assert {line["rule"] for line in told["avoided"]} == {"stdp", "bcm", "oja", "three_factor"}
    plasticity_tables.plasticity("tiny", [], 1, 3, False)
    shown = capsys.readouterr().out
    assert "of a training step of tiny" in shown and "three_factor" in shown and "ns/connection" in shown


def test_an_arm_without_connections_is_refused():
    with pytest.raises(Stop, match=r"lattice\.arm") as refused:
        plasticity_tables.plasticity("tiny", ["lattice.arm=identity"], 1, 3, True)
    assert refused.value.code == ExitCode.USAGE
