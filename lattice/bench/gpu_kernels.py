"""Checks and times the kernels on a GPU: each against the reference, and how much of the copy bandwidth a tick uses.

All of it also runs on the CPU, on small shapes and by the clock instead of CUDA events.  That is how it is tested.

The least bytes of a tick are what it has to move if every tensor goes through memory once:

    forward     parameters and weights are read; a state is read and a state is written
    backward    parameters and weights are read, their gradients are written; the state and the gradient that arrives are read,
                the gradient that leaves is written

Gradients are written without being read, as in the first tick of a step.  `share` = least bytes / (time x copy rate).
"""

from __future__ import annotations

import functools
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch

from lattice.bench.timings import CHANNELS, RULES, SPARSITY, drawn_rule, pruned_pattern
from lattice.kernels import TickOptions, choose, propagate
from lattice.kernels.agreement import disagreement
from lattice.kernels.kernel import RuleNumbers
from lattice.kernels.native import KernelUnavailable
from lattice.kernels.propagate import Kernel
from lattice.kernels.sparse import Pattern
from lattice.kernels.triton_kernel import PROBE_TOLERANCE
from lattice.model.lattice3d import initial_cells, initial_weights
from lattice.random_streams import generator
from presets.schema import Connections
from presets.topology import Topology

CONDITIONS = (
    ("walls", False, 2, "none"),
    ("periodic", False, 1, "none"),
    ("periodic", True, 1, "none"),
    ("walls", True, 3, "none"),
    ("walls", False, 2, "mlp"),
    ("periodic", True, 1, "linear"),
)
"""The conditions of the checks: boundary, whether connections are sparse, batch, and the kind of the shared rule."""

CHECKED_STRIDES = ((2,), (3,), (4, 17))
"""Strides of the lattices that kernels are checked on.  In the smallest shape, some reach over a wall."""


@dataclass(frozen=True)
class Check:
    """The result of a check of a kernel against the reference, over the state and every gradient.

    `error` is the largest difference in a tensor, as a share of that tensor's largest value.  If the kernel can't run here, it
    is None, and `failure` says why.
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
    rule: str = "none"

    @property
    def passed(self) -> bool:
        return self.error is not None and self.error <= self.tolerance


@dataclass(frozen=True)
class TickRow:
    """One timing of a tick.  `median`, `min` and `max` are in seconds.

    `floor_ratio` is the tick's time over the time to copy its least bytes; `share` is the inverse.
    """

    name: str
    shape: tuple[int, int, int]
    batch: int
    threads: int | None
    ns_per_cell: float
    """Nanoseconds per cell and sentence."""
    floor_ratio: float
    share: float
    median: float
    min: float
    max: float


class Stopwatch:
    """Times calls in seconds: between two CUDA events on a GPU, by the clock on the CPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def seconds(self, call: Callable[[], object]) -> float:
        """The seconds that one call takes."""
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
        """Seconds of each call, `repeats` times.  The calls take turns, after one warm-up each."""
        for call in calls.values():
            call()
        taken: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(repeats):
            for name, call in calls.items():
                taken[name].append(self.seconds(call))
        return taken


def copy_rate(device: torch.device, size: int, repeats: int) -> float:
    """Bytes per second, read plus written, of a plain copy of `size` bytes on the device."""
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    taken = Stopwatch(device).rounds({"copy": lambda: target.copy_(source)}, repeats)["copy"]
    return 2 * source.nbytes / statistics.median(taken)


def least_bytes(shape: tuple[int, int, int], batch: int, kept: int, itemsize: int, backward: bool) -> int:
    """The least bytes of a tick, as the top of this file defines them.  With `backward`, forward and backward together.

    `kept` is the number of connections per cell, `itemsize` the bytes per number of a state.  A pattern's index is left out.
    """
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
    """The inputs of propagate, drawn from fixed streams.  If `sparse`, the share SPARSITY of the connections is pruned."""
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


