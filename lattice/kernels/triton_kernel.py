"""The fast tick on a CUDA GPU: launches `triton_tick`, on dense and on compact-sparse connections as they are.

Unlike the `compiled` kernel it needs no expanded connections and no buffers of its own, and it reads weights and parameters
once per batch.  It is compiled at first use, for each channel count, dtype and boundary.
"""

from __future__ import annotations

import contextlib

import torch

from lattice.kernels.agreement import disagreement
from lattice.kernels.kernel import Gradients, KernelUnavailable, Parameters, Transposed
from lattice.kernels.sparse import TILE, Pattern
from presets.rule_size import PROGRAMS
from presets.topology import Topology

LARGEST_GRID = 2**31 - 1
"""Most programs that CUDA starts along the first axis.  Lanes within a program are numbered in 32 bits, too."""

Z_BLOCK = 32
"""Cells per program along z: one for each lane of a warp."""

WARPS = {"forward": 2, "backward_cells": 4, "backward_state": 2, "backward_weights": 1}
"""Warps per program.  If there is only one, the channels of a cell are added up within one thread."""

PROBE_SHAPE, PROBE_TOLERANCE = (3, 2, 33), {torch.float32: 1e-4, torch.bfloat16: 0.02, torch.float16: 0.003}
"""The probe runs a lattice of two blocks along z, and may differ from the reference by this share of the largest value.
States and gradients are rounded once or twice, to 24, 8 or 11 bits."""

MEETING = ("forward", "backward_cells")
"""Launches in which the channels of a cell meet, if there is a shared rule."""

RULE_WARPS, WIDE_RULE = 4, 32
"""Warps per program in such launches, twice as many if a matrix of the rule has more rows or columns than WIDE_RULE.  With
fewer warps the sums of its gradients leave too few registers."""

SMALLEST_DOT = 16
"""Least rows and columns of a product of matrices in Triton."""


