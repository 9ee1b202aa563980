"""The fast tick on the CPU: `tick.c`, compiled at first use (lattice.kernels.building) and called through ctypes.

Unlike the `compiled` kernel it takes states in fp32 and bf16 only, and everything else in fp32.  In exchange it loops over the
batch inside the kernel, so that a tile's weights are loaded once for all samples and channels, and it runs on compact-sparse
connections as they are.  It compiles in about two seconds, once per machine, precision and channel count.
"""

from __future__ import annotations

import ctypes
import functools
import math
from importlib import resources

import torch

from lattice.kernels import pages
from lattice.kernels.building import compiled
from lattice.kernels.kernel import Gradients, KernelUnavailable, Parameters, Transposed
from lattice.kernels.sparse import TILE
from presets.rule_size import BLOCKS
from presets.topology import Topology

SOURCES = ("vectors.h", "tiles.h", "rule.h", "tick.c")

PRECISIONS = {torch.float32: "fp32", torch.bfloat16: "bf16"}
"""The dtypes of states that it takes, and their names."""

MAX_OFFSETS = 128
"""Connections that a cell may have; the buffers in tiles.h are this long."""

SLACK = TILE
"""Zeroed numbers before and after each state buffer, so that loading a tile beside a row stays inside the allocation."""


class Geometry(ctypes.Structure):
    """As in tiles.h."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batch", "size_x", "size_y", "size_z", "offsets")),
        *((name, ctypes.c_void_p) for name in ("dx", "dy", "dz")),
        ("periodic", ctypes.c_int32),
    ]


class _Connections(ctypes.Structure):
    _fields_ = [*((name, ctypes.c_void_p) for name in ("weights", "index", "slot")), ("kept", ctypes.c_int64)]


class _Transposed(ctypes.Structure):
    """As in tiles.h.  It points into the tensors that it is made of, and must not outlive them."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("start", "offset", "weight")]

    @classmethod
    def of(cls, transposed: Transposed) -> _Transposed:
        return cls(pointer(transposed.start, torch.int64), pointer(transposed.offset, torch.uint8), pointer(transposed.weight))


@functools.lru_cache
def library(
    channels: int, dtype: torch.dtype = torch.float32, hidden: int | None = None, per_cell: bool = False
) -> ctypes.CDLL:
    """The compiled tick for this channel count, dtype of states (fp32 or bf16), and rule with so many hidden numbers.

    `hidden` is 0 for a linear rule, and None without one.  `per_cell` says that each cell has a rule of its own.
    Raises KernelUnavailable if it can't be built or loaded.
    """
    folder = resources.files("lattice.kernels")
    defines = [f"-DCHANNELS={channels}", f"-DTILE={TILE}", f"-DMAX_OFFSETS={MAX_OFFSETS}", f"-DMAX_BLOCKS={BLOCKS}"]
    if dtype == torch.bfloat16:
        defines.append("-DBF16")
    if hidden is not None:
        defines.append(f"-DHIDDEN={hidden}")
        defines += ["-DPER_CELL"] * per_cell
    return compiled("tick.c", {name: folder.joinpath(name).read_text(encoding="utf-8") for name in SOURCES}, *defines)


