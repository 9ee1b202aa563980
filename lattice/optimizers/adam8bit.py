"""AdamW with both moments in 8 bits, by blocks (after Dettmers et al. 2022, arXiv 2110.02861, with a quantiser of our own).

The scale of a block is its largest magnitude.  Codes are evenly spaced in a root of the value, so that small values stay
precise: the square root of the first moment (127 steps and a sign, down to 6e-5 of the scale), and the fourth root of the
second (255 steps, down to 2e-10).  Rounding is random, because a moment that decays by less than half a step would never decay
if it were rounded to the nearest code.  The random numbers come from one table.  Step and chunk say where a chunk enters it, so
a resumed run rounds in the same way.

Parameters are fp32.  On the CPU, `adam8bit.c` makes a step in one pass over memory.  Elsewhere, or without a C compiler,
`plain_step` does it in torch, in some twenty passes over small chunks.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator
from importlib import resources

import torch
import torch.nn.functional as F

from lattice.kernels.building import compiled_or_none
from lattice.kernels.native import pointer
from lattice.optimizers.chunks import chunk_size
from presets.optimizer_state import BLOCK

EPSILON = 1e-8
TINY = 1e-38
PLACES = 2**16
"""Number of positions at which the table of random numbers can be entered."""


class Adam8bit:
    """Adam with 8-bit moments: codes are flat [numbers], scales [blocks]; the last block may be short."""

    def __init__(self, betas: tuple[float, float]) -> None:
        self._betas = betas
        self._table = torch.empty(0)

    def start(self, p: torch.Tensor) -> dict[str, torch.Tensor]:
        count, blocks = p.numel(), -(-p.numel() // BLOCK)
        return {
            "step": torch.zeros((), device=p.device),
            "exp_avg": torch.zeros(count, dtype=torch.int8, device=p.device),
            "exp_avg_scale": torch.zeros(blocks, device=p.device),
            "exp_avg_sq": torch.zeros(count, dtype=torch.uint8, device=p.device),
            "exp_avg_sq_scale": torch.zeros(blocks, device=p.device),
        }

    def step(self, p: torch.Tensor, grad: torch.Tensor, state: dict[str, torch.Tensor], rate: float) -> None:
        kernel = _library() if p.device.type == "cpu" else None
        if kernel is None:
            self.plain_step(p, grad, state, rate)
            return
        state["step"] += 1
        size, (beta1, beta2) = chunk_size(p.device), self._betas
        places = self._places(int(state["step"]), -(-p.numel() // size))
        kernel.adam8bit_step(
            ctypes.byref(_Rates(1 - beta1, 1 - beta2, beta2, *self._corrected(rate, float(state["step"])))),
            *map(ctypes.c_int64, (p.numel(), size // BLOCK)), (ctypes.c_int64 * len(places))(*places),
            *map(pointer, (self._dither(p.device), grad, p)),
            pointer(state["exp_avg"], torch.int8), pointer(state["exp_avg_scale"]),
            pointer(state["exp_avg_sq"], torch.uint8), pointer(state["exp_avg_sq_scale"]),
        )  # fmt: skip

    def plain_step(self, p: torch.Tensor, grad: torch.Tensor, state: dict[str, torch.Tensor], rate: float) -> None:
        """`step` in plain torch, on any device."""
        beta1, beta2 = self._betas
        state["step"] += 1
        rate, correction = self._corrected(rate, float(state["step"]))
        chunks = list(_chunks(p, grad, state))
        places, table = self._places(int(state["step"]), len(chunks)), self._dither(p.device)
        for place, (weight, g, *codes) in zip(places, chunks, strict=True):
            g, dither = in_blocks(g), table[place : place + chunk_size(p.device)].view(-1, BLOCK)
            average = decoded_signed(codes[0], codes[1]).lerp_(g, 1 - beta1)
            square = decoded_unsigned(codes[2], codes[3]).mul_(beta2).addcmul_(g, g, value=1 - beta2)
            moved = average / square.sqrt().div_(correction).add_(EPSILON)
            weight.sub_(moved.view(-1)[: len(weight)], alpha=rate)
            encode_signed(average, dither, codes[0], codes[1])
            encode_unsigned(square, dither, codes[2], codes[3])

    def moved(self, state: dict, shape: torch.Size, move: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, torch.Tensor]:
        # Nothing is computed of the moved moments before they are stored again: round to the nearest.
        average = move(decoded_signed(state["exp_avg"], state["exp_avg_scale"]).view(-1)[: shape.numel()].view(shape))
        square = move(decoded_unsigned(state["exp_avg_sq"], state["exp_avg_sq_scale"]).view(-1)[: shape.numel()].view(shape))
        new = self.start(average)
        encode_signed(in_blocks(average.reshape(-1)), 0.5, new["exp_avg"], new["exp_avg_scale"])
        encode_unsigned(in_blocks(square.reshape(-1)), 0.5, new["exp_avg_sq"], new["exp_avg_sq_scale"])
        return new | {"step": state["step"]}

    def _corrected(self, rate: float, step: float) -> tuple[float, float]:
        """The learning rate divided by the first moment's bias correction, and the root of the second moment's."""
        beta1, beta2 = self._betas
        return rate / (1 - beta1**step), (1 - beta2**step) ** 0.5

    def _dither(self, device: torch.device) -> torch.Tensor:
        """The table of random numbers in 0..1 [numbers of a chunk + PLACES]."""
        if self._table.device != device or not len(self._table):
            drawn = torch.rand(chunk_size(device) + PLACES, generator=torch.Generator().manual_seed(0))
            self._table = drawn.to(device)
        return self._table

    def _places(self, step: int, chunks: int) -> list[int]:
        """The position in the table at which each chunk enters it."""
        return [(step * 40503 + chunk * 30011) % PLACES for chunk in range(chunks)]


class _Rates(ctypes.Structure):
    """As in adam8bit.c."""

    _fields_ = [(name, ctypes.c_float) for name in ("take", "take_square", "keep_square", "rate", "correction")]


@functools.cache
def _library() -> ctypes.CDLL | None:
    """The compiled step, or None if it can't be built."""
    source = resources.files("lattice.optimizers").joinpath("adam8bit.c").read_text(encoding="utf-8")
    defines = f"-DBLOCK={BLOCK}", f"-DEPSILON={EPSILON}f", f"-DTINY={TINY}f"
    return compiled_or_none("adam8bit.c", {"adam8bit.c": source}, *defines, what="adam8bit")