class TritonKernel:
    """Runs ticks of one topology on a CUDA device, with states in fp32, bf16 or fp16.  See Kernel.

    Gradients of states have the dtype of the states, as autograd would round them between two ticks.
    """

    name = "triton"
    sparse = True

    def __init__(
        self, topology: Topology, channels: int, device: torch.device, dtype: torch.dtype, hidden: int | None = None
    ) -> None:
        """Raises KernelUnavailable if triton is missing, can't compile for the device, or computes something else there."""
        x, y, z = topology.shape
        if x * y * -(-z // Z_BLOCK) > LARGEST_GRID or channels * z > LARGEST_GRID:
            raise KernelUnavailable(f"a lattice of {x}x{y}x{z} cells takes more programs than a GPU can number in 31 bits")
        self._device, self._dtype, self._channels, self._hidden = device, dtype, channels, hidden
        self._place(topology)
        self._probe(topology)

    def _place(self, topology: Topology) -> None:
        self._topology = topology
        self._steps = torch.tensor(topology.offsets, dtype=torch.int32, device=self._device)

    def _probe(self, topology: Topology) -> None:
        """Runs a tick of a small lattice both ways against the reference, so that a failure is known before training."""
        try:
            off = self._off_by(Topology(PROBE_SHAPE, ((), (), (4,)), topology.boundary))
        except ImportError as error:
            raise KernelUnavailable(f"triton can't be imported ({error})") from error
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise KernelUnavailable(f"triton does not work on {self._device} ({line})") from error
        finally:
            self._place(topology)
        if not off <= PROBE_TOLERANCE[self._dtype]:
            raise KernelUnavailable(f"triton computes wrongly on {self._device} (off by {off:.2g} of the largest value)")

    def _off_by(self, topology: Topology) -> float:
        """The worst disagreement with the reference, on dense connections, and on compact ones with clusters."""
        self._place(topology)
        tiles = -(-topology.shape[2] // TILE)
        index = torch.arange(3, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, *topology.shape[:2], tiles) * 7 + 4
        pattern = Pattern(index.contiguous().to(self._device), len(topology.offsets))
        of = (self, topology, self._channels, 2, self._dtype, self._device)
        off = disagreement(*of, hidden=self._hidden), disagreement(*of, pattern, functional=True, hidden=self._hidden)
        return float(torch.tensor(off).max())  # NaN if one is

    def empty_state(self, shape: tuple[int, ...], zero: bool = False) -> torch.Tensor:
        make = torch.zeros if zero else torch.empty
        return make(shape, dtype=self._dtype, device=self._device)

    def forward(
        self, state: torch.Tensor, parameters: Parameters, extra: torch.Tensor | None, drive: torch.Tensor | None
    ) -> torch.Tensor:
        weights, pattern = parameters.weights, parameters.pattern
        out, index = torch.empty_like(state), None if pattern is None else pattern.index
        self._launch(
            "forward", state, state, weights, index, parameters.cells, extra, drive, self._rule(parameters), self._steps, out,
            *self._sizes(state), len(weights), parameters.epsilon,
        )  # fmt: skip
        return out

    def transposed(self, parameters: Parameters) -> None:
        return None

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
        weights, cells, pattern = parameters.weights, parameters.cells, parameters.pattern
        grad_message, sizes = torch.empty_like(state), self._sizes(state)
        index, slots = (None, None) if pattern is None else (pattern.index, pattern.slots)
        partial = None
        if gradients.rule is not None:
            partial = torch.empty(min(_blocks(state), PROGRAMS), len(gradients.rule), device=state.device)
        self._launch(
            "backward_cells", state, grad_out, state, weights, index, cells, extra, self._rule(parameters), self._steps,
            grad_out, grad_message, gradients.cells, partial, *sizes, len(weights), parameters.epsilon, FRESH=fresh,
        )  # fmt: skip
        if gradients.rule is not None and partial is not None:
            gradients.rule.add_(partial.sum(0))
        self._launch("backward_state", state, weights, slots, self._steps, grad_message, grad_out, *sizes, len(self._steps))
        if gradients.weights is not None:
            self._launch(
                "backward_weights", state, grad_message, state, index, self._steps, gradients.weights, *sizes, len(weights),
                FRESH=fresh,
            )  # fmt: skip
        if gradients.drive is not None:
            gradients.drive.add_(grad_out[..., 0])
        return grad_out, grad_message

    def _rule(self, parameters: Parameters) -> torch.Tensor | None:
        rule = parameters.rule
        assert (None if rule is None else rule.hidden) == self._hidden, "the kernel was made for another shared rule"
        return None if rule is None else rule.numbers

    @staticmethod
    def _sizes(state: torch.Tensor) -> tuple[int, int, int, int]:
        batch, x, y, _, z = state.shape
        return batch, x, y, z

    def _launch(self, name: str, state: torch.Tensor, *arguments: object, **constants: object) -> None:
        # Not at the top: triton is there where torch is built for CUDA.
        from lattice.kernels import triton_tick

        channels = state.shape[3]
        constants |= {"CHANNELS": channels, "C_BLOCK": _power_of_two(channels), "Z_BLOCK": Z_BLOCK}
        programs, warps = _blocks(state), WARPS[name]
        if name in MEETING:
            constants |= {"HIDDEN": self._hidden, "H_BLOCK": None}
        if name in MEETING and self._hidden is not None:
            c_block = _power_of_two(channels, SMALLEST_DOT)
            h_block = _power_of_two(self._hidden, SMALLEST_DOT) if self._hidden else 2 * c_block
            constants |= {"C_BLOCK": c_block, "H_BLOCK": h_block}
            programs = min(programs, PROGRAMS) if name == "backward_cells" else programs
            warps = RULE_WARPS if max(2 * c_block, h_block) <= WIDE_RULE else 2 * RULE_WARPS
        assert all(a.is_contiguous() for a in arguments if isinstance(a, torch.Tensor)), name
        # Triton launches on the current device, whatever the tensors are on.
        current = torch.cuda.device(state.device) if state.is_cuda else contextlib.nullcontext()
        periodic = self._topology.boundary == "periodic"
        with current:
            getattr(triton_tick, name)[(programs,)](
                *arguments, PERIODIC=periodic, num_warps=warps, enable_fp_fusion=True, **constants
            )


def _blocks(state: torch.Tensor) -> int:
    """Blocks of cells, each of which is one program in most launches."""
    _, x, y, _, z = state.shape
    return x * y * -(-z // Z_BLOCK)


def _power_of_two(size: int, least: int = 1) -> int:
    """The smallest power of two that is neither below `size` nor below `least`, which is one."""
    return max(least, 1 << (size - 1).bit_length())
