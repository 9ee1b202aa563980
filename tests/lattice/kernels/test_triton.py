"""The Triton kernel against the reference: through Triton's interpreter, or on the GPU where there is one.

The interpreter takes milliseconds for every connection of every column, so lattices are tiny and most have a local tier of
four.  What the interpreter can't show, that the kernels compile for a GPU, is shown by compiling them for one that isn't here.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from lattice.kernels import Functional, TickOptions, choose, propagate
from lattice.kernels.compiled import CompiledKernel
from lattice.kernels.kernel import NORM_EPSILON, Gradients, KernelUnavailable, Parameters
from lattice.kernels.reference import tick
from lattice.kernels.sparse import TILE, Pattern
from lattice.kernels.triton_kernel import TritonKernel
from presets.topology import Topology

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed; it comes with torch for CUDA"
)

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
FEW = ((-1, 0, 0), (0, 1, -1), (0, 0, -1), (0, 0, 1))
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.02, torch.float16: 0.003}
"""Of the largest value, for one tick: states and gradients are rounded once or twice, to 8 or 11 bits."""

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def few_offsets(monkeypatch):
    monkeypatch.setattr("presets.topology.LOCAL_OFFSETS", FEW)


def kernel_for(topology: Topology, channels: int, dtype: torch.dtype, monkeypatch) -> TritonKernel:
    """The kernel without its start-up probe, which has a test of its own."""
    monkeypatch.setattr(TritonKernel, "_probe", lambda self, topology: None)
    return TritonKernel(topology, channels, DEVICE, dtype)


@dataclasses.dataclass(frozen=True)
class Case:
    shape: tuple[int, int, int]
    boundary: str
    batch: int
    channels: int
    kept: int | None = None
    """None: dense."""
    dtype: torch.dtype = torch.float32
    clustered: bool = False
    driven: bool = True
    parameters: torch.dtype = torch.float32
    strides: tuple = ((2,), (), (2,))

    def __str__(self) -> str:
        density = "dense" if self.kept is None else f"{self.kept} kept"
        return f"{'x'.join(map(str, self.shape))} {self.boundary} {density} {str(self.dtype)[6:]}"


CASES = (
    Case((3, 2, 5), "walls", 2, 3, strides=((2,), (), (7,))),
    Case((2, 2, 33), "periodic", 1, 12, clustered=True, driven=False),
    Case((1, 1, 7), "periodic", 3, 5, dtype=torch.bfloat16, strides=((3,), (2,), (2,))),
    Case((2, 2, 16), "walls", 1, 12, dtype=torch.float16, clustered=True),
    Case((2, 2, 33), "walls", 2, 12, kept=3, clustered=True, strides=((), (), (2, 17))),
    Case((2, 3, 18), "periodic", 1, 5, kept=5, dtype=torch.bfloat16, driven=False),
    Case((1, 2, 40), "walls", 1, 1, kept=1, dtype=torch.float16),
    Case((2, 1, 7), "walls", 1, 3, parameters=torch.bfloat16),
)


def tensors_of(case: Case, topology: Topology) -> tuple[dict[str, torch.Tensor | None], Pattern | None]:
    """One tick's inputs, every number drawn."""
    draw, (x, y, z) = torch.Generator().manual_seed(3), case.shape
    offsets = len(topology.offsets)

    def drawn(*sizes: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.randn(*sizes, generator=draw).to(DEVICE, dtype)

    pattern = None
    if case.kept is not None:
        order = torch.rand(offsets, x, y, -(-z // TILE), generator=draw).argsort(0)
        pattern = Pattern(order[: case.kept].to(DEVICE, torch.uint8).contiguous(), offsets)
    state = (case.batch, x, y, case.channels, z)
    return {
        "state": drawn(*state, dtype=case.dtype),
        "weights": (0.4 * drawn(case.kept or offsets, x, y, z)).to(case.parameters),
        "cells": (0.7 * drawn(6, x, y, case.channels, z)).to(case.parameters),
        "extra": drawn(*state) if case.clustered else None,
        "drive": drawn(case.batch, x, y, case.channels, dtype=case.dtype) if case.driven else None,
        "upstream": drawn(*state, dtype=case.dtype),
    }, pattern


def assert_near(found: torch.Tensor, wanted: torch.Tensor, dtype: torch.dtype, name: str) -> None:
    assert found.shape == wanted.shape, name
    size = wanted.float().abs().max().item()
    assert size > 0, f"{name}: nothing to compare"
    worst = (found.float() - wanted.float()).abs().max().item()
    assert worst <= TOLERANCE[dtype] * size, f"{name}: off by {worst:.3g}, largest value {size:.3g}"


@needs_triton
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_tick_forward_and_backward_equals_the_reference(case, few_offsets, monkeypatch):
    topology = Topology(case.shape, case.strides, case.boundary)
    given, pattern = tensors_of(case, topology)
    learning = {
        name: given[name].detach().float().requires_grad_() if name != "state" else given[name].detach().requires_grad_()
        for name in ("state", "weights", "cells", "extra")
        if given[name] is not None
    }
    dense = learning["weights"] if pattern is None else pattern.expand(learning["weights"])
    wanted = tick(learning["state"], dense, learning["cells"], topology, NORM_EPSILON, learning.get("extra"))
    gradients = dict(zip(learning, torch.autograd.grad(wanted, tuple(learning.values()), given["upstream"]), strict=True))
    wanted = wanted.detach().clone()
    if case.driven:
        wanted[..., 0] += given["drive"]

    kernel = kernel_for(topology, case.channels, case.dtype, monkeypatch)
    parameters = Parameters(given["weights"], given["cells"], pattern)
    out = kernel.forward(given["state"], parameters, given["extra"], given["drive"])
    assert out.dtype == case.dtype
    assert_near(out, wanted, case.dtype, "out")

    def backward(start: float, fresh: bool, weights_learn: bool = True) -> dict[str, torch.Tensor]:
        totals = [torch.full(given[name].shape, start, device=DEVICE) for name in ("cells", "weights")]
        if not weights_learn:
            totals[1] = None
        drive = torch.full(given["state"].shape[:4], 2.0, device=DEVICE)
        upstream = given["upstream"].clone()
        gradients = Gradients(*totals, drive)
        state, message = kernel.backward(upstream, given["state"], parameters, given["extra"], gradients, fresh)
        assert state.data_ptr() == upstream.data_ptr(), "the gradient of the state takes the place of the one given"
        return {"state": state, "extra": message, "cells": totals[0], "weights": totals[1], "drive": drive}

    found = backward(float("nan"), fresh=True)
    for name, gradient in gradients.items():
        assert_near(found[name], gradient, case.dtype, f"gradient of {name}")
    assert_near(found["drive"] - 2, gradients["state"][..., 0], case.dtype, "gradient of drive")
    added = backward(1.0, fresh=False)
    for name in ("cells", "weights"):
        assert_near(added[name] - 1, gradients[name], case.dtype, f"added gradient of {name}")
    held = backward(0.0, fresh=True, weights_learn=False)
    assert all(torch.equal(held[name], found[name]) for name in ("state", "cells"))


@needs_triton
def test_a_run_of_ticks_with_clusters_and_compact_connections_equals_the_reference(few_offsets, monkeypatch):
    case = Case((2, 2, 18), "walls", 1, 3, kept=4, clustered=True)
    topology = Topology(case.shape, case.strides, case.boundary)
    given, pattern = tensors_of(case, topology)
    gain = given["extra"][0].detach().requires_grad_()
    labels = torch.arange(topology.cells, device=DEVICE).view(topology.shape) % 3
    inputs = [given[name].detach().requires_grad_() for name in ("drive", "weights", "cells")]
    results = []
    for kernel in (kernel_for(topology, 3, torch.float32, monkeypatch), None):
        functional = Functional(gain, labels, 3)
        face = propagate(*inputs, topology, 3, kernel, functional, pattern, TickOptions(segment=2, face=True))
        loss = (face * given["upstream"][..., 0]).sum()
        results.append([face.detach(), *torch.autograd.grad(loss, (*inputs, gain))])
    for name, found, wanted in zip(("face", "drive", "weights", "cells", "gain"), *results, strict=True):
        assert_near(found, wanted, torch.float32, name)


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: str(dtype)[6:])
def test_the_probe_passes_where_the_kernel_is_right(dtype, monkeypatch):
    """With the whole local tier; it is what every run on a GPU starts with."""
    monkeypatch.setattr("lattice.kernels.triton_kernel.PROBE_SHAPE", (2, 1, 33))
    kernel = TritonKernel(Topology((4, 4, 4), ((), (), (2,))), 3, DEVICE, dtype)
    assert kernel._steps.shape == (28, 3), "the probe's topology was left behind"


# Which kernel runs


@pytest.fixture
def on_a_gpu(monkeypatch):
    """`choose` asks for CUDA, and gets kernels that say what they are without a device."""
    monkeypatch.setattr(CompiledKernel, "__init__", lambda self, *arguments: None)
    return torch.device("cuda")


def refuse(error: Exception):
    def fail(self, topology):
        raise error

    return fail


def test_auto_takes_triton_on_a_gpu_where_the_probe_passes(on_a_gpu, monkeypatch):
    monkeypatch.setattr(TritonKernel, "_place", lambda self, topology: None)
    monkeypatch.setattr(TritonKernel, "_off_by", lambda self, topology: 0.0)
    kernel, line = choose("auto", Topology((3, 3, 3)), 12, on_a_gpu, torch.bfloat16)
    assert isinstance(kernel, TritonKernel)
    assert line == "tick kernel: triton (bfloat16 states)"


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (RuntimeError("ptxas exited with 255\nand many more lines"), "triton does not work on cuda (ptxas exited with 255)"),
        (RuntimeError("CUDA error: an illegal instruction was encountered\n"), "an illegal instruction was encountered"),
        (AssertionError(), "triton does not work on cuda (AssertionError)"),
        (0.5, "triton computes wrongly on cuda (off by 0.5 of the largest value)"),
        (float("nan"), "triton computes wrongly on cuda (off by nan of the largest value)"),
    ],
    ids=["compilation", "first call", "no message", "wrong", "not finite"],
)
def test_auto_goes_over_to_the_compiled_kernel_and_says_why_in_one_line(failure, told, on_a_gpu, monkeypatch):
    monkeypatch.setattr(TritonKernel, "_place", lambda self, topology: None)
    fails = refuse(failure) if isinstance(failure, Exception) else lambda self, topology: failure
    monkeypatch.setattr(TritonKernel, "_off_by", fails)
    kernel, line = choose("auto", Topology((3, 3, 3)), 12, on_a_gpu, torch.bfloat16)
    assert isinstance(kernel, CompiledKernel)
    assert line.startswith("tick kernel: compiled (torch.compile), slower and larger on a GPU, because ")
    assert told in line
    assert "\n" not in line
    with pytest.raises(KernelUnavailable, match=r"^triton "):
        choose("triton", Topology((3, 3, 3)), 12, on_a_gpu, torch.bfloat16)


