"""Plasticity in the lattice: through the real ticks, against a simulation in plain Python cell by cell and tick by tick."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lattice.kernels import TickOptions, choose, propagate
from lattice.kernels.sparse import Pattern, tile_means
from lattice.model.lattice3d import Build, Lattice
from lattice.plasticity import pairs, slabs
from lattice.plasticity.c_library import plain
from lattice.plasticity.plasticity import LEAST_THRESHOLD, MOST_THRESHOLD, Plasticity
from lattice.plasticity.products import present
from lattice.training.rewiring import highest
from presets.plasticity_section import PlasticitySection as Settings
from presets.schema import Connections
from presets.topology import Topology

CHANNELS, TICKS, THRESHOLD = 4, 4, 0.05
TOPOLOGIES = [
    Topology((2, 3, 5), ((), (2,), (3,)), "walls"),
    Topology((3, 2, 4), ((2,), (), (2,)), "periodic"),
    Topology((1, 2, 18), ((), (), (5,)), "walls"),
]
KERNELS = ["native", "reference"]
RULES = ["stdp", "bcm", "oja", "three_factor"]
BARE = {"conserve": False, "rate": 0.1}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def lattice_of(topology: Topology, kernel: str = "native", threshold: float = THRESHOLD, **fields) -> Lattice:
    chosen, _ = choose(kernel, topology, CHANNELS, torch.device("cpu"), torch.float32)
    plasticity = Plasticity(Settings(**fields), topology, CHANNELS, threshold)
    return Lattice(topology, Build(CHANNELS, TICKS, Connections(noise=1.0), kernel=chosen, plasticity=plasticity), generator(1))


def drive_of(topology: Topology, batch: int = 3, seed: int = 2, size: float = 0.5) -> torch.Tensor:
    x, y, _ = topology.shape
    return torch.randn(batch, x, y, CHANNELS, generator=generator(seed)) * size


def states_of(lattice: Lattice, drive: torch.Tensor) -> list[torch.Tensor]:
    """The states that plasticity should see: before each tick, and after the last."""

    class Seen:
        def __init__(self) -> None:
            self.states: list[torch.Tensor] = []

        def observe(self, tick: int, state: torch.Tensor, final: bool) -> None:
            assert tick == len(self.states) and final == (tick == lattice.ticks)
            self.states.append(state.detach().clone())

        def signal(self, tick: int, grad: torch.Tensor, state: torch.Tensor) -> None:
            raise AssertionError("nothing runs backward here")

    seen = Seen()
    with torch.no_grad():
        observed(lattice, drive, seen)
    return seen.states


def observed(lattice: Lattice, drive: torch.Tensor, observer) -> torch.Tensor:
    """The output face, with another observer than the lattice's own."""
    topology = lattice.topology
    return propagate(drive, lattice.weights, lattice.cells, topology, TICKS, lattice.kernel, options=TickOptions(observer))[
        ..., -1
    ]


def taught(lattice: Lattice, drive: torch.Tensor, rate: float = 0.1, backward: bool = False) -> torch.Tensor:
    """The weights after one update by what one batch does."""
    with lattice.watched():
        face = lattice(drive)
        if backward:
            (face * target(face)).sum().backward()
    lattice.learn(rate)
    return lattice.weights.detach()


def target(face: torch.Tensor) -> torch.Tensor:
    return torch.randn(face.shape, generator=generator(9))


# The simulation


def places(topology: Topology):
    """(k, cell i, cell i + o_k) of every connection that exists."""
    size_x, size_y, size_z = topology.shape
    for k, (dx, dy, dz) in enumerate(topology.offsets):
        for x, y, z in itertools.product(range(size_x), range(size_y), range(size_z)):
            u, v, w = x + dx, y + dy, z + dz
            if topology.boundary == "periodic":
                u, v = u % size_x, v % size_y
            if 0 <= u < size_x and 0 <= v < size_y and 0 <= w < size_z:
                yield k, (x, y, z), (u, v, w)


def fires(states: list[torch.Tensor], threshold: float) -> list[torch.Tensor]:
    """bool [B, X, Y, Z] a state: whose change is above the threshold."""
    before = [torch.zeros_like(states[0]), *states]
    return [((a - b).double().square().mean(3).sqrt() > threshold) for a, b in zip(states, before, strict=False)]


