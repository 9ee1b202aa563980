"""The shared rule in the Triton kernel against the reference: through Triton's interpreter, or on a GPU if there is one."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from lattice.kernels import Functional, TickOptions, choose, propagate
from lattice.kernels.agreement import disagreement
from lattice.kernels.compiled import CompiledKernel
from lattice.kernels.kernel import Gradients, KernelUnavailable, Parameters, RuleNumbers
from lattice.kernels.sparse import TILE, Pattern
from lattice.kernels.triton_kernel import PROBE_TOLERANCE, TritonKernel
from presets.rule_size import rule_size
from presets.topology import Topology

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed; it comes with torch for CUDA"
)

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LINEAR = 0
TOLERANCE = {
    torch.float32: 1e-5,
    torch.bfloat16: PROBE_TOLERANCE[torch.bfloat16],
    torch.float16: PROBE_TOLERANCE[torch.float16],
}


@pytest.fixture
def kernel_for(monkeypatch):
    """Kernels without their start-up probe, for few offsets: each takes the interpreter milliseconds per column."""
    monkeypatch.setattr("presets.topology.LOCAL_OFFSETS", ((-1, 0, 0), (0, 1, -1), (0, 0, -1), (0, 0, 1)))
    monkeypatch.setattr(TritonKernel, "_probe", lambda self, topology: None)
    return lambda topology, channels, dtype, hidden: TritonKernel(topology, channels, DEVICE, dtype, hidden)


def drawn(seed: int, *sizes: int) -> torch.Tensor:
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def scattered(topology: Topology, kept: int) -> Pattern:
    x, y, z = topology.shape
    order = torch.rand(len(topology.offsets), x, y, -(-z // TILE), generator=torch.Generator().manual_seed(1)).argsort(0)
    return Pattern(order[:kept].to(DEVICE, torch.uint8).contiguous(), len(topology.offsets))


FULL, HALF, OTHER_HALF = TOLERANCE


@pytest.mark.parametrize(
    ("channels", "hidden", "batch", "depth", "boundary", "sparse", "dtype"),
    [
        (12, LINEAR, 2, 33, "walls", False, FULL),
        (12, 20, 1, 40, "periodic", True, FULL),
        (3, 5, 2, 7, "walls", True, FULL),
        (16, 32, 1, 16, "periodic", False, FULL),
        (17, 33, 1, 5, "walls", False, FULL),
        (5, LINEAR, 3, 7, "periodic", True, HALF),
        (12, 20, 1, 33, "walls", False, HALF),
        (12, LINEAR, 1, 16, "walls", False, OTHER_HALF),
        (3, 32, 2, 7, "periodic", True, OTHER_HALF),
    ],
    ids=str,
)
def test_a_tick_and_its_gradients_equal_the_reference(channels, hidden, batch, depth, boundary, sparse, dtype, kernel_for):
    topology = Topology((2, 2, depth), ((), (), (2,)), boundary)
    kernel, pattern = kernel_for(topology, channels, dtype, hidden), scattered(topology, 3) if sparse else None
    off = disagreement(kernel, topology, channels, batch, dtype, DEVICE, pattern, functional=sparse, hidden=hidden)
    assert off <= TOLERANCE[dtype]


@pytest.mark.parametrize("hidden", [LINEAR, 20], ids=["linear", "mlp"])
@pytest.mark.parametrize("programs", [1, 3])
def test_fewer_programs_than_blocks_sum_all_of_them(programs, hidden, kernel_for, monkeypatch):
    monkeypatch.setattr("lattice.kernels.triton_kernel.PROGRAMS", programs)
    topology = Topology((2, 2, 34), ((), (), (2,)))
    assert programs < 2 * 2 * 2
    kernel = kernel_for(topology, 3, torch.float32, hidden)
    assert disagreement(kernel, topology, 3, 2, torch.float32, DEVICE, hidden=hidden) < 1e-5


def test_a_run_of_ticks_with_clusters_and_compact_connections_equals_the_reference(kernel_for):
    topology, hidden = Topology((2, 2, 18), ((), (), (2,))), 5
    pattern, labels = scattered(topology, 4), torch.arange(72, device=DEVICE).view(2, 2, 18) % 3
    leaves = [drawn(1, 1, 2, 2, 3), 0.4 * drawn(2, 4, 2, 2, 18), 0.7 * drawn(3, 6, 2, 2, 3, 18)]
    leaves += [drawn(4, 2, 2, 3, 18), 0.3 * drawn(5, rule_size(3, hidden))]
    drive, weights, cells, gain, numbers = (leaf.requires_grad_() for leaf in leaves)
    results = []
    for kernel in (kernel_for(topology, 3, torch.float32, hidden), None):
        functional, options = Functional(gain, labels, 3), TickOptions(segment=2, face=True, epsilon=1.0)
        rule = RuleNumbers(numbers, hidden)
        face = propagate(drive, weights, cells, topology, 3, kernel, functional, pattern, options, rule)
        results.append([face.detach(), *torch.autograd.grad((face * drawn(6, *face.shape)).sum(), leaves)])
    for name, found, wanted in zip(("face", "drive", "weights", "cells", "gain", "rule"), *results, strict=True):
        size = wanted.abs().max().item()
        assert size > 0, f"{name}: nothing to compare"
        assert (found - wanted).abs().max().item() <= 1e-5 * size, name


def test_a_frozen_rule_gets_no_gradient_and_the_others_stay_the_same(kernel_for):
    topology, hidden = Topology((2, 1, 7), ((), (), (2,))), 5
    kernel = kernel_for(topology, 3, torch.float32, hidden)
    state, weights, cells = drawn(1, 2, 2, 1, 3, 7), drawn(2, len(topology.offsets), 2, 1, 7), drawn(3, 6, 2, 1, 3, 7)
    numbers = drawn(4, rule_size(3, hidden))
    parameters, found = Parameters(weights, cells, rule=RuleNumbers(numbers, hidden)), []
    for of_rule in (torch.zeros_like(numbers), None):
        gradients = Gradients(torch.zeros_like(cells), torch.zeros_like(weights), None, of_rule)
        of_state, of_message = kernel.backward(drawn(5, *state.shape), state, parameters, None, gradients, fresh=True)
        found.append((of_state, of_message, gradients.cells, gradients.weights))
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_a_hidden_number_that_is_not_finite_shows_in_the_state(kernel_for):
    topology, hidden = Topology((1, 1, 5)), 5
    kernel, state = kernel_for(topology, 3, torch.float32, hidden), drawn(1, 1, 1, 1, 3, 5)
    state[0, 0, 0, 1, 2] = torch.nan
    weights, cells = torch.zeros(len(topology.offsets), 1, 1, 5, device=DEVICE), drawn(3, 6, 1, 1, 3, 5)
    rule = RuleNumbers(drawn(4, rule_size(3, hidden)), hidden)
    out = kernel.forward(state, Parameters(weights, cells, rule=rule), None, None)
    assert out[..., 2].isnan().all(), "ReLU hid it from the other channels"
    assert out[..., [0, 4]].isfinite().all(), "these have no such neighbour"


# Which kernel runs


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [LINEAR, 32], ids=["linear", "mlp"])
def test_the_probe_passes_with_a_rule(hidden, monkeypatch):
    monkeypatch.setattr("lattice.kernels.triton_kernel.PROBE_SHAPE", (2, 1, 33))
    TritonKernel(Topology((4, 4, 4)), 3, DEVICE, torch.bfloat16, hidden)


def test_the_probe_sees_a_rule_that_is_computed_wrongly(monkeypatch):
    right = TritonKernel._rule
    monkeypatch.setattr("lattice.kernels.triton_kernel.PROBE_SHAPE", (1, 1, 7))
    monkeypatch.setattr(TritonKernel, "_rule", lambda self, parameters: 1.01 * right(self, parameters))
    with pytest.raises(KernelUnavailable, match="triton computes wrongly"):
        TritonKernel(Topology((4, 4, 4)), 3, DEVICE, torch.float32, LINEAR)


@pytest.mark.parametrize("hidden", [LINEAR, 32], ids=["linear", "mlp"])
def test_auto_takes_triton_on_a_gpu_with_a_rule_and_compiled_if_its_probe_fails(hidden, monkeypatch):
    monkeypatch.setattr(CompiledKernel, "__init__", lambda self, *arguments: None)
    monkeypatch.setattr(TritonKernel, "_place", lambda self, topology: None)
    chosen = []
    for off in (0.0, 0.5):
        monkeypatch.setattr(TritonKernel, "_off_by", lambda self, topology, off=off: off)
        chosen.append(choose("auto", Topology((3, 3, 3)), 12, torch.device("cuda"), torch.bfloat16, hidden))
    assert [kernel.name for kernel, _ in chosen] == ["triton", "compiled"]
    assert "triton computes wrongly" in chosen[1][1]
