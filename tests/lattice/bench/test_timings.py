"""Tests of the benchmark of a tick: which rows there are."""

from __future__ import annotations

from lattice.bench import timings
from lattice.bench.timings import bench_tick


def test_native_and_compiled_are_timed_with_each_rule_both_ways(monkeypatch):
    asked = []

    def the_reference(name, topology, channels, device, dtype, hidden=None):
        asked.append((name, hidden))
        return None, ""

    monkeypatch.setattr(timings, "choose", the_reference)  # nothing is compiled
    monkeypatch.setattr(timings, "copy_rate", lambda repeats: 1e9)
    rows, remarks = bench_tick((2, 2, 3), 1, 1, ("native", "native-bf16", "compiled"))
    assert asked == [(name, None) for name in ("native", "native", "compiled")] + [
        (name, hidden) for name in ("native", "compiled") for hidden in (0, 32)
    ]
    ruled = {row.name for row in rows if row.name.split()[-1] in ("linear", "mlp")}
    assert ruled == {
        f"{kind} {name} {rule}"
        for kind in ("forward", "forward+backward")
        for name in ("native", "compiled")
        for rule in ("linear", "mlp")
    }
    assert remarks == []