def simulated_stdp(lattice: Lattice, states: list[torch.Tensor], rate: float) -> torch.Tensor:
    """All pairs of spikes of every connection and sample, by the definition of the window."""
    rule, spikes = lattice.plasticity.settings, [s.tolist() for s in fires(states, THRESHOLD)]
    weights, batch = lattice.weights.detach().double().clone(), len(states[0])
    for k, (x, y, z), (u, v, w) in places(lattice.topology):
        causal = acausal = 0.0
        for b in range(batch):
            pre = [t for t, s in enumerate(spikes) if s[b][u][v][w]]
            post = [t for t, s in enumerate(spikes) if s[b][x][y][z]]
            for gap in (there - here for there in post for here in pre):
                if gap > 0:
                    causal += math.exp(-gap / rule.tau_plus) / batch
                if gap < 0:
                    acausal += math.exp(gap / rule.tau_minus) / batch
        weight = float(weights[k, x, y, z])
        sign = math.copysign(1.0, weight)
        up, down = (causal, acausal) if sign > 0 else (acausal, causal)
        size = min(max(abs(weight) - rate * rule.A_minus * down, rule.w_min), rule.w_max)
        size = min(max(size + rate * rule.A_plus * up, rule.w_min), rule.w_max)
        weights[k, x, y, z] = sign * size
    return weights.float()


def simulated_rates(lattice: Lattice, states: list[torch.Tensor], rate: float, thresholds: torch.Tensor) -> torch.Tensor:
    """BCM or Oja: the presynaptic state before the last tick meets the postsynaptic one after it."""
    rule, batch = lattice.plasticity.settings, len(states[0])
    before, last = states[-2].double(), states[-1].double()
    ever = torch.stack(fires(states, THRESHOLD)).any(0)
    activity = last.square().mean(3).sqrt()
    weights = lattice.weights.detach().double().clone()
    for k, (x, y, z), (u, v, w) in places(lattice.topology):
        weight = float(weights[k, x, y, z])
        sign, change = math.copysign(1.0, weight), 0.0
        for b in range(batch):
            pair = float((before[b, u, v, :, w] * last[b, x, y, :, z]).mean()) * float(ever[b, x, y, z])
            post = float(activity[b, x, y, z])
            if rule.rule == "bcm":
                change += sign * pair * (post - float(thresholds[x, y, z])) / batch
            else:
                change += (sign * pair - post**2 * abs(weight)) / batch
        weights[k, x, y, z] = sign * min(max(abs(weight) + rate * change, rule.w_min), rule.w_max)
    return weights.float()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("topology", TOPOLOGIES, ids=str)
def test_stdp_in_the_lattice_equals_all_pairs_of_spikes_cell_by_cell(topology, kernel):
    lattice = lattice_of(topology, kernel, rule="stdp", **BARE)
    states = states_of(lattice, drive_of(topology))
    share = torch.stack(fires(states, THRESHOLD)).float().mean().item()
    assert 0.2 < share < 0.9  # neither nothing nor everything
    wanted, before = simulated_stdp(lattice, states, 0.1), lattice.weights.detach().clone()
    found = taught(lattice, drive_of(topology))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    assert ((found - before).abs() > 1e-3).float().mean() > 0.1


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("topology", TOPOLOGIES, ids=str)
@pytest.mark.parametrize("rule", ["bcm", "oja"])
def test_rules_of_rates_in_the_lattice_equal_the_simulation(rule, topology, kernel):
    lattice = lattice_of(topology, kernel, rule=rule, **BARE)
    thetas = torch.rand(topology.shape, generator=generator(3)) * 0.3
    lattice.plasticity.theta.copy_(thetas)
    wanted = simulated_rates(lattice, states_of(lattice, drive_of(topology)), 0.5, thetas)
    before = lattice.weights.detach().clone()
    found = taught(lattice, drive_of(topology), rate=0.5)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(found, before, atol=1e-3)


