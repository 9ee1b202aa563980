"""Tests of what saves memory: segments of ticks, gradients added in place, the output face alone.  All give the same bits."""

from __future__ import annotations

import pytest
import torch

from lattice.kernels import Functional, TickOptions, choose, propagate
from lattice.kernels.native import KernelUnavailable
from lattice.kernels.sparse import Pattern
from presets.layers import load
from presets.plan import plan
from presets.topology import Topology

SHAPE, TICKS, CLUSTERS = (4, 5, 19), 7, 3
TOPOLOGY = Topology(SHAPE, ((2,), (), (5,)))


class Diary:
    """An observer that writes down which ticks it is shown, and what."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, bool]] = []
        self.signals: list[int] = []
        self.states: list[torch.Tensor] = []
        self.gradients: list[torch.Tensor] = []

    def observe(self, tick: int, state: torch.Tensor, final: bool) -> None:
        self.seen.append((tick, final))
        self.states.append(state.clone())

    def signal(self, tick: int, grad: torch.Tensor, state: torch.Tensor) -> None:
        self.signals.append(tick)
        self.gradients.append(grad.clone())
        self.states.append(state.clone())


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def kernel(name: str = "native", dtype: torch.dtype = torch.float32):
    try:
        return choose(name, TOPOLOGY, 4, torch.device("cpu"), dtype)[0]
    except KernelUnavailable as error:
        pytest.skip(str(error))


class Problem:
    """Leaves of one lattice; `run` gives the output and the gradients of all of them."""

    def __init__(self, clustered: bool, sparse: bool, dtype: torch.dtype = torch.float32) -> None:
        x, y, z = SHAPE
        offsets = len(TOPOLOGY.offsets)
        self.pattern = None
        dense = 0.3 * draw(offsets, x, y, z, seed=1)
        if sparse:
            drawn = torch.rand(offsets, x, y, 2, generator=torch.Generator().manual_seed(5))
            self.pattern = Pattern(drawn.argsort(0)[:9].to(torch.uint8).contiguous(), offsets)
            dense = self.pattern.take(dense)
        self.weights, self.cells = dense.requires_grad_(), (0.7 * draw(6, x, y, 4, z, seed=2)).requires_grad_()
        self.drive = draw(2, x, y, 4, seed=3).to(dtype).requires_grad_()
        self.functional = None
        if clustered:
            labels = torch.randint(CLUSTERS, SHAPE, generator=torch.Generator().manual_seed(6))
            self.functional = Functional(draw(x, y, 4, z, seed=4).requires_grad_(), labels, CLUSTERS)
        self.upstream = draw(2, x, y, 4, seed=8)

    def leaves(self) -> list[torch.Tensor]:
        return [self.drive, self.weights, self.cells] + ([self.functional.gain] if self.functional else [])

    def run(self, chosen, observer=None, segment=0, face=True) -> torch.Tensor:
        out = propagate(
            self.drive,
            self.weights,
            self.cells,
            TOPOLOGY,
            TICKS,
            chosen,
            self.functional,
            self.pattern,
            TickOptions(observer, segment, face),
        )
        seen = out if face else out[..., -1]
        (seen.float() * self.upstream).sum().backward()
        return seen.detach()

    def results(self, chosen, **how) -> list[torch.Tensor]:
        for leaf in self.leaves():
            leaf.grad = None
        return [self.run(chosen, **how), *(leaf.grad for leaf in self.leaves())]


CASES = pytest.mark.parametrize(
    ("clustered", "sparse"), [(False, False), (True, False), (True, True)], ids=["plain", "clusters", "clusters and pruned"]
)


@CASES
@pytest.mark.parametrize("segment", [1, 2, 3, 7, 50])
def test_segments_give_the_same_output_and_gradients_bit_for_bit(clustered, sparse, segment):
    problem, chosen = Problem(clustered, sparse), kernel()
    plain, found = (problem.results(chosen, segment=size) for size in (0, segment))
    assert all(torch.equal(a, b) for a, b in zip(plain, found, strict=True))
    assert plain[2].abs().max() > 0


@pytest.mark.parametrize("name", ["native", pytest.param("compiled", marks=pytest.mark.slow)])
def test_segments_of_bf16_states_give_the_same_bit_for_bit(name):
    problem, chosen = Problem(True, False, torch.bfloat16), kernel(name, torch.bfloat16)
    plain, found = (problem.results(chosen, segment=size) for size in (0, 3))
    assert all(torch.equal(a, b) for a, b in zip(plain, found, strict=True))


@pytest.mark.parametrize("segment", [0, 3])
def test_an_observer_sees_every_tick_once_forward_and_once_backward_whatever_is_run_again(segment):
    problem, chosen, plain, diary = Problem(True, False), kernel(), Diary(), Diary()
    problem.results(chosen, observer=plain)
    problem.results(chosen, observer=diary, segment=segment)
    assert diary.seen == [(tick, tick == TICKS) for tick in range(TICKS + 1)]
    assert diary.signals == list(reversed(range(TICKS)))
    for mine, theirs in ((diary.states, plain.states), (diary.gradients, plain.gradients)):
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("segment", [0, 2, 3, 4, 7, 20])
def test_no_more_states_are_held_at_once_than_the_plan_counts(monkeypatch, segment):
    problem, chosen = Problem(False, False), kernel()
    out = propagate(
        problem.drive, problem.weights, problem.cells, TOPOLOGY, TICKS, chosen, options=TickOptions(segment=segment, face=True)
    )
    states, most = out.grad_fn.states, [len(out.grad_fn.states)]
    honest = chosen.backward

    def backward(*arguments):
        most.append(len(states) + 1)  # and the one that was taken out
        return honest(*arguments)

    monkeypatch.setattr(chosen, "backward", backward)
    out.sum().backward()
    changes = [f"stages.0.ticks={TICKS}", "stages.0.strides.z=[5]", f"training.checkpoint_ticks={segment}"]
    config = load("baseline", None, ["training.micro_batch=1", "run.kernel=native", *changes]).config
    assert plan(config)[0].components["states"] == max(most) * config.lattice.channels * 16**3 * 4


@CASES
def test_a_second_backward_adds_to_the_gradients_that_are_there(clustered, sparse):
    problem, chosen = Problem(clustered, sparse), kernel()
    once = [gradient.clone() for gradient in problem.results(chosen)[1:]]
    kept = [leaf.grad.data_ptr() for leaf in problem.leaves()[1:]]
    problem.run(chosen)
    assert [leaf.grad.data_ptr() for leaf in problem.leaves()[1:]] == kept
    for leaf, gradient in zip(problem.leaves(), once, strict=True):
        torch.testing.assert_close(leaf.grad, 2 * gradient, rtol=1e-5, atol=1e-5 * float(gradient.abs().max()))


def test_a_second_backward_adds_where_only_some_parameters_have_a_gradient_yet():
    problem, chosen = Problem(True, False), kernel()
    expected = [gradient.clone() for gradient in problem.results(chosen)[1:]]
    for missing in (1, 2, 3):
        problem.results(chosen)
        problem.leaves()[missing].grad = None
        problem.run(chosen)
        for i, (leaf, gradient) in enumerate(zip(problem.leaves(), expected, strict=True)):
            times = 1 if i == missing else 2
            torch.testing.assert_close(leaf.grad, times * gradient, rtol=1e-5, atol=1e-5 * float(gradient.abs().max()))


@CASES
def test_the_face_alone_is_the_face_of_the_whole_state_with_the_same_gradients(clustered, sparse):
    problem, chosen = Problem(clustered, sparse), kernel()
    whole, face = (problem.results(chosen, face=alone) for alone in (False, True))
    assert all(torch.equal(a, b) for a, b in zip(whole, face, strict=True))


def test_the_reference_gives_the_face_too():
    problem = Problem(True, False)
    fast, plain = problem.results(kernel()), problem.results(None)
    for a, b in zip(fast, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()))


def test_a_run_with_segments_trains_to_the_same_bits(bench):
    plain, other = bench("stages.1.steps=1"), bench("stages.1.steps=1", "training.checkpoint_ticks=2")
    for run in (plain, other):
        run.trainer.run()
    a, b = (run.trainer.state.model.state_dict() for run in (plain, other))
    assert all(torch.equal(a[name], b[name]) for name in a)
