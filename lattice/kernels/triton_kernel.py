"""The fast tick on a CUDA GPU: launches `triton_tick`, on dense and on compact-sparse connections as they are.

Against `torch.compile` it needs no expanded connections and no buffer beside what a tick hands on, and reads weights and
parameters once a batch.  Compiled at first use, for each channel count, dtype and boundary.
"""

from __future__ import annotations

import contextlib

import torch

from lattice.kernels.native import KernelUnavailable
from lattice.kernels.sparse import TILE, Pattern
from presets.topology import Topology

LARGEST_GRID = 2**31 - 1
"""Programs that CUDA starts at once along the first axis; a program's lanes count in 32 bits, too."""

Z_BLOCK = 32
"""Cells of a program along z: a warp's lanes."""

WARPS = {"forward": 2, "backward_cells": 4, "backward_state": 2, "backward_weights": 1}
"""Warps of a program; with one, the channels of a cell are added up within a thread."""

PROBE_SHAPE, PROBE_TOLERANCE = (3, 2, 33), {torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.006}
"""A lattice of two blocks, and by how much of the largest value the probe may differ from the reference."""


class TritonKernel:
    """See NativeKernel for the signature; here states are fp32, bf16 or fp16, on a CUDA device, and gradients are of their
    dtype, as autograd would round them between two ticks."""

    name = "triton"
    sparse = True

    def __init__(self, topology: Topology, channels: int, device: torch.device, dtype: torch.dtype) -> None:
        """Raises KernelUnavailable where triton is missing, can't compile for the device, or computes something else."""
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
        """One tick of a small lattice both ways against the reference: a device where it fails is known before training."""
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
        """How far two driven ticks and their gradients are from the reference's: the worst share of a largest value."""
        from lattice.kernels.propagate import Functional, propagate

        draw, (x, y, z), offsets = torch.Generator().manual_seed(0), topology.shape, len(topology.offsets)
        self._place(topology)

        def drawn(*sizes: int) -> torch.Tensor:
            return torch.randn(*sizes, generator=draw).to(self._device)

        drive, cells = drawn(2, x, y, self._channels).to(self._dtype), drawn(6, x, y, self._channels, z)
        upstream, gain = drawn(2, x, y, self._channels, z), drawn(x, y, self._channels, z)
        labels = torch.randint(2, topology.shape, generator=draw).to(self._device)
        index = torch.arange(3, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, x, y, -(-z // TILE)) * 7 + 4
        pattern = Pattern(index.contiguous().to(self._device), offsets)
        worst = []
        for kept, which, functional in ((offsets, None, None), (3, pattern, Functional(gain, labels, 2))):
            inputs = [t.detach().requires_grad_() for t in (drive, 0.3 * drawn(kept, x, y, z), cells)]
            results = []
            for kernel in (self, None):
                state = propagate(*inputs, topology, 2, kernel, functional, which)
                results.append([state.detach(), *torch.autograd.grad((state.float() * upstream).sum(), inputs)])
            for found, wanted in zip(*results, strict=True):
                worst.append((found.float() - wanted.float()).abs().max() / wanted.float().abs().max())
        return float(torch.stack(worst).max())  # NaN where one is

    def empty_state(self, shape: tuple[int, ...], zero: bool = False) -> torch.Tensor:
        make = torch.zeros if zero else torch.empty
        return make(shape, dtype=self._dtype, device=self._device)

    def forward(self, state, weights, cells, extra, drive, epsilon, pattern=None):
        out, index = torch.empty_like(state), None if pattern is None else pattern.index
        self._launch(
            "forward", state, state, weights, index, cells, extra, drive, self._steps, out, *self._sizes(state),
            len(weights), epsilon,
        )  # fmt: skip
        return out

    def backward(
        self, grad_out, state, weights, cells, extra, epsilon, grad_cells, grad_weights, grad_drive, pattern=None, fresh=False
    ):
        grad_message, sizes = torch.empty_like(state), self._sizes(state)
        index, slots = (None, None) if pattern is None else (pattern.index, pattern.slots)
        self._launch(
            "backward_cells", state, grad_out, state, weights, index, cells, extra, self._steps, grad_out, grad_message,
            grad_cells, *sizes, len(weights), epsilon, FRESH=fresh,
        )  # fmt: skip
        self._launch("backward_state", state, weights, slots, self._steps, grad_message, grad_out, *sizes, len(self._steps))
        if grad_weights is not None:
            self._launch(
                "backward_weights", state, grad_message, state, index, self._steps, grad_weights, *sizes, len(weights),
                FRESH=fresh,
            )  # fmt: skip
        if grad_drive is not None:
            grad_drive += grad_out[..., 0]
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
