"""Tests of the ticks: the reference against the formulas of docs/lattice.md, the fast kernels against the reference.

Forward and backward are tested.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch

from lattice.kernels import Functional, choose, propagate
from lattice.kernels.compiled import CompiledKernel
from lattice.kernels.kernel import NORM_EPSILON, Gradients, Parameters
from lattice.kernels.native import NativeKernel
from lattice.kernels.reference import tick
from lattice.kernels.sparse import TILE, Pattern
from presets.topology import LOCAL_OFFSETS, Topology

CPU = torch.device("cpu")
CLUSTERS = 3
SHAPES = ((3, 4, 5), (2, 5, 16), (4, 3, 33), (1, 1, 7))
"""Depths below, at and above the 16 lanes of a vector, none but one a multiple of them; faces of one cell, too."""

STRIDES = ((2,), (3,), (2, 17))
"""Distant offsets on every axis; in the smaller shapes some reach over the wall, or once round and past the start."""


@dataclasses.dataclass(frozen=True)
class Case:
    """Inputs of `propagate`, and what its output is weighted with to make a loss."""

    topology: Topology
    drive: torch.Tensor
    weights: torch.Tensor
    cells: torch.Tensor
    functional: Functional | None
    upstream: torch.Tensor
    pattern: Pattern | None = None


def make_case(
    shape=(3, 4, 5), boundary="walls", batch=2, channels=12, clustered=False, dtype=torch.float32, strides=STRIDES
) -> Case:
    """Every number drawn, none special: full-size gates and weights, so that no term of a formula hides behind another."""
    draw = torch.Generator().manual_seed(7)
    topology = Topology(shape, strides, boundary)
    x, y, z = shape
    # In a column of single cells every early message is a multiple of one state: the norm would cancel the weights, and
    # leave of their gradient only rounding.  Weak ones let epsilon speak.
    weights = torch.randn(len(topology.offsets), x, y, z, generator=draw) * (0.3 if x * y > 1 else 0.02)
    cells = torch.randn(6, x, y, channels, z, generator=draw) * 0.7
    functional = None
    if clustered:
        labels = torch.randint(CLUSTERS, shape, generator=draw)
        gain = torch.randn(x, y, channels, z, generator=draw).requires_grad_()
        functional = Functional(gain, labels, CLUSTERS)
    return Case(
        topology,
        torch.randn(batch, x, y, channels, generator=draw).to(dtype).requires_grad_(),
        weights.requires_grad_(),
        cells.requires_grad_(),
        functional,
        torch.randn(batch, x, y, channels, z, generator=draw),
    )


def run(case: Case, ticks: int, kernel) -> dict[str, torch.Tensor]:
    """The state after `ticks` and the gradient to everything that learns."""
    state = propagate(case.drive, case.weights, case.cells, case.topology, ticks, kernel, case.functional, case.pattern)
    learning = {"drive": case.drive, "weights": case.weights, "cells": case.cells}
    if case.functional is not None:
        learning["gain"] = case.functional.gain
    gradients = torch.autograd.grad((state.float() * case.upstream).sum(), tuple(learning.values()))
    return {"state": state.detach(), **dict(zip(learning, gradients, strict=True))}


def assert_close(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], tolerance: float) -> None:
    """Every tensor differs by at most `tolerance` of the largest element of what is wanted."""
    assert found.keys() == wanted.keys()
    for name in wanted:
        assert found[name].dtype == wanted[name].dtype and found[name].shape == wanted[name].shape, name
        size = wanted[name].float().abs().max().item()
        assert size > 0 or name == "gain", f"{name}: nothing to compare"
        worst = (found[name].float() - wanted[name].float()).abs().max().item()
        assert worst <= tolerance * size, f"{name}: off by {worst:.3g}, largest value {size:.3g}"


# The reference against the formulas


def oracle(case: Case, ticks: int) -> torch.Tensor:
    """The tick of docs/lattice.md, cell by cell in Python floats: state [B, X, Y, C, Z] after `ticks` ticks from silence."""
    (X, Y, Z), offsets = case.topology.shape, case.topology.offsets
    wraps = case.topology.boundary == "periodic"
    drive, weights, cells = (t.detach().tolist() for t in (case.drive, case.weights, case.cells))
    everywhere = list(itertools.product(range(X), range(Y), range(Z)))
    channels = range(case.drive.shape[-1])
    out = torch.zeros(case.drive.shape[0], X, Y, len(channels), Z, dtype=torch.float64)
    for b in range(case.drive.shape[0]):
        state = {cell: [0.0 for _ in channels] for cell in everywhere}
        for _ in range(ticks):
            for x, y in itertools.product(range(X), range(Y)):
                state[x, y, 0] = [s + d for s, d in zip(state[x, y, 0], drive[b][x][y], strict=True)]
            after = {}
            for x, y, z in everywhere:
                message = [0.0 for _ in channels]
                for k, (dx, dy, dz) in enumerate(offsets):
                    there = ((x + dx) % X, (y + dy) % Y, z + dz) if wraps else (x + dx, y + dy, z + dz)
                    if there in state:
                        message = [m + weights[k][x][y][z] * s for m, s in zip(message, state[there], strict=True)]
                if case.functional is not None:
                    label = case.functional.labels[x, y, z]
                    members = [cell for cell in everywhere if case.functional.labels[cell] == label]
                    for c in channels:
                        mean = sum(state[cell][c] for cell in members) / len(members)
                        message[c] += case.functional.gain[x, y, c, z].item() * mean
                size = math.sqrt(sum(m * m for m in message) / len(message) + 1e-3)
                new = []
                for c in channels:
                    s, m = state[x, y, z][c], message[c] / size
                    a_z, b_z, c_z, a_h, b_h, c_h = (cells[p][x][y][c][z] for p in range(6))
                    gate = 1 / (1 + math.exp(-(a_z * s + b_z * m + c_z)))
                    new.append(s + gate * (math.tanh(a_h * s + b_h * m + c_h) - s))
                after[x, y, z] = new
            state = after
        for (x, y, z), values in state.items():
            out[b, x, y, :, z] = torch.tensor(values, dtype=torch.float64)
    return out


def in_double(case: Case) -> Case:
    functional = case.functional
    if functional is not None:
        functional = dataclasses.replace(functional, gain=functional.gain.detach().double())
    tensors = {name: getattr(case, name).detach().double() for name in ("drive", "weights", "cells", "upstream")}
    return dataclasses.replace(case, **tensors, functional=functional)


@pytest.mark.parametrize("clustered", [False, True], ids=["plain", "functional"])
@pytest.mark.parametrize("boundary", ["walls", "periodic"])
def test_the_reference_follows_the_design_cell_by_cell(boundary, clustered):
    case = in_double(make_case((2, 3, 4), boundary, batch=2, channels=3, clustered=clustered, strides=((), (2,), (3,))))
    found = propagate(case.drive, case.weights, case.cells, case.topology, 3, None, case.functional)
    torch.testing.assert_close(found, oracle(case, 3), rtol=0, atol=1e-12)


def test_the_boundaries_differ_and_only_x_and_y_wrap():
    """One cell on the far x wall is driven; after one tick its x neighbour across the wrap has heard it, its depth has not."""
    heard = {}
    for boundary in ("walls", "periodic"):
        topology = Topology((4, 4, 4), boundary=boundary)
        state = torch.zeros(1, 4, 4, 2, 4, dtype=torch.float64)
        state[0, 3, 1, :, 0] = 1.0
        cells = torch.ones(6, 4, 4, 2, 4, dtype=torch.float64)
        weights = torch.ones(len(topology.offsets), 4, 4, 4, dtype=torch.float64)
        cells[2], cells[5] = 0.0, 0.0
        after = tick(state, weights, cells, topology, NORM_EPSILON)
        heard[boundary] = {"across x": bool(after[0, 0, 1, 0, 0] != 0), "across z": bool(after[0, 3, 1, 0, 3] != 0)}
    assert heard["walls"] == {"across x": False, "across z": False}
    assert heard["periodic"] == {"across x": True, "across z": False}


def test_gradients_of_the_reference_agree_with_finite_differences():
    case = in_double(make_case((2, 2, 3), batch=1, channels=2, clustered=True, strides=((), (), (2,))))
    inputs = [t.requires_grad_() for t in (case.drive, case.weights, case.cells, case.functional.gain)]

    def state(drive, weights, cells, gain):
        functional = dataclasses.replace(case.functional, gain=gain)
        return propagate(drive, weights, cells, case.topology, 2, None, functional)

    assert torch.autograd.gradcheck(state, inputs, fast_mode=True)


# The C kernel against the reference


@pytest.mark.parametrize("clustered", [False, True], ids=["plain", "functional"])
@pytest.mark.parametrize("channels", [12, 5])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("boundary", ["walls", "periodic"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_native_equals_reference_forward_and_backward(shape, boundary, batch, channels, clustered):
    case = make_case(shape, boundary, batch, channels, clustered)
    kernel = NativeKernel(case.topology, channels)
    for ticks in (1, 4):
        assert_close(run(case, ticks, kernel), run(case, ticks, None), 1e-5)


@pytest.mark.parametrize(("batch", "kept"), [(1, 9), (3, 34)], ids=str)
@pytest.mark.parametrize("boundary", ["walls", "periodic"])
@pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
def test_native_with_states_in_bf16_equals_reference_dense_and_compact(shape, boundary, batch, kept):
    for case in sparse_case(kept, shape=shape, boundary=boundary, batch=batch, clustered=True, dtype=torch.bfloat16)[:2]:
        kernel = NativeKernel(case.topology, 12, torch.bfloat16)
        for ticks in (1, 4):
            assert_close(run(case, ticks, kernel), run(case, ticks, None), TOLERANCE[torch.bfloat16])


def test_native_rounds_states_to_the_nearest_bf16_and_keeps_what_is_not_a_number():
    """One tick of open gates without a message: the state is tanh of a parameter, rounded once."""
    shape, dtype = (1, 1, 37), torch.bfloat16
    kernel = NativeKernel(Topology(shape), 12, dtype)
    state = kernel.empty_state((1, 1, 1, 12, 37), zero=True)
    cells, weights = torch.zeros(6, 1, 1, 12, 37), torch.zeros(26, *shape)
    cells[2], cells[5] = 43.0, torch.randn(1, 1, 12, 37, generator=torch.Generator().manual_seed(0))
    found, exact = kernel.forward(state, Parameters(weights, cells), None, None)[0], cells[5].tanh()
    # Half a step of eight bits is 2^-8 of a number at most; cutting off could miss by twice as much.
    assert ((found.float() - exact).abs() <= exact.abs() * 2**-8 * 1.001).all()
    assert (found == exact.to(dtype)).float().mean() > 0.99  # where tanh in C is off by its last bit, rounding may differ
    state[0, 0, 0, 3, 20] = math.nan
    spoilt = kernel.forward(state, Parameters(weights, cells), None, None)[0].isnan()
    assert spoilt.nonzero().tolist() == [[0, 0, 3, 20]]  # neighbours clamp it with their gates' arguments


def test_native_state_alone_without_gradients_equals_reference():
    case = make_case((2, 5, 16))
    with torch.no_grad():
        found, wanted = (
            propagate(case.drive, case.weights, case.cells, case.topology, 4, kernel)
            for kernel in (NativeKernel(case.topology, 12), None)
        )
    assert not found.requires_grad
    assert_close({"state": found}, {"state": wanted}, 1e-5)


def test_native_survives_gates_far_outside_the_range_of_exp():
    """The C gates clamp their arguments; saturated cells must stay finite and equal to the reference."""
    case = make_case((2, 5, 16))
    case = dataclasses.replace(case, cells=(case.cells * 400).detach().requires_grad_())
    kernel = NativeKernel(case.topology, 12)
    found, wanted = run(case, 1, kernel), run(case, 1, None)
    assert all(value.isfinite().all() for value in found.values())
    assert_close({"state": found["state"]}, {"state": wanted["state"]}, 1e-5)


def test_frozen_connections_get_no_weight_gradient_and_change_no_other():
    case = make_case((2, 5, 16), clustered=True)
    kernel = NativeKernel(case.topology, 12)
    free = run(case, 2, kernel)
    frozen = case.weights.detach()
    state = propagate(case.drive, frozen, case.cells, case.topology, 2, kernel, case.functional)
    (state * case.upstream).sum().backward()
    assert frozen.grad is None
    assert case.weights.grad is None
    for name, tensor in (("drive", case.drive), ("cells", case.cells), ("gain", case.functional.gain)):
        assert torch.equal(tensor.grad, free[name]), name


def test_native_is_bit_identical_on_repetition_and_with_one_and_two_threads():
    case = make_case((4, 3, 33), "periodic", batch=3, clustered=True)
    kernel = NativeKernel(case.topology, 12)
    before = torch.get_num_threads()
    runs = []
    try:
        for threads in (1, 1, 2, 2):
            torch.set_num_threads(threads)
            runs.append(run(case, 4, kernel))
    finally:
        torch.set_num_threads(before)
    for again in runs[1:]:
        assert all(torch.equal(again[name], runs[0][name]) for name in runs[0])


# Compact-sparse connections


def sparse_case(kept: int, **options) -> tuple[Case, Case, Pattern]:
    """(the same connections compact, and dense with zeros, their pattern): every tile keeps `kept` offsets, drawn at random."""
    case = make_case(**options)
    offsets, x, y, z = case.weights.shape
    drawn = torch.rand(offsets, x, y, -(-z // TILE), generator=torch.Generator().manual_seed(11))
    mask = (drawn.argsort(0).argsort(0) < kept).repeat_interleave(TILE, -1)[..., :z]
    pattern = Pattern.of(mask)
    dense = (case.weights.detach() * mask).requires_grad_()
    compact = pattern.take(dense.detach()).requires_grad_()
    return dataclasses.replace(case, weights=compact, pattern=pattern), dataclasses.replace(case, weights=dense), pattern


@pytest.mark.parametrize("boundary", ["walls", "periodic"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_compact_reference_equals_the_dense_one_with_pruned_weights(shape, boundary):
    compact, dense, pattern = sparse_case(5, shape=shape, boundary=boundary)
    found, wanted = run(compact, 3, None), run(dense, 3, None)
    wanted["weights"] = pattern.take(wanted["weights"])
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("clustered", [False, True], ids=["plain", "functional"])
@pytest.mark.parametrize(("batch", "channels", "kept"), [(1, 12, 9), (3, 5, 4), (2, 12, 34)], ids=str)
@pytest.mark.parametrize("boundary", ["walls", "periodic"])
@pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
def test_native_on_compact_connections_equals_reference_forward_and_backward(shape, boundary, batch, channels, kept, clustered):
    case, _, _ = sparse_case(kept, shape=shape, boundary=boundary, batch=batch, channels=channels, clustered=clustered)
    kernel = NativeKernel(case.topology, channels)
    for ticks in (1, 4):
        assert_close(run(case, ticks, kernel), run(case, ticks, None), 1e-5)


def test_a_kernel_of_dense_connections_runs_compact_ones_expanded(monkeypatch):
    case, _, _ = sparse_case(9, shape=(4, 3, 33))
    kernel = compile_parts(case, torch.float32, monkeypatch)
    with torch.compiler.set_stance("force_eager"):
        assert_close(run(case, 2, kernel), run(case, 2, None), 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_native_on_compact_connections_is_bit_identical_with_one_and_two_threads(dtype):
    case, _, _ = sparse_case(9, shape=(4, 3, 33), boundary="periodic", batch=3, dtype=dtype)
    kernel = NativeKernel(case.topology, 12, dtype)
    before, runs = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            runs.append(run(case, 4, kernel))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


def test_compact_connections_take_the_memory_of_what_is_kept():
    compact, dense, pattern = sparse_case(8, shape=(4, 3, 32))
    held = compact.weights.nbytes + pattern.index.nbytes + pattern.slots.nbytes
    assert compact.weights.nbytes == dense.weights.nbytes * 8 // len(dense.weights)
    assert held < 0.3 * dense.weights.nbytes


def test_masks_that_no_pattern_can_hold_are_refused():
    mask = torch.ones(3, 2, 2, 20, dtype=torch.bool)
    mask[1, 0, 1, 3] = False
    with pytest.raises(ValueError, match="cells of a tile along z must keep the same offsets"):
        Pattern.of(mask)
    mask[1, 0, 1, :16] = False
    with pytest.raises(ValueError, match="every tile must keep as many offsets, not 2 here and 3 there"):
        Pattern.of(mask)


def test_a_pattern_of_another_shape_is_named_with_what_was_expected():
    case, _, pattern = sparse_case(9, shape=(4, 3, 33))
    other = Pattern(pattern.index[..., :2], pattern.offsets)
    with pytest.raises(ValueError, match=r"^pattern: shape .* does not fit the topology, expected "):
        propagate(case.drive, case.weights, case.cells, case.topology, 1, None, pattern=other)


# The compiled kernel against the reference

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.05, torch.float16: 0.006}
"""Relative to the largest element.  Both sides compute in fp32 and round the state once a tick (and the drive's sum with it),
so they differ by a rounding here and there: bf16 keeps 8 bits (one step is 2^-8 = 0.004), fp16 11 (2^-11 = 0.0005).  Four ticks
and as many roundings of the gradient on its way back can add up to a dozen of these."""


def compile_parts(case: Case, dtype: torch.dtype, monkeypatch) -> CompiledKernel:
    """The kernel without its start-up probe, which costs a compilation and has a test of its own."""
    monkeypatch.setattr(CompiledKernel, "_probe", lambda self, channels: None)
    return CompiledKernel(case.topology, case.drive.shape[-1], CPU, dtype)


@pytest.mark.parametrize("clustered", [False, True], ids=["plain", "functional"])
@pytest.mark.parametrize("boundary", ["walls", "periodic"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: str(dtype)[6:])
def test_the_formulas_that_get_compiled_equal_the_reference(dtype, shape, boundary, clustered, monkeypatch):
    """The same Python, forward and hand-written backward, run without the compiler: fast enough for every combination."""
    case = make_case(shape, boundary, batch=3, channels=5, clustered=clustered, dtype=dtype)
    kernel = compile_parts(case, dtype, monkeypatch)
    with torch.compiler.set_stance("force_eager"):
        for ticks in (1, 4):
            assert_close(run(case, ticks, kernel), run(case, ticks, None), TOLERANCE[dtype])


FEW = ((-1, 0, 0), (0, 1, -1), (0, 0, -1), (0, 0, 1))
"""A local tier that compiles in seconds; the whole one is compiled by the slow tests, and run uncompiled above."""


@pytest.mark.parametrize(
    ("dtype", "boundary", "driven", "clustered"),
    [(torch.float32, "walls", True, False), (torch.bfloat16, "periodic", False, True)],
    ids=["fp32-walls-driven", "bf16-periodic-functional"],
)
def test_one_compiled_tick_with_a_small_local_tier_equals_reference(dtype, boundary, driven, clustered, monkeypatch):
    monkeypatch.setattr("presets.topology.LOCAL_OFFSETS", FEW)
    monkeypatch.setattr("lattice.kernels.compiled.LOCAL_OFFSETS", FEW)
    case = make_case((2, 3, 5), boundary, channels=3, clustered=clustered, dtype=dtype, strides=((), (), (2,)))
    assert len(case.topology.offsets) == len(FEW) + 2
    kernel = compile_parts(case, dtype, monkeypatch)
    state = case.upstream.roll(1, 0).to(dtype).requires_grad_()
    extra = case.upstream.roll(1, 1).requires_grad_() if clustered else None

    wanted = tick(state, case.weights, case.cells, case.topology, NORM_EPSILON, extra)
    upstream = case.upstream.to(dtype)
    learning = {"state": state, "weights": case.weights, "cells": case.cells} | ({"message": extra} if clustered else {})
    gradients = dict(zip(learning, torch.autograd.grad(wanted, tuple(learning.values()), upstream), strict=True))
    if driven:
        wanted = torch.cat([wanted[..., :1] + case.drive[..., None], wanted[..., 1:]], -1)

    before = compilations()
    parameters = Parameters(case.weights.detach(), case.cells.detach())
    plain = state.detach(), parameters, extra.detach() if clustered else None
    out = kernel.forward(*plain, case.drive.detach() if driven else None)
    assert_close({"out": out}, {"out": wanted.detach()}, TOLERANCE[dtype])
    # Gradients are added to what is there.
    totals = Gradients(torch.ones_like(case.cells), torch.ones_like(case.weights), torch.ones(case.drive.shape))
    grad_state, grad_message = kernel.backward(upstream, *plain, totals)
    found = {"state": grad_state.to(dtype), "weights": totals.weights - 1, "cells": totals.cells - 1}
    found |= {"message": grad_message} if clustered else {}
    assert_close(found, gradients, TOLERANCE[dtype])
    assert_close({"drive": (totals.drive - 1).to(dtype)}, {"drive": gradients["state"][..., 0]}, TOLERANCE[dtype])
    assert compilations() == before + 2, "it ran without having been compiled"


def compilations() -> int:
    """Graphs compiled so far in this process."""
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 5, 16), (1, 1, 7)], ids=str)
@pytest.mark.parametrize("boundary", ["walls", "periodic"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: str(dtype)[6:])
def test_compiled_equals_reference_with_the_whole_local_tier(dtype, boundary, shape, monkeypatch):
    case = make_case(shape, boundary, batch=2, channels=5, clustered=boundary == "periodic", dtype=dtype)
    assert case.topology.offsets[: len(LOCAL_OFFSETS)] == LOCAL_OFFSETS
    kernel = compile_parts(case, dtype, monkeypatch)
    before = compilations()
    assert_close(run(case, 3, kernel), run(case, 3, None), TOLERANCE[dtype])
    assert compilations() >= before + 3, "forward with drive, without, and backward: one of them was not compiled"


@pytest.mark.slow
def test_auto_takes_the_compiled_kernel_for_fp16():
    kernel, line = choose("auto", Topology((3, 3, 3)), 3, CPU, torch.float16)
    assert isinstance(kernel, CompiledKernel)
    assert line == "tick kernel: compiled (torch.compile)"


# Shapes that do not belong together


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("drive", torch.zeros(1, 4, 3, 2)),
        ("weights", torch.zeros(25, 3, 4, 5)),
        ("weights", torch.zeros(26, 3, 4, 6)),
        ("cells", torch.zeros(6, 3, 4, 3, 5)),
        ("cells", torch.zeros(5, 3, 4, 2, 5)),
    ],
    ids=["drive", "weights-offsets", "weights-depth", "cells-channels", "cells-parameters"],
)
def test_a_shape_that_does_not_fit_is_named_with_what_was_expected(name, wrong):
    inputs = {"drive": torch.zeros(1, 3, 4, 2), "weights": torch.zeros(26, 3, 4, 5), "cells": torch.zeros(6, 3, 4, 2, 5)}
    inputs[name] = wrong
    with pytest.raises(ValueError, match=f"^{name}: shape .* does not fit the topology, expected "):
        propagate(*inputs.values(), Topology((3, 4, 5)), 1)