@pytest.mark.parametrize("tau_e", [0.0, 1.5])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("topology", TOPOLOGIES, ids=str)
def test_three_factors_in_the_lattice_equal_eligibility_times_signal_tick_by_tick(topology, kernel, tau_e):
    lattice = lattice_of(topology, kernel, rule="three_factor", tau_e=tau_e, **BARE)
    drive = drive_of(topology).requires_grad_()
    states, signals = [], []

    class Recorder:
        def observe(self, tick, state, final):
            states.append(state.detach().clone())

        def signal(self, tick, grad, state):
            signals.insert(0, -grad.detach().clone())
            assert torch.equal(state, states[tick]) and tick == TICKS - len(signals)

    face = observed(lattice, drive, Recorder())
    (face * target(face)).sum().backward()
    size = torch.stack(signals).double().square().mean().sqrt().item()
    weights = lattice.weights.detach().double().clone()
    decay = math.exp(-1 / tau_e) if tau_e else 0.0
    for k, (x, y, z), (u, v, w) in places(topology):
        trace, change = torch.zeros(len(drive), CHANNELS), 0.0
        for state, signal in zip(states, signals, strict=False):
            trace = trace * decay + state[:, u, v, :, w]
            change += float((trace * signal[:, x, y, :, z]).sum()) / (len(drive) * CHANNELS * TICKS * size)
        weight = float(weights[k, x, y, z])
        sign = math.copysign(1.0, weight)
        weights[k, x, y, z] = sign * min(max(abs(weight) + 0.2 * sign * change, 0.0), 2.0)
    before = lattice.weights.detach().clone()
    found = taught(lattice, drive, rate=0.2, backward=True)
    torch.testing.assert_close(found, weights.float(), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, before, atol=1e-3)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_three_factors_lower_the_loss_of_a_task_for_connections_alone_and_raise_it_with_the_signal_reversed(sign):
    topology = Topology((3, 3, 4))
    lattice, teacher = lattice_of(topology, rule="three_factor", conserve=False), lattice_of(topology)
    drive, losses = drive_of(topology, batch=8), []
    with torch.no_grad():
        teacher.weights *= 2 * torch.rand(teacher.weights.shape, generator=generator(6))
        wanted = teacher(drive)
    for _ in range(100):
        with lattice.watched():
            loss = (lattice(drive.clone().requires_grad_()) - wanted).square().mean()
            (sign * loss).backward()
        lattice.learn(0.03)
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0] if sign > 0 else losses[-1] > 1.1 * losses[0]


def test_three_factors_do_not_depend_on_the_scale_of_the_loss():
    def weights(scale: float) -> torch.Tensor:
        lattice = lattice_of(TOPOLOGIES[0], rule="three_factor", **BARE)
        with lattice.watched():
            face = lattice(drive_of(TOPOLOGIES[0]).requires_grad_())
            (scale * face * target(face)).sum().backward()
        lattice.learn(0.1)
        return lattice.weights.detach()

    torch.testing.assert_close(weights(4096.0), weights(1.0), rtol=1e-5, atol=1e-6)


# What is seen


