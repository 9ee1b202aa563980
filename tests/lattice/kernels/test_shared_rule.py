"""Tests of ticks with a shared rule: the reference against the formula, the C and the compiled kernel against the reference."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from lattice.kernels import TickOptions, choose, propagate
from lattice.kernels.agreement import disagreement
from lattice.kernels.compiled import CompiledKernel
from lattice.kernels.kernel import NORM_EPSILON, RuleNumbers
from lattice.kernels.native import NativeKernel
from lattice.kernels.reference import message, tick
from lattice.kernels.sparse import Pattern
from presets.rule_size import BLOCKS, rule_size
from presets.topology import Topology

CPU = torch.device("cpu")
SHAPES = ((3, 4, 5), (4, 3, 33))
STRIDES = ((2,), (3,), (2, 17))
LINEAR, MLP = 0, 32

each_rule = pytest.mark.parametrize("hidden", [LINEAR, MLP], ids=["linear", "mlp"])


def drawn(seed: int, *sizes: int) -> torch.Tensor:
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed))


def inputs(topology: Topology, channels: int, hidden: int, batch: int = 2, kept: int | None = None) -> dict[str, torch.Tensor]:
    """Leaves that learn: drive, weights, cells and the numbers of the rule."""
    x, y, z = topology.shape
    tensors = {
        "drive": drawn(1, batch, x, y, channels),
        "weights": 0.3 * drawn(2, kept or len(topology.offsets), x, y, z),
        "cells": 0.7 * drawn(3, 6, x, y, channels, z),
        "rule": 0.2 * drawn(4, rule_size(channels, hidden)),
    }
    return {name: tensor.requires_grad_() for name, tensor in tensors.items()}


def run(topology, given, hidden, kernel, ticks, pattern=None, options=None) -> dict[str, torch.Tensor]:
    """The state after `ticks`, and the gradients of everything that learns."""
    options, rule = options or TickOptions(), RuleNumbers(given["rule"], hidden)
    state = propagate(given["drive"], given["weights"], given["cells"], topology, ticks, kernel, None, pattern, options, rule)
    upstream = drawn(5, *state.shape)
    gradients = torch.autograd.grad((state * upstream).sum(), list(given.values()))
    return {"state": state.detach(), **dict(zip(given, gradients, strict=True))}


def assert_close(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], tolerance: float = 1e-5) -> None:
    for name in wanted:
        size = wanted[name].abs().max().item()
        assert size > 0, f"{name}: nothing to compare"
        worst = (found[name] - wanted[name]).abs().max().item()
        assert worst <= tolerance * size, f"{name}: off by {worst:.3g}, largest value {size:.3g}"


def every_third(topology: Topology) -> Pattern:
    """A pattern with another choice of offsets in each tile."""
    x, y, z = topology.shape
    tiles, offsets = -(-z // 16), len(topology.offsets)
    order = drawn(6, offsets, x, y, tiles).argsort(0)
    return Pattern(order[: offsets // 3].to(torch.uint8).contiguous(), offsets)


# The reference


@each_rule
def test_the_reference_adds_the_rule_to_what_the_gates_are_made_of(hidden):
    topology, channels = Topology((2, 3, 4)), 3
    given = {name: tensor.detach().double() for name, tensor in inputs(topology, channels, hidden).items()}
    state, numbers, width = drawn(7, 2, 2, 3, channels, 4).double(), given["rule"], 2 * channels
    found = tick(state, given["weights"], given["cells"], topology, NORM_EPSILON, rule=RuleNumbers(numbers, hidden))

    heard = message(state, given["weights"], topology)
    heard = heard / (heard.square().mean(3, keepdim=True) + NORM_EPSILON).sqrt()
    x = torch.cat([state, heard], 3).movedim(3, -1)
    layers = [hidden, width] if hidden else [width]
    for i, outputs in enumerate(layers):
        size = outputs * x.shape[-1]
        weight, bias, numbers = numbers[:size].view(outputs, -1), numbers[size : size + outputs], numbers[size + outputs :]
        x = torch.nn.functional.linear(x.relu() if i else x, weight, bias)
    a_z, b_z, c_z, a_h, b_h, c_h = given["cells"]
    met_z, met_h = x.movedim(-1, 3).chunk(2, 3)
    z, h = (a_z * state + b_z * heard + c_z + met_z).sigmoid(), (a_h * state + b_h * heard + c_h + met_h).tanh()
    torch.testing.assert_close(found, state + z * (h - state), rtol=0, atol=1e-12)


@each_rule
def test_gradients_of_the_reference_agree_with_finite_differences(hidden):
    topology = Topology((2, 2, 3))
    given = inputs(topology, 2, hidden and 3, batch=1)
    leaves = [tensor.detach().double().requires_grad_() for tensor in given.values()]

    def state(drive, weights, cells, numbers):
        return propagate(drive, weights, cells, topology, 2, rule=RuleNumbers(numbers, hidden and 3))

    assert torch.autograd.gradcheck(state, leaves, fast_mode=True)


def test_a_rule_of_another_size_is_refused():
    topology = Topology((2, 2, 3))
    given = inputs(topology, 2, LINEAR)
    with pytest.raises(ValueError, match="rule: shape"):
        propagate(given["drive"], given["weights"], given["cells"], topology, 1, rule=RuleNumbers(given["rule"], 7))


# The C kernel against the reference


@each_rule
@pytest.mark.parametrize("channels", [12, 16])
@pytest.mark.parametrize("boundary", ["walls", "periodic"])
@pytest.mark.parametrize("shape", SHAPES)
def test_native_and_reference_agree_over_several_ticks(shape, boundary, channels, hidden):
    topology = Topology(shape, STRIDES, boundary)
    given = inputs(topology, channels, hidden)
    native = NativeKernel(topology, channels, hidden=hidden)
    wanted = run(topology, given, hidden, None, 3)
    assert_close(run(topology, given, hidden, native, 3), wanted)
    in_segments = run(topology, given, hidden, native, 3, options=TickOptions(segment=2))
    assert_close(in_segments, wanted)


@each_rule
@pytest.mark.parametrize("channels", [12, 16])
@pytest.mark.parametrize("shape", SHAPES)
def test_native_and_reference_agree_on_sparse_connections(shape, channels, hidden):
    topology = Topology(shape, STRIDES)
    pattern = every_third(topology)
    given = inputs(topology, channels, hidden, kept=len(pattern.index))
    native = NativeKernel(topology, channels, hidden=hidden)
    assert_close(run(topology, given, hidden, native, 3, pattern), run(topology, given, hidden, None, 3, pattern))


@pytest.mark.parametrize(("channels", "hidden"), [(3, 5), (5, LINEAR), (12, MLP), (32, 33)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.01)], ids=["fp32", "bf16"])
def test_a_native_tick_agrees_for_sizes_that_fill_no_register_and_for_bf16(dtype, tolerance, channels, hidden):
    topology = Topology((4, 3, 33), STRIDES, "periodic")
    kernel = NativeKernel(topology, channels, dtype, hidden)
    assert disagreement(kernel, topology, channels, 3, dtype, CPU, functional=True, hidden=hidden) < tolerance


@each_rule
def test_more_tiles_than_blocks_are_all_summed(hidden):
    topology = Topology((24, 24, 17))
    assert 8 * BLOCKS < 24 * 24 * 2  # tiles of strips of 8
    given = inputs(topology, 3, hidden, batch=1)
    assert_close(
        run(topology, given, hidden, NativeKernel(topology, 3, hidden=hidden), 2), run(topology, given, hidden, None, 2)
    )


@each_rule
def test_results_do_not_depend_on_the_number_of_threads(hidden):
    program = f"""