def test_a_full_gpu_is_no_failure_of_the_kernel(on_a_gpu, monkeypatch):
    """Memory that runs out in the probe ends the run with its own sentence; another kernel would need more of it."""
    monkeypatch.setattr(TritonKernel, "_place", lambda self, topology: None)
    monkeypatch.setattr(TritonKernel, "_off_by", refuse(torch.OutOfMemoryError("CUDA out of memory")))
    with pytest.raises(torch.OutOfMemoryError):
        choose("auto", Topology((3, 3, 3)), 12, on_a_gpu, torch.bfloat16)


def test_without_triton_the_compiled_kernel_runs_on_a_gpu(on_a_gpu, monkeypatch):
    monkeypatch.setattr(TritonKernel, "_off_by", lambda self, topology: importlib.import_module("lattice.kernels.triton_tick"))
    monkeypatch.setattr(TritonKernel, "_place", lambda self, topology: None)
    monkeypatch.setitem(sys.modules, "lattice.kernels.triton_tick", None)
    kernel, line = choose("auto", Topology((3, 3, 3)), 12, on_a_gpu, torch.float32)
    assert isinstance(kernel, CompiledKernel)
    assert "because triton can't be imported" in line


def test_triton_by_name_on_the_cpu_is_refused():
    with pytest.raises(KernelUnavailable, match="runs on a CUDA GPU, not on cpu"):
        choose("triton", Topology((3, 3, 3)), 12, torch.device("cpu"), torch.float32)


