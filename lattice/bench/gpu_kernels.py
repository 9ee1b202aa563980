"""The kernels on a GPU: each against the reference, and how much of the copy bandwidth a tick uses.

All of it runs on the CPU, too, on small shapes and by the clock instead of CUDA events: that is how it is tested.

A tick's least bytes are what it must move if every tensor goes through memory once: forward, parameters and weights, the states
it reads and writes; backward, the same parameters and weights, their gradients written (nothing of them read: the first tick
of a step), the state, and the gradients that arrive and leave.  `share` = least bytes / (time x copy rate).
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch

from lattice.bench.timings import CHANNELS, SPARSITY, pruned_pattern
from lattice.kernels import Options, choose, propagate
from lattice.kernels.agreement import disagreement
from lattice.kernels.native import KernelUnavailable
from lattice.kernels.propagate import Kernel
from lattice.kernels.sparse import Pattern
from lattice.kernels.triton_kernel import PROBE_TOLERANCE
from lattice.model.lattice3d import initial_cells, initial_weights
from lattice.random_streams import generator
from presets.schema import Connections
from presets.topology import Topology

CONDITIONS = (("walls", False, 2), ("periodic", False, 1), ("periodic", True, 1), ("walls", True, 3))
"""Boundary, whether sparse, and batch of the checks."""

CHECKED_STRIDES = ((2,), (3,), (4, 17))
"""Of the shapes that kernels are checked on; some reach over a wall of the smallest."""


@dataclass(frozen=True)
class Check:
    """A kernel against the reference, over the state and every gradient; `error` is the worst share of a largest value.

    `failure` says why there is none.
    """

    kernel: str
    shape: tuple[int, int, int]
    batch: int
    dtype: str
    boundary: str
    sparse: bool
    error: float | None
    tolerance: float
    failure: str = ""

    @property
    def passed(self) -> bool:
        return self.error is not None and self.error <= self.tolerance


@dataclass(frozen=True)
class TickRow:
    """One timing of a tick, in seconds; `floor_ratio` is its time over a copy's of the least bytes, `share` the inverse."""

    name: str
    shape: tuple[int, int, int]
    batch: int
    threads: int | None
    ns_per_cell: float
    """Nanoseconds a cell and sentence."""
    floor_ratio: float
    share: float
    median: float
    min: float
    max: float


class Stopwatch:
    """Seconds that calls take on a device: between two CUDA events, or by the clock on the CPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def seconds(self, call: Callable[[], object]) -> float:
        if self._device.type != "cuda":
            clock = time.perf_counter()
            call()
            return time.perf_counter() - clock
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        with torch.cuda.device(self._device):
            start.record()
            call()
            end.record()
            end.synchronize()
        return start.elapsed_time(end) / 1000

    def rounds(self, calls: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
        """Seconds of each call, taken in turns after one warm-up each."""
        for call in calls.values():
            call()
        taken: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(repeats):
            for name, call in calls.items():
                taken[name].append(self.seconds(call))
        return taken


def copy_rate(device: torch.device, size: int, repeats: int) -> float:
    """Bytes a second, read plus written, of a plain copy of `size` bytes on the device."""
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    taken = Stopwatch(device).rounds({"copy": lambda: target.copy_(source)}, repeats)["copy"]
    return 2 * source.nbytes / statistics.median(taken)


def least_bytes(shape: tuple[int, int, int], batch: int, kept: int, itemsize: int, backward: bool) -> int:
    """See the top of the file; `backward` counts forward and backward together.  A pattern's index is left out."""
    x, y, z = shape
    parameters, state = 4 * (6 * CHANNELS + kept), itemsize * CHANNELS * batch
    forward = parameters + 2 * state
    return x * y * z * (forward + (2 * parameters + 3 * state if backward else 0))


