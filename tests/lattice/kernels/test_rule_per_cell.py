"""Tests of rules of which each cell has its own: the reference against shared rules, and the C kernel against the reference."""

from __future__ import annotations

import pytest
import torch

from lattice.kernels import TickOptions, choose, propagate
from lattice.kernels.kernel import KernelUnavailable, RuleNumbers
from lattice.kernels.native import NativeKernel
from presets.rule_size import rule_size
from presets.topology import Topology
from tests.lattice.kernels.test_shared_rule import CPU, LINEAR, STRIDES, assert_close, drawn, every_third, inputs, run

MLP = 5
each_rule = pytest.mark.parametrize("hidden", [LINEAR, MLP], ids=["linear", "mlp"])


def of_cells(topology: Topology, channels: int, hidden: int, **more: int) -> dict[str, torch.Tensor]:
    """Leaves that learn, with other numbers of the rule in each cell."""
    x, y, z = topology.shape
    numbers = 0.2 * drawn(4, x, y, rule_size(channels, hidden), z)
    return inputs(topology, channels, hidden, **more) | {"rule": numbers.requires_grad_()}


@each_rule
def test_cells_with_the_same_numbers_are_cells_that_share_them(hidden):
    topology, channels = Topology((3, 2, 5), STRIDES), 4
    shared = inputs(topology, channels, hidden)
    x, y, z = topology.shape
    each = shared | {"rule": shared["rule"].detach()[:, None].expand(x, y, -1, z).contiguous().requires_grad_()}
    wanted, found = (run(topology, given, hidden, None, 3) for given in (shared, each))
    found["rule"] = found["rule"].sum((0, 1, 3))
    assert_close(found, wanted)


@each_rule
def test_a_cell_s_numbers_act_on_that_cell_alone(hidden):
    topology, channels = Topology((2, 3, 4)), 3
    given = {name: tensor.detach() for name, tensor in of_cells(topology, channels, hidden).items()}

    def state(numbers: torch.Tensor) -> torch.Tensor:
        rule = RuleNumbers(numbers, hidden)
        return propagate(given["drive"], given["weights"], given["cells"], topology, 1, rule=rule)

    other = given["rule"].clone()
    other[1, 2, :, 3] += 0.5
    moved = (state(other) - state(given["rule"])).abs().amax((0, 3))
    assert moved[1, 2, 3] > 0 and (moved > 0).sum() == 1


@each_rule
@pytest.mark.parametrize("boundary", ["walls", "periodic"])
@pytest.mark.parametrize("shape", [(2, 2, 2), (3, 4, 5), (4, 3, 33)])
def test_native_and_reference_agree_over_several_ticks(shape, boundary, hidden):
    inside = tuple(tuple(s for s in axis if s < size) for axis, size in zip(STRIDES, shape, strict=True))
    topology = Topology(shape, inside, boundary)
    given = of_cells(topology, 12, hidden)
    native, wanted = NativeKernel(topology, 12, hidden=hidden, per_cell=True), run(topology, given, hidden, None, 3)
    assert_close(run(topology, given, hidden, native, 3), wanted)
    assert_close(run(topology, given, hidden, native, 3, options=TickOptions(segment=2)), wanted)


@each_rule
def test_native_and_reference_agree_on_sparse_connections(hidden):
    topology = Topology((4, 3, 33), STRIDES)
    pattern = every_third(topology)
    given = of_cells(topology, 5, hidden, kept=len(pattern.index))
    native = NativeKernel(topology, 5, hidden=hidden, per_cell=True)
    assert_close(run(topology, given, hidden, native, 3, pattern), run(topology, given, hidden, None, 3, pattern))


@each_rule
def test_native_and_reference_agree_in_bf16(hidden):
    topology = Topology((3, 3, 18), (*STRIDES[:1], (), ()))
    given = of_cells(topology, 12, hidden)
    halved = given | {"drive": given["drive"].detach().bfloat16().requires_grad_()}
    native = NativeKernel(topology, 12, torch.bfloat16, hidden, per_cell=True)
    assert_close(run(topology, halved, hidden, native, 2), run(topology, halved, hidden, None, 2), 0.03)


def test_results_do_not_depend_on_the_number_of_threads():
    topology = Topology((9, 8, 20))
    given, before = of_cells(topology, 12, LINEAR, batch=3), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(run(topology, given, LINEAR, NativeKernel(topology, 12, hidden=LINEAR, per_cell=True), 2))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(other[name], tensor) for name, tensor in found[0].items())


def test_numbers_of_another_shape_are_refused():
    topology = Topology((2, 2, 3))
    given = of_cells(Topology((2, 2, 4)), 2, LINEAR)
    drive, weights, cells = (given[name][..., :3] if name != "drive" else given[name] for name in ("drive", "weights", "cells"))
    with pytest.raises(ValueError, match="rule: shape"):
        propagate(drive, weights, cells, topology, 1, rule=RuleNumbers(given["rule"], LINEAR))


def test_kernels_that_only_share_a_rule_say_so_and_auto_takes_another():
    topology = Topology((3, 3, 3))
    kernel, line = choose("auto", topology, 12, CPU, torch.float32, LINEAR, per_cell=True)
    assert kernel is not None and kernel.name == "native" and line == "tick kernel: native (C, fp32)"
    kernel, line = choose("auto", topology, 12, CPU, torch.float16, LINEAR, per_cell=True)
    assert kernel is None and "one for each cell (rule.scope = cell)" in line
    with pytest.raises(KernelUnavailable, match="compiled kernel runs a rule that all cells share"):
        choose("compiled", topology, 12, CPU, torch.float32, LINEAR, per_cell=True)