def state_buffer(shape: tuple[int, ...], zero: bool = False, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A tensor [B, X, Y, C, Z] with SLACK zeroed numbers on both sides of its storage; contents zero or undefined."""
    storage = pages.empty((math.prod(shape) + 2 * SLACK,), dtype)
    if zero:
        storage.zero_()
    storage[:SLACK] = 0
    storage[-SLACK:] = 0
    return storage[SLACK:-SLACK].view(shape)


class NativeKernel:
    """Runs ticks of one topology on contiguous tensors on the CPU.  See Kernel.

    States, drive and the gradients of states and messages are of one dtype, fp32 or bf16; everything else is fp32.  States must
    come from `empty_state`.
    """

    name = "native"
    sparse = True

    def __init__(
        self,
        topology: Topology,
        channels: int,
        dtype: torch.dtype = torch.float32,
        hidden: int | None = None,
        per_cell: bool = False,
    ) -> None:
        if len(topology.offsets) > MAX_OFFSETS:
            raise KernelUnavailable(f"the native kernel takes {MAX_OFFSETS} offsets at most, not {len(topology.offsets)}")
        self._library = library(channels, dtype, hidden, per_cell)
        self._hidden, self._per_cell = hidden, per_cell
        self._dtype = dtype
        self._topology = topology
        self._steps = [(ctypes.c_int32 * len(topology.offsets))(*axis) for axis in zip(*topology.offsets, strict=True)]

    def empty_state(self, shape: tuple[int, ...], zero: bool = False) -> torch.Tensor:
        return state_buffer(shape, zero, self._dtype)

    def forward(
        self, state: torch.Tensor, parameters: Parameters, extra: torch.Tensor | None, drive: torch.Tensor | None
    ) -> torch.Tensor:
        out = self.empty_state(state.shape)
        now, given, then = self._states(state, drive, out)
        epsilon, rule = ctypes.c_float(parameters.epsilon), self._numbers(parameters)
        self._call("tick_forward", parameters, len(state), now, parameters.cells, rule, extra, given, epsilon, then)
        return out

    def backward(
        self,
        grad_out: torch.Tensor,
        state: torch.Tensor,
        parameters: Parameters,
        extra: torch.Tensor | None,
        gradients: Gradients,
        fresh: bool = False,
        transposed: Transposed | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if transposed is None:
            transposed = self.transposed(parameters)
        grad_message = self.empty_state(state.shape)
        now, of_state, of_message = self._states(state, grad_out, grad_message)
        rule, of_rule = self._numbers(parameters), gradients.rule
        partial = None if of_rule is None or self._per_cell else torch.empty(BLOCKS, of_rule.numel())
        self._call(
            "tick_backward_cells", parameters, len(state), now, parameters.cells, rule, extra, of_state,
            ctypes.c_float(parameters.epsilon), ctypes.c_int32(fresh), of_message, of_state, gradients.cells, gradients.weights,
            of_rule, partial,
        )  # fmt: skip
        outputs = None if transposed is None else ctypes.byref(_Transposed.of(transposed))
        self._call("tick_backward_state", parameters, len(state), outputs, of_message, of_state, gradients.drive)
        return grad_out, grad_message

    def transposed(self, parameters: Parameters) -> Transposed | None:
        """Sparse connections by the tile that they read, for all ticks of a backward; None for dense ones, which need none.

        Each tile that is read takes 65 bytes per offset by which at least one cell reads it.  The readers of a tile lie in two
        tiles if the offset goes along z, so with 17 of 42 offsets kept at random this is 1.3 times the weights' own memory.
        """
        pattern = parameters.pattern
        if pattern is None:
            return None
        start = torch.empty(pattern.index[0].numel() + 1, dtype=torch.int64)
        self._call("tick_count_outputs", parameters, 1, pointer(start, torch.int64))
        count = int(start[-1])
        offset, weight = pages.empty((count,), torch.uint8), pages.empty((count, TILE))
        self._call("tick_transpose", parameters, 1, pointer(start, torch.int64), pointer(offset, torch.uint8), weight)
        return Transposed(start, offset, weight)

    def _numbers(self, parameters: Parameters) -> torch.Tensor | None:
        """The numbers of the rule.  The kernel is compiled for its kind and size."""
        rule = parameters.rule
        found = (None, False) if rule is None else (rule.hidden, rule.per_cell)
        assert found == (self._hidden, self._per_cell), "the kernel was compiled for another rule"
        return None if rule is None else rule.numbers

    def _states(self, *states: torch.Tensor | None) -> list[ctypes.c_void_p]:
        return [pointer(state, self._dtype) for state in states]

    def _call(
        self,
        function: str,
        parameters: Parameters,
        batch: int,
        *arguments: torch.Tensor | ctypes._SimpleCData | ctypes._CArgObject | None,
    ) -> None:
        weights, pattern, offsets = parameters.weights, parameters.pattern, len(self._topology.offsets)
        steps, periodic = [ctypes.addressof(step) for step in self._steps], self._topology.boundary == "periodic"
        geometry = Geometry(batch, *weights.shape[1:], offsets, *steps, periodic)
        index, slots = (pattern.index, pattern.slots) if pattern is not None else (None, None)
        net = _Connections(pointer(weights), pointer(index, torch.uint8), pointer(slots, torch.uint8), len(weights))
        values = [pointer(a) if a is None or isinstance(a, torch.Tensor) else a for a in arguments]
        getattr(self._library, function)(ctypes.byref(geometry), ctypes.byref(net), *values)


def pointer(tensor: torch.Tensor | None, dtype: torch.dtype = torch.float32) -> ctypes.c_void_p:
    """The address of a contiguous tensor of this dtype; null for None."""
    if tensor is None:
        return ctypes.c_void_p(None)
    assert tensor.is_contiguous() and tensor.dtype == dtype, (tensor.shape, tensor.dtype)
    return ctypes.c_void_p(tensor.data_ptr())