def _chunks(p: torch.Tensor, grad: torch.Tensor, state: dict[str, torch.Tensor]) -> Iterator[tuple[torch.Tensor, ...]]:
    """Matching pieces: weights, gradient, codes and scales of the first moment, codes and scales of the second."""
    size = chunk_size(p.device)
    numbers = [tensor.view(-1).split(size) for tensor in (p, grad, state["exp_avg"], state["exp_avg_sq"])]
    scales = [state[name].split(size // BLOCK) for name in ("exp_avg_scale", "exp_avg_sq_scale")]
    for weight, g, average, square, average_scale, square_scale in zip(*numbers, *scales, strict=True):
        yield weight, g, average, average_scale, square, square_scale


def in_blocks(values: torch.Tensor) -> torch.Tensor:
    """values [n] as [blocks, BLOCK], with zeros after the last one."""
    return F.pad(values, (0, -len(values) % BLOCK)).view(-1, BLOCK)


def decoded_signed(codes: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    wide = in_blocks(codes).float()
    return wide.mul(wide.abs()).mul_(scale[:, None] / 127**2)


def decoded_unsigned(codes: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return in_blocks(codes).float().div_(255).square_().square_().mul_(scale[:, None])


def encode_signed(values: torch.Tensor, dither: torch.Tensor | float, codes: torch.Tensor, scale: torch.Tensor) -> None:
    """Writes the codes and scales of values [blocks, BLOCK]."""
    size = values.abs()
    torch.amax(size, 1, out=scale)
    steps = size.div_(scale[:, None].clamp(min=TINY)).sqrt_().mul_(127)
    steps = steps.add_(_first(dither, len(values))).floor_().clamp_(max=127)
    codes.copy_(steps.copysign_(values).view(-1)[: len(codes)])


def encode_unsigned(values: torch.Tensor, dither: torch.Tensor | float, codes: torch.Tensor, scale: torch.Tensor) -> None:
    """Writes the codes and scales of values [blocks, BLOCK].  No value above zero becomes zero, since updates divide by it."""
    torch.amax(values, 1, out=scale)
    steps = values.div(scale[:, None].clamp(min=TINY)).sqrt_().sqrt_().mul_(255)
    steps = steps.add_(_first(dither, len(values))).floor_().clamp_(min=1, max=255).mul_(values > 0)
    codes.copy_(steps.view(-1)[: len(codes)])


def _first(dither: torch.Tensor | float, blocks: int) -> torch.Tensor | float:
    return dither if isinstance(dither, float) else dither[:blocks]
