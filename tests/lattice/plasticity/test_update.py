"""The update in one pass of C: held to the plain version, which the rules' own tests and the simulation in Python hold."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lattice.kernels.sparse import TILE, Pattern
from lattice.plasticity import rules
from lattice.plasticity import update as module
from lattice.plasticity.products import present
from lattice.plasticity.update import Changed, Wish, learn, plain_learn
from presets.plasticity_section import PlasticitySection as Settings
from presets.topology import Topology

RULES = ("stdp", "soft stdp", "oja", "signed")
STRIDES = ((2,), (3,), (2, 17))


@pytest.fixture(autouse=True)
def _has_the_compiled_kernel():
    """Where it could not be built everything would pass all the same: the plain version steps in."""
    assert module.library("update.c", *module.DEFINES) is not None


@dataclasses.dataclass
class Case:
    """What one update starts from: weights with zeros of either sign, some of them out of bounds; sums of any size."""

    topology: Topology
    pattern: Pattern | None
    settings: Settings
    weights: torch.Tensor
    wish: Wish
    won: torch.Tensor | None
    only: torch.Tensor | None

    def learned(self, implementation) -> tuple[torch.Tensor, Changed]:
        weights = self.weights.clone()
        return weights, implementation(weights, self.wish, self.won, self.settings, self.topology, self.pattern, self.only)

    @property
    def exists(self) -> torch.Tensor:
        """The connections that may change."""
        inside = present(self.topology, slice(None))
        inside = inside if self.pattern is None else self.pattern.take(inside)
        return inside if self.only is None else inside & self.only


def case(
    topology: Topology,
    rule: str = "stdp",
    keep: float = 1.0,
    compete: bool = False,
    spoilt: float = 0.0,
    share: float = 0.1,
    seed: int = 0,
    mu: float = 1.0,
    partly: bool = False,
    **fields,
) -> Case:
    draw = torch.Generator().manual_seed(seed)
    (x, y, z), offsets, pattern = topology.shape, len(topology.offsets), None
    kept = offsets if keep == 1.0 else max(1, round(keep * offsets))
    if keep < 1.0:
        order = torch.rand(offsets, x, y, -(-z // TILE), generator=draw).argsort(0)
        pattern = Pattern.of_tiles(torch.zeros_like(order, dtype=torch.bool).scatter_(0, order[:kept], True))
    some = Settings(**({"inhibition": 0.3} | fields))
    weights = torch.randn(kept, x, y, z, generator=draw) * 0.5 * (some.w_max + some.w_min)
    weights = torch.copysign(weights * (torch.rand(weights.shape, generator=draw) < 0.9), weights)
    sums = [torch.randn(kept, x, y, z, generator=draw).mul_(3) for _ in range(2)]
    if rule.endswith("stdp"):
        sums = [total.abs() for total in sums]
    for total, broken in zip(sums, (math.nan, -math.inf), strict=True):
        total[torch.rand(total.shape, generator=draw) < spoilt] = broken
    won = (torch.rand(x, y, z + 1, generator=draw) < 0.3)[..., :z] if compete else None  # cut from whole blocks, as theirs are
    stdp = rules.STDP(
        A_plus=1.0, A_minus=1.05, tau_plus=2.0, tau_minus=2.0, w_min=some.w_min, w_max=some.w_max,
        mu=mu if rule == "soft stdp" else 0.0, coincidence=False,
    )  # fmt: skip
    match rule:
        case "stdp" | "soft stdp":
            wish = Wish(sums, share, stdp=stdp)
        case "oja":
            wish = Wish(sums[:1], share, decay=torch.rand(x, y, z, generator=draw))
        case _:
            wish = Wish(sums[:1], share)
    only = torch.rand(weights.shape, generator=draw) < 0.4 if partly else None
    return Case(topology, pattern, some, weights, wish, won, only)


@settings(max_examples=150, derandomize=True, deadline=None, database=None)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 35)),
    boundary=st.sampled_from(["walls", "periodic"]),
    rule=st.sampled_from(RULES),
    keep=st.sampled_from([1.0, 0.4, 0.01]),
    compete=st.booleans(),
    conserve=st.booleans(),
    spoilt=st.sampled_from([0.0, 0.2]),
    share=st.sampled_from([0.0, 1e-3, 0.1, 10.0]),
    mu=st.sampled_from([0.1, 0.5, 1.0, 4.0]),
    partly=st.booleans(),
    bounds=st.sampled_from([(0.0, 2.0), (0.05, 0.3), (0.0, 1e-3)]),
    seed=st.integers(0, 99),
)
def test_one_pass_in_c_equals_the_plain_update(
    shape, boundary, rule, keep, compete, conserve, spoilt, share, mu, partly, bounds, seed
):
    some = case(
        Topology(shape, STRIDES, boundary), rule, keep, compete, spoilt, share, seed, mu, partly,
        conserve=conserve, w_min=bounds[0], w_max=bounds[1],
    )  # fmt: skip
    (fast, told), (plain, wanted) = some.learned(learn), some.learned(plain_learn)
    torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-6 * bounds[1])
    assert torch.equal(torch.signbit(fast), torch.signbit(some.weights))
    assert torch.equal(fast[~some.exists], some.weights[~some.exists])
    change = fast.abs() - some.weights.abs()
    assert (told.potentiated, told.depressed) == (int((change > 0).sum()), int((change < 0).sum()))
    assert told.connections == wanted.connections == int(some.exists.sum())
    assert told.moved == pytest.approx(float(change.abs().sum(dtype=torch.float64)), rel=1e-9)
    assert told.moved == pytest.approx(wanted.moved, rel=1e-4, abs=1e-5 * bounds[1] * max(1, told.connections))


@pytest.mark.parametrize("keep", [1.0, 0.4])
@pytest.mark.parametrize("rule", RULES)
def test_what_is_not_conserved_is_counted_alike_by_both(rule, keep):
    # Rounding alone would tip a count where nothing binds; here changes are far above it.
    some = case(Topology((3, 4, 37), STRIDES, "periodic"), rule, keep, share=0.05, conserve=False, mu=0.5)
    (_, told), (_, wanted) = some.learned(learn), some.learned(plain_learn)
    assert (told.potentiated, told.depressed, told.connections) == (wanted.potentiated, wanted.depressed, wanted.connections)
    assert 0 < told.potentiated < told.connections and told.depressed > 0


@pytest.mark.parametrize("boundary", ["walls", "periodic"])
def test_every_cell_keeps_its_sum_within_bounds_where_many_bounds_bind(boundary):
    some = case(Topology((3, 4, 37), STRIDES, boundary), share=2.0, compete=True, w_min=0.05, w_max=0.4)
    some.weights.copy_(torch.copysign(some.weights.abs().clamp(0.05, 0.4), some.weights))
    after, told = some.learned(learn)
    sums = [(weights.abs() * some.exists).double().sum(0) for weights in (after, some.weights)]
    torch.testing.assert_close(*sums, rtol=1e-5, atol=0)
    inside = after[some.exists].abs()
    assert inside.min() == torch.tensor(0.05) and inside.max() == torch.tensor(0.4)
    assert told.moved > 0.1 * told.connections * 0.4


def test_a_sum_that_is_not_finite_changes_nothing():
    some = case(Topology((2, 3, 20)), spoilt=1.0, conserve=False, w_max=10.0)
    some.weights.clamp_(-10.0, 10.0)
    assert not any(total.isfinite().any() for total in some.wish.sums)
    after, told = some.learned(learn)
    assert torch.equal(after, some.weights) and (told.potentiated, told.depressed, told.moved) == (0, 0, 0)


def test_results_do_not_depend_on_the_number_of_threads():
    some = case(Topology((5, 4, 33), STRIDES), "soft stdp", 0.4, compete=True, partly=True)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(some.learned(learn))
    finally:
        torch.set_num_threads(before)
    for weights, told in found[1:]:
        assert torch.equal(weights, found[0][0]) and told == found[0][1]


def test_weights_that_are_not_numbers_end_no_worse_than_that():
    some = case(Topology((2, 3, 20)), share=1.0)
    some.weights[3, 1, 1, 5] = math.nan
    after, plain = some.learned(learn)[0], some.learned(plain_learn)[0]
    torch.testing.assert_close(after, plain, rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("reason", ["no compiler", "double precision", "too many connections"])
def test_the_plain_version_serves_where_the_kernel_does_not(monkeypatch, reason):
    some = case(Topology((2, 3, 20)), compete=True)
    match reason:
        case "no compiler":
            monkeypatch.setattr(module, "library", lambda main, *defines: None)
        case "double precision":
            some.weights = some.weights.double()
        case "too many connections":
            monkeypatch.setattr(module, "MAX_KEPT", 25)
    (found, told), (plain, wanted) = some.learned(learn), some.learned(plain_learn)
    assert torch.equal(found, plain) and told == wanted and found.dtype == some.weights.dtype
