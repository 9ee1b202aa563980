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


class TritonKernel:
    """Runs ticks of one topology on a CUDA device, with states in fp32, bf16 or fp16.  See Kernel.

    Gradients of states have the dtype of the states, as autograd would round them between two ticks.
    """

    name = "triton"
    sparse = True

    def __init__(
        self, topology: Topology, channels: int, device: torch.device, dtype: torch.dtype, hidden: int | None = None
    ) -> None:
        if hidden is not None:
            raise KernelUnavailable("the triton kernel has no shared rule (rule.kind)")
        """Raises KernelUnavailable if triton is missing, can't compile for the device, or computes something else there."""
        x, y, z = topology.shape
        if x * y * -(-z // Z_BLOCK) > LARGEST_GRID or channels * z > LARGEST_GRID:
            raise KernelUnavailable(f"a lattice of {x}x{y}x{z} cells takes more programs than a GPU can number in 31 bits")
        self._device, self._dtype, self._channels = device, dtype, channels
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
        return float(torch.tensor([disagreement(*of), disagreement(*of, pattern, functional=True)]).max())  # NaN if one is

    def empty_state(self, shape: tuple[int, ...], zero: bool = False) -> torch.Tensor:
        make = torch.zeros if zero else torch.empty
        return make(shape, dtype=self._dtype, device=self._device)

    def forward(
        self, state: torch.Tensor, parameters: Parameters, extra: torch.Tensor | None, drive: torch.Tensor | None
    ) -> torch.Tensor:
        weights, pattern = parameters.weights, parameters.pattern
        out, index = torch.empty_like(state), None if pattern is None else pattern.index
        self._launch(
            "forward", state, state, weights, index, parameters.cells, extra, drive, self._steps, out, *self._sizes(state),
            len(weights), parameters.epsilon,
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
        self._launch(
            "backward_cells", state, grad_out, state, weights, index, cells, extra, self._steps, grad_out, grad_message,
            gradients.cells, *sizes, len(weights), parameters.epsilon, FRESH=fresh,
        )  # fmt: skip
        self._launch("backward_state", state, weights, slots, self._steps, grad_message, grad_out, *sizes, len(self._steps))
        if gradients.weights is not None:
            self._launch(
                "backward_weights", state, grad_message, state, index, self._steps, gradients.weights, *sizes, len(weights),
                FRESH=fresh,
            )  # fmt: skip
        if gradients.drive is not None:
            gradients.drive.add_(grad_out[..., 0])
        return grad_out, grad_message

    @staticmethod
    def _sizes(state: torch.Tensor) -> tuple[int, int, int, int]:
        batch, x, y, _, z = state.shape
        return batch, x, y, z

    def _launch(self, name: str, state: torch.Tensor, *arguments: object, **constants: object) -> None:
        # Not at the top: triton is there where torch is built for CUDA.
        from lattice.kernels import triton_tick

        _, x, y, channels, z = state.shape
        assert all(a.is_contiguous() for a in arguments if isinstance(a, torch.Tensor)), name
        # Triton launches on the current device, whatever the tensors are on.
        current = torch.cuda.device(state.device) if state.is_cuda else contextlib.nullcontext()
        with current:
            getattr(triton_tick, name)[(x * y * -(-z // Z_BLOCK),)](
                *arguments, CHANNELS=channels, C_BLOCK=1 << (channels - 1).bit_length(), Z_BLOCK=Z_BLOCK,
                PERIODIC=self._topology.boundary == "periodic", num_warps=WARPS[name], enable_fp_fusion=True, **constants,
            )  # fmt: skip