import sys, torch
from lattice.kernels.native import NativeKernel
from presets.topology import Topology
from tests.lattice.kernels.test_shared_rule import inputs, run
torch.set_num_threads(int(sys.argv[1]))
topology = Topology((9, 8, 20))
found = run(topology, inputs(topology, 12, {hidden}, batch=3), {hidden}, NativeKernel(topology, 12, hidden={hidden}), 3)
print({{name: tensor.numpy().tobytes().hex() for name, tensor in found.items()}})
"""
    told = {
        threads: subprocess.run(
            [sys.executable, "-c", program, threads],
            check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": threads},
        ).stdout
        for threads in ("1", "2", "5")
    }  # fmt: skip
    assert "rule" in told["1"]
    assert told["1"] == told["2"] == told["5"]


@each_rule
def test_a_rule_of_zeros_is_no_rule(hidden):
    topology = Topology((3, 4, 18))
    given = inputs(topology, 12, hidden)
    zeros = RuleNumbers(torch.zeros_like(given["rule"]), hidden)
    arguments = given["drive"], given["weights"], given["cells"], topology, 3
    for with_rule, without in ((NativeKernel(topology, 12, hidden=hidden), NativeKernel(topology, 12)), (None, None)):
        found = propagate(*arguments, with_rule, rule=zeros)
        torch.testing.assert_close(found, propagate(*arguments, without), rtol=1e-6, atol=1e-6)


# The compiled kernel against the reference


@pytest.fixture
def compiled_for(monkeypatch):
    """Kernels without their start-up probe, which costs a compilation."""
    monkeypatch.setattr(CompiledKernel, "_probe", lambda self, channels: None)
    return lambda topology, channels, dtype, hidden: CompiledKernel(topology, channels, CPU, dtype, hidden)


@pytest.mark.parametrize(("channels", "hidden"), [(3, 5), (5, LINEAR), (12, 20), (16, MLP)])
@pytest.mark.parametrize("boundary", ["walls", "periodic"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-5), (torch.bfloat16, 0.02), (torch.float16, 0.003)],
    ids=["fp32", "bf16", "fp16"],
)
def test_the_formulas_that_get_compiled_equal_the_reference(dtype, tolerance, boundary, channels, hidden, compiled_for):
    """The same Python, forward and hand-written backward, run without the compiler."""
    topology = Topology((4, 3, 7), STRIDES, boundary)
    kernel = compiled_for(topology, channels, dtype, hidden)
    with torch.compiler.set_stance("force_eager"):
        assert disagreement(kernel, topology, channels, 1, dtype, CPU, functional=True, hidden=hidden) < tolerance


@each_rule
def test_compiled_formulas_and_reference_agree_over_several_ticks_on_sparse_connections(hidden, compiled_for):
    topology = Topology((3, 4, 5), STRIDES)
    pattern = every_third(topology)
    given = inputs(topology, 12, hidden, kept=len(pattern.index))
    kernel, options = compiled_for(topology, 12, torch.float32, hidden), TickOptions(epsilon=1.0)
    with torch.compiler.set_stance("force_eager"):
        found = run(topology, given, hidden, kernel, 3, pattern, options)
    assert_close(found, run(topology, given, hidden, None, 3, pattern, options))


@pytest.mark.parametrize("hidden", [pytest.param(LINEAR, marks=pytest.mark.slow), 5], ids=["linear", "mlp"])
def test_one_compiled_tick_equals_the_reference(hidden, compiled_for, monkeypatch):
    """With a local tier that compiles in seconds."""
    for where in ("presets.topology", "lattice.kernels.compiled"):
        monkeypatch.setattr(f"{where}.LOCAL_OFFSETS", ((-1, 0, 0), (0, 1, -1), (0, 0, -1), (0, 0, 1)))
    topology = Topology((2, 3, 5), ((), (), (2,)))
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    kernel = compiled_for(topology, 3, torch.float32, hidden)
    assert disagreement(kernel, topology, 3, 2, torch.float32, CPU, hidden=hidden) < 1e-5
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before + 2, "it ran without having been compiled"


# Without gradients of the rule, and without all that depends on it


@pytest.mark.parametrize("name", ["native", "compiled"])
def test_a_frozen_rule_has_no_gradient_and_the_others_stay_the_same(name, compiled_for):
    topology = Topology((3, 4, 18))
    made = {"native": lambda: NativeKernel(topology, 12, hidden=MLP)}
    kernel = made.get(name, lambda: compiled_for(topology, 12, torch.float32, MLP))()
    given, learning = inputs(topology, 12, MLP), ("drive", "weights", "cells")
    frozen, leaves = RuleNumbers(given["rule"].detach(), MLP), [given[name] for name in learning]
    with torch.compiler.set_stance("force_eager"):
        wanted = run(topology, given, MLP, kernel, 2)
        state = propagate(*leaves, topology, 2, kernel, rule=frozen)
        found = torch.autograd.grad((state * drawn(5, *state.shape)).sum(), leaves)
    for name, gradient in zip(learning, found, strict=True):
        assert torch.equal(gradient, wanted[name])


def test_no_gradient_arrives_where_rounding_may_decide_whether_a_hidden_number_is_positive(monkeypatch):
    """Without this a check of a large lattice would fail, since some numbers are that near to zero."""
    topology = Topology((3, 3, 5))
    kernel = NativeKernel(topology, 3, hidden=5)
    seen = []
    right = NativeKernel.backward
    monkeypatch.setattr(NativeKernel, "backward", lambda self, grad, *others: seen.append(grad) or right(self, grad, *others))
    for undecided in (0.0, 0.3):
        monkeypatch.setattr("lattice.kernels.agreement.UNDECIDED", undecided)
        assert disagreement(kernel, topology, 3, 1, torch.float32, CPU, hidden=5) < 1e-5
    silent = [(grad == 0).all(3).float().mean().item() for grad in seen[::2]]
    assert silent[0] == 0 < silent[1] < 1


# Choice of the kernel


@each_rule
def test_auto_takes_native_with_a_rule_on_the_cpu_and_compiled_for_fp16(hidden, monkeypatch):
    monkeypatch.setattr(CompiledKernel, "_probe", lambda self, channels: None)
    topology = Topology((3, 3, 3))
    chosen = [choose("auto", topology, 12, CPU, dtype, hidden) for dtype in (torch.float32, torch.float16)]
    assert [kernel.name for kernel, _ in chosen] == ["native", "compiled"]
    assert [line for _, line in chosen] == ["tick kernel: native (C, fp32)", "tick kernel: compiled (torch.compile)"]


@pytest.mark.parametrize("asked", ["another", "none"])
def test_a_kernel_that_was_made_for_another_rule_says_so(asked, compiled_for):
    topology = Topology((3, 3, 3))
    given = inputs(topology, 3, MLP)
    kernel = compiled_for(topology, 3, torch.float32, LINEAR)
    rule = RuleNumbers(given["rule"], MLP) if asked == "another" else None
    with pytest.raises(AssertionError, match="made for another shared rule"):
        propagate(given["drive"], given["weights"], given["cells"], topology, 1, kernel, rule=rule)