def test_a_lattice_of_more_programs_than_a_launch_can_number_is_refused_in_a_sentence():
    with pytest.raises(KernelUnavailable, match="40000x40000x64 cells takes more programs than a GPU can number in 31 bits"):
        TritonKernel(Topology((40_000, 40_000, 64)), 12, torch.device("cpu"), torch.bfloat16)


# Compiled for a GPU that is not here


@pytest.fixture(scope="module")
def compiled_for_cuda(tmp_path_factory) -> list[dict]:
    """What every launch comes to for compute capability 8.0 and 9.0, down to machine code."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton")), "PYTHONPATH": str(ROOT)}
    program = Path(__file__).with_name("compile_triton.py")
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", program], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    if done.returncode == 75:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def without_a_rule(compiled_for_cuda: list[dict]) -> list[dict]:
    return [built for built in compiled_for_cuda if built["hidden"] is None]


@needs_triton
def test_every_launch_compiles_for_cuda_to_machine_code(compiled_for_cuda):
    meeting = {(name, hidden) for name in ("forward", "backward_cells") for hidden in (None, 0, 20)}
    names = meeting | {("backward_state", None), ("backward_weights", None)}
    assert {(built["entry"], built["hidden"], built["capability"]) for built in compiled_for_cuda} == {
        (*name, capability) for name in names for capability in (80, 90)
    }
    assert all(built["cubin_bytes"] > 1000 for built in compiled_for_cuda)


@needs_triton
def test_one_compilation_serves_every_shape(compiled_for_cuda):
    """Two capabilities, two dtypes, dense and sparse make eight; `fresh` doubles those that add, the drive the forward."""
    counts = Counter(built["entry"] for built in without_a_rule(compiled_for_cuda))
    assert counts == {"forward": 16, "backward_cells": 16, "backward_weights": 16, "backward_state": 8}


@needs_triton
def test_the_compiled_kernels_share_only_what_sums_over_channels_need(compiled_for_cuda):
    """Blocks lie with z along the lanes of a warp: were they laid otherwise, whole blocks would go through shared memory."""
    assert all(built["shared_bytes"] <= 4 * 4 * 32 for built in without_a_rule(compiled_for_cuda))


@needs_triton
def test_products_of_a_rule_s_matrices_fit_the_shared_memory_of_any_gpu(compiled_for_cuda):
    assert all(built["shared_bytes"] <= 48 << 10 for built in compiled_for_cuda)


@needs_triton
def test_positions_in_tensors_are_computed_in_64_bits(compiled_for_cuda):
    """What is multiplied in 32 bits is a cell's depth, three numbers an offset, or a step times -1 or 1."""
    found = {name for built in without_a_rule(compiled_for_cuda) for name in built["multiplied_in_32_bits"]}
    assert found <= {"z", "x", "y"}


@needs_triton
def test_with_a_rule_only_counts_of_blocks_and_places_among_its_numbers_are_in_32_bits_too(compiled_for_cuda):
    found = {name for built in compiled_for_cuda for name in built["multiplied_in_32_bits"]}
    assert found <= {"z", "x", "y", "blocks", "number", "weight"}
