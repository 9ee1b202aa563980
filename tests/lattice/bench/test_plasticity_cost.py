"""Tests of `bench plasticity`: the numbers of a row agree, and the sweep shows what leaving work out costs."""

from __future__ import annotations

import pytest

from lattice.bench import plasticity_cost
from lattice.bench.plasticity_cost import RULES, TrainedLattice, bench_update, sweep
from presets.plasticity_section import PlasticitySection


def test_timings_of_one_update_belong_together(monkeypatch):
    monkeypatch.setattr(plasticity_cost, "copy_rate", lambda _: 1e9)
    native, plain = bench_update((4, 4, 8), 3, PlasticitySection(sentences=2))
    assert (native.name, plain.name) == ("stdp native", "stdp plain")
    for row in (native, plain):
        assert row.ns_per_connection == pytest.approx(1e9 * row.median / (30 * 4 * 4 * 8))
        # 12 bytes a connection at 1 GB/s are 12 ns.
        assert row.floor_ratio == pytest.approx(row.ns_per_connection / 12)
        assert row.min <= row.median <= row.max
    assert plain.speedup == 1


def test_the_sweep_starts_at_the_full_update_and_loses_it_as_more_is_left_out(config_of):
    trained = TrainedLattice(config_of(), 2)
    before = trained.lattice.weights.detach().clone()
    lines = sweep(trained)
    assert trained.lattice.weights.equal(before)
    for rule in RULES:
        by_quiet = [line for line in lines if line.rule == rule and line.activity_threshold in (0.01, 1e-30)][-7:]
        assert [line.quiet for line in by_quiet] == sorted(line.quiet for line in by_quiet)
        assert by_quiet[0].cosine == pytest.approx(1, abs=1e-6)
        skipped, cosines = ([getattr(line, name) for line in by_quiet] for name in ("skipped_share", "cosine"))
        assert skipped == sorted(skipped) and skipped[-1] > skipped[0]
        assert cosines[-1] < cosines[0]
    assert trained.share(3) < 1