@dataclass(frozen=True)
class _Inputs:
    drive: torch.Tensor
    weights: torch.Tensor
    cells: torch.Tensor
    pattern: Pattern | None

    @property
    def learning(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.drive, self.weights, self.cells


def _inputs(topology: Topology, batch: int, dtype: torch.dtype, device: torch.device, sparse: bool) -> _Inputs:
    """What propagate takes, drawn by fixed streams; with SPARSITY of the connections pruned where `sparse`."""
    shape = topology.shape
    weights = initial_weights(topology, Connections(), generator(0, "bench"))
    pattern = pruned_pattern(topology, SPARSITY) if sparse else None
    if pattern is not None:
        weights, pattern = pattern.take(weights), _on(pattern, device)
    drive = torch.randn(batch, *shape[:2], CHANNELS, generator=generator(0, "bench drive"))
    cells = initial_cells(shape, CHANNELS, generator(0, "bench cells"))
    return _Inputs(
        drive.to(device, dtype).requires_grad_(),
        weights.to(device).requires_grad_(),
        cells.to(device).requires_grad_(),
        pattern,
    )


def _on(pattern: Pattern, device: torch.device) -> Pattern:
    return Pattern(pattern.index.to(device), pattern.offsets)


def check(name: str, topology: Topology, batch: int, dtype: torch.dtype, device: torch.device, sparse: bool) -> Check:
    """The kernel of that name, which must not be the reference, against it; what is sparse also hears of clusters."""
    error, failure = None, ""
    try:
        kernel, _ = choose(name, topology, CHANNELS, device, dtype)
        assert kernel is not None, "the reference is not held against itself"
        pattern = _on(pruned_pattern(topology, SPARSITY), device) if sparse else None
        error = disagreement(kernel, topology, CHANNELS, batch, dtype, device, pattern, functional=sparse)
    except KernelUnavailable as problem:
        failure = str(problem)
    about = (name, topology.shape, batch, str(dtype).removeprefix("torch."), topology.boundary, sparse)
    return Check(*about, error, PROBE_TOLERANCE[dtype], failure)


def checks(
    device: torch.device, names: tuple[str, ...], shapes: list[tuple[int, int, int]], dtypes: list[torch.dtype]
) -> Iterator[Check]:
    """Every kernel on every shape and dtype, dense and sparse, with walls and without."""
    for name in names:
        for shape in shapes:
            for dtype in dtypes:
                for boundary, sparse, batch in CONDITIONS:
                    if sparse and name == "compiled":
                        continue  # it is handed expanded connections
                    yield check(name, Topology(shape, CHECKED_STRIDES, boundary), batch, dtype, device, sparse)


def samples_alike(name: str, shape: tuple[int, int, int], batch: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the last sentence of a batch of the same ones comes out bit for bit as the first does.

    With a batch that takes the states past 2^31 numbers, a position computed in 32 bits would be off.
    """
    topology = Topology(shape)
    kernel, _ = choose(name, topology, CHANNELS, device, dtype)
    weights = initial_weights(topology, Connections(), generator(0, "bench")).to(device)
    cells = initial_cells(shape, CHANNELS, generator(0, "bench cells")).to(device)
    drive = torch.randn(1, *shape[:2], CHANNELS, generator=generator(0, "bench drive")).to(device, dtype)
    with torch.no_grad():
        state = propagate(drive.expand(batch, -1, -1, -1), weights, cells, topology, 3, kernel)
    return bool(state[0].any()) and torch.equal(state[0], state[-1])


def tick_rows(
    device: torch.device,
    names: tuple[str, ...],
    shape: tuple[int, int, int],
    batch: int,
    dtype: torch.dtype,
    rate: float,
    repeats: int,
) -> tuple[list[TickRow], list[str]]:
    """(rows, remarks): one tick of the 26 local offsets, forward and forward+backward, dense and sparse, against `rate`."""
    topology, rows, remarks = Topology(shape), [], []
    for sparse in (False, True):
        inputs = _inputs(topology, batch, dtype, device, sparse)
        density = f"sparse {SPARSITY:.0%}" if sparse else "dense"
        forward, both = {}, {}
        for name in names:
            try:
                kernel, _ = choose(name, topology, CHANNELS, device, dtype)
            except KernelUnavailable as error:
                remarks.append(f"{name}: {error}")
                continue
            forward[f"{name} {density}"] = functools.partial(_forward, inputs, topology, kernel)
            both[f"{name} {density}"] = functools.partial(_both, inputs, topology, kernel)
        for kind, calls in (("forward", forward), ("forward+backward", both)):
            size = least_bytes(shape, batch, len(inputs.weights), dtype.itemsize, kind != "forward")
            for name, taken in Stopwatch(device).rounds(calls, repeats).items():
                median = statistics.median(taken)
                rows.append(
                    TickRow(
                        name=f"{kind} {name} {str(dtype).removeprefix('torch.')}",
                        shape=shape,
                        batch=batch,
                        threads=None if device.type == "cuda" else torch.get_num_threads(),
                        ns_per_cell=1e9 * median / (batch * topology.cells),
                        floor_ratio=median * rate / size,
                        share=size / (median * rate),
                        median=median,
                        min=min(taken),
                        max=max(taken),
                    )
                )
        for tensor in inputs.learning:
            tensor.grad = None
    return rows, list(dict.fromkeys(remarks))


def _forward(inputs: _Inputs, topology: Topology, kernel: Kernel | None) -> None:
    with torch.no_grad():
        propagate(*inputs.learning, topology, 1, kernel, None, inputs.pattern, Options(face=True))


def _both(inputs: _Inputs, topology: Topology, kernel: Kernel | None) -> None:
    for tensor in inputs.learning:
        tensor.grad = None
    propagate(*inputs.learning, topology, 1, kernel, None, inputs.pattern, Options(face=True)).float().sum().backward()