@pytest.mark.parametrize("rule", RULES)
def test_micro_batches_add_up_to_one_batch(rule):
    topology, found = TOPOLOGIES[0], []
    drive, upstream = drive_of(topology, batch=6), torch.randn(6, 2, 3, CHANNELS, generator=generator(4))
    for size in (6, 2, 4):
        lattice = lattice_of(topology, rule=rule, sentences=5, rate=0.1)
        with lattice.watched():
            for part, weight in zip(drive.split(size), upstream.split(size), strict=True):
                (lattice(part.clone().requires_grad_()) * weight).sum().backward()
        lattice.learn(0.1)
        found.append(lattice.weights.detach())
        assert lattice.plasticity._tally.chances == 5 * (TICKS + 1) * topology.cells
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[2], found[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_slabs_and_parts_of_a_batch_give_what_the_whole_gives(rule, monkeypatch):
    def weights() -> torch.Tensor:
        lattice = lattice_of(TOPOLOGIES[1], rule=rule, winners=2, neighbourhood=2)
        return taught(lattice, drive_of(TOPOLOGIES[1]).requires_grad_(), backward=True)

    whole = weights()
    monkeypatch.setattr(slabs, "SLAB_NUMBERS", 1)
    monkeypatch.setattr(pairs, "SLAB_NUMBERS", 1)
    torch.testing.assert_close(weights(), whole, rtol=1e-5, atol=1e-6)
    with plain():
        torch.testing.assert_close(weights(), whole, rtol=1e-5, atol=1e-6)


def test_what_is_not_watched_does_not_teach():
    lattice = lattice_of(TOPOLOGIES[0], rule="stdp")
    before = {name: tensor.clone() for name, tensor in lattice.state_dict().items()}
    lattice(drive_of(TOPOLOGIES[0]))
    lattice.learn(1.0)
    with lattice.watched():
        pass
    lattice.learn(1.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in lattice.state_dict().items())


def test_what_was_seen_teaches_once_a_step_only():
    lattice = lattice_of(TOPOLOGIES[0], rule="stdp", **BARE)
    taught(lattice, drive_of(TOPOLOGIES[0]))
    learned = lattice.weights.detach().clone()
    with lattice.watched():
        pass
    lattice.learn(0.1)
    assert torch.equal(lattice.weights, learned)


def test_watching_does_not_change_what_the_lattice_computes():
    lattice = lattice_of(TOPOLOGIES[0], rule="three_factor")
    drive = drive_of(TOPOLOGIES[0]).requires_grad_()
    alone = torch.autograd.grad(lattice(drive).square().sum(), (drive, lattice.cells, lattice.weights))
    with lattice.watched():
        seen = torch.autograd.grad(lattice(drive).square().sum(), (drive, lattice.cells, lattice.weights))
    assert all(torch.equal(a, b) for a, b in zip(alone, seen, strict=True))


# What always holds


@settings(max_examples=60, derandomize=True, deadline=None, database=None)
@given(
    rule=st.sampled_from(RULES),
    rate=st.sampled_from([0.0, 1e-3, 0.1, 10.0]),
    threshold=st.sampled_from([1e-30, 0.05, 1e9]),
    size=st.sampled_from([0.0, 0.5, 1e6, 1e30, math.inf, math.nan]),
    mu=st.sampled_from([0.0, 1.0]),
    winners=st.sampled_from([0, 1, 8]),
    conserve=st.booleans(),
    homeostasis=st.sampled_from([0.0, 0.5]),
    sparsity=st.sampled_from([0.0, 0.7]),
    bounds=st.sampled_from([(0.0, 2.0), (0.05, 0.3)]),
    seed=st.integers(0, 99),
)
def test_weights_stay_finite_in_bounds_and_of_one_sign_whatever_comes(
    rule, rate, threshold, size, mu, winners, conserve, homeostasis, sparsity, bounds, seed
):
    topology = TOPOLOGIES[0]
    lattice = lattice_of(
        topology, threshold=threshold, rule=rule, mu=mu, winners=winners, neighbourhood=2, conserve=conserve,
        homeostasis=homeostasis, w_min=bounds[0], w_max=bounds[1],
    )  # fmt: skip
    with torch.no_grad():
        lattice.weights.clamp_(-bounds[1], bounds[1])
        lattice.weights.copy_(torch.copysign(lattice.weights.abs().clamp(min=bounds[0]), lattice.weights))
    if sparsity:
        kept = highest(tile_means(lattice.weights.detach().abs()), round(len(topology.offsets) * (1 - sparsity)))
        lattice.rewire(Pattern.of_tiles(kept), torch.Generator())
    before = lattice.weights.detach().clone()
    for step in range(2):
        drive = drive_of(topology, seed=seed + step)
        drive[0] *= size
        after = taught(lattice, drive.requires_grad_(), rate, backward=True).clone()
        assert torch.isfinite(after).all()
        assert torch.equal(torch.signbit(after), torch.signbit(before))
        lasting = present(topology, slice(None))
        if sparsity:
            lasting = lattice.pattern.take(lasting)
        assert torch.equal(after[~lasting], before[~lasting])
        assert (after[lasting].abs() >= bounds[0]).all() and (after[lasting].abs() <= bounds[1]).all()
        if conserve:
            sums = [(w.abs() * lasting).sum(0) for w in (before, after)]
            torch.testing.assert_close(*sums, rtol=1e-5, atol=1e-5)
        for name, tensor in lattice.plasticity.state_dict().items():
            assert torch.isfinite(tensor).all(), name


@pytest.mark.parametrize("rule", RULES)
def test_a_micro_batch_with_states_that_are_not_finite_is_left_out_and_counted(rule):
    topology, found = TOPOLOGIES[0], []
    good, bad = drive_of(topology, batch=2), drive_of(topology, batch=4, seed=5)
    bad[3, 0, 0, 0] = math.nan
    for parts in ([good], [bad, good]):
        lattice = lattice_of(topology, rule=rule, sentences=6, **BARE)
        with lattice.watched():
            for part in parts:
                face = lattice(part.clone().requires_grad_())
                (face * target(face)).sum().backward()
        lattice.learn(0.1)
        assert lattice.plasticity.spoilt == 4 * (len(parts) - 1)
        found.append(lattice.weights.detach())
    assert not torch.equal(found[0], lattice_of(topology).weights)
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rule", ["stdp", "bcm"])
def test_where_no_cell_fires_nothing_changes_and_no_work_is_done(rule):
    lattice = lattice_of(TOPOLOGIES[0], threshold=1e9, rule=rule, rate=1.0)
    before = lattice.weights.detach().clone()
    assert torch.allclose(taught(lattice, drive_of(TOPOLOGIES[0]), 1.0), before, rtol=1e-5, atol=0)
    report = lattice.plasticity.report()
    assert report["active_share"] == 0 and report["skipped_share"] == 1


# Homeostasis, settings, reports


def test_homeostasis_brings_cells_to_their_target_rate():
    topology = TOPOLOGIES[0]
    lattice = lattice_of(topology, threshold=0.001, rule="stdp", homeostasis=0.5, target_rate=0.4)
    rates = []
    for step in range(200):
        taught(lattice, drive_of(topology, seed=step), rate=0.0)
        rates.append(float(lattice.plasticity._fired.mean() / lattice.plasticity._ticks))
    assert rates[0] > 0.6
    assert sum(rates[-40:]) / 40 == pytest.approx(0.4, abs=0.06)
    assert (lattice.plasticity.threshold >= LEAST_THRESHOLD).all() and (lattice.plasticity.threshold <= MOST_THRESHOLD).all()


def test_an_edited_threshold_keeps_what_homeostasis_found_relative_to_it():
    plasticity = lattice_of(TOPOLOGIES[0], threshold=0.1).plasticity
    plasticity.threshold[0, 0, 0] = 0.3
    plasticity.configure(Settings(A_plus=3.0), 0.2)
    assert plasticity.threshold[0, 0, 0].item() == pytest.approx(0.6)
    assert plasticity.threshold[0, 0, 1].item() == pytest.approx(0.2)
    assert plasticity.stdp.A_plus == 3.0


def test_a_report_counts_what_happened_since_the_last_one():
    topology = TOPOLOGIES[0]
    lattice = lattice_of(topology, rule="stdp", **BARE)
    assert lattice.plasticity.report() is None
    before = lattice.weights.detach().clone()
    spikes = fires(states_of(lattice, drive_of(topology)), THRESHOLD)
    taught(lattice, drive_of(topology))
    report, change = lattice.plasticity.report(), lattice.weights.detach().abs() - before.abs()
    exist = sum(1 for _ in places(topology))
    assert report["updates"] == 1
    assert (report["potentiated"], report["depressed"]) == (int((change > 0).sum()), int((change < 0).sum()))
    assert report["potentiated"] + report["depressed"] + report["unchanged"] == exist
    assert report["active_share"] == pytest.approx(torch.stack(spikes).float().mean().item())
    assert report["mean_change"] == pytest.approx(float(change.abs().sum()) / exist, rel=1e-5)
    assert 0 < report["skipped_share"] < 1 and report["seconds"] > 0
    assert list(report["theta"]) == sorted(report["theta"])
    assert lattice.plasticity.report() is None


def test_the_functional_change_is_zero_where_a_cells_weights_are_only_rescaled():
    topology = TOPOLOGIES[0]
    lattice = lattice_of(topology, rule="stdp")
    taught(lattice, drive_of(topology))
    assert lattice.plasticity.report()["message_change"] > 1e-3
    taught(lattice, drive_of(topology))
    x = topology.shape[0] // 2
    weights = lattice.weights.detach()[:, x : x + 1]
    assert lattice.plasticity._change_of_message(slice(x, x + 1), weights, weights) == 0
    # Not quite zero: the norm's epsilon.
    assert lattice.plasticity._change_of_message(slice(x, x + 1), weights, 1.5 * weights) < 0.2