def check(
    name: str,
    topology: Topology,
    batch: int,
    dtype: torch.dtype,
    device: torch.device,
    sparse: bool,
    rule: str = "none",
) -> Check:
    """Compares the kernel `name`, which must not be the reference, with the reference.

    If `sparse`, connections are pruned, and something is added to the messages, as clusters do.  `rule` is the kind of the
    shared rule.
    """
    error, failure, hidden = None, "", RULES.get(rule)
    try:
        kernel, _ = choose(name, topology, CHANNELS, device, dtype, hidden)
        assert kernel is not None, "the reference is not held against itself"
        pattern = _on(pruned_pattern(topology, SPARSITY), device) if sparse else None
        error = disagreement(kernel, topology, CHANNELS, batch, dtype, device, pattern, sparse, hidden)
    except KernelUnavailable as problem:
        failure = str(problem)
    about = (name, topology.shape, batch, str(dtype).removeprefix("torch."), topology.boundary, sparse)
    return Check(*about, error, PROBE_TOLERANCE[dtype], failure, rule)


def checks(
    device: torch.device, names: tuple[str, ...], shapes: list[tuple[int, int, int]], dtypes: list[torch.dtype]
) -> Iterator[Check]:
    """Checks every kernel on every shape and dtype, under all CONDITIONS.

    `compiled` is not checked on sparse connections, and with a rule on the first shape only, since it compiles for minutes.
    """
    for name in names:
        for shape in shapes:
            for dtype in dtypes:
                for boundary, sparse, batch, rule in CONDITIONS:
                    if name == "compiled" and (sparse or (rule != "none" and shape != shapes[0])):
                        continue  # it gets sparse connections expanded to dense ones
                    yield check(name, Topology(shape, CHECKED_STRIDES, boundary), batch, dtype, device, sparse, rule)


def samples_alike(name: str, shape: tuple[int, int, int], batch: int, dtype: torch.dtype, device: torch.device) -> bool:
    """True if the last sentence of a batch of equal ones comes out bit for bit like the first, and not as zeros.

    With a batch whose states have more than 2^31 numbers, this fails if a kernel computes positions in 32 bits.
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
    """Times one tick of the 26 local offsets, forward and forward+backward, dense and sparse.  Returns (rows, remarks).

    The dense tick is also timed with each of RULES.  `rate` is the copy rate in bytes per second that the times are compared
    with; the numbers of a rule are too few to count.  A kernel that can't run gets a remark.
    """
    topology, rows, remarks = Topology(shape), [], []
    for sparse in (False, True):
        inputs = _inputs(topology, batch, dtype, device, sparse)
        density = f"sparse {SPARSITY:.0%}" if sparse else "dense"
        forward, both = {}, {}
        for name, kind in itertools.product(names, ("",) if sparse else ("", *RULES)):
            try:
                kernel, _ = choose(name, topology, CHANNELS, device, dtype, RULES.get(kind))
            except KernelUnavailable as error:
                remarks.append(f"{name}: {error}")
                continue
            rule, row = drawn_rule(kind, device) if kind else None, f"{name} {density} {kind}".rstrip()
            forward[row] = functools.partial(_forward, inputs, topology, kernel, rule)
            both[row] = functools.partial(_both, inputs, topology, kernel, rule)
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


def _forward(inputs: _Inputs, topology: Topology, kernel: Kernel | None, rule: RuleNumbers | None) -> None:
    with torch.no_grad():
        propagate(*inputs.learning, topology, 1, kernel, None, inputs.pattern, TickOptions(face=True), rule)


def _both(inputs: _Inputs, topology: Topology, kernel: Kernel | None, rule: RuleNumbers | None) -> None:
    for tensor in (*inputs.learning, *([] if rule is None else [rule.numbers])):
        tensor.grad = None
    face = propagate(*inputs.learning, topology, 1, kernel, None, inputs.pattern, TickOptions(face=True), rule)
    face.float().sum().backward()
