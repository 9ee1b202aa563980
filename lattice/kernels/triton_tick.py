"""The tick in Triton: what one program does for a block of cells side by side along z.  TritonKernel launches it.

Layout: state [B, X, Y, C, Z], weights [kept, X, Y, Z], cells [6, X, Y, C, Z] (a_z b_z c_z a_h b_h c_h); z is contiguous.
A block is [C_BLOCK, Z_BLOCK].  Both are powers of two, and lanes outside the lattice are masked.

The loop over the batch is inside the program.  Meanwhile parameters stay in registers and weights in the first-level cache, so
that both are read from memory once per batch.  States, gradients, parameters and weights may be fp32, bf16 or fp16: everything
is converted when it is loaded, and computed in fp32.  Every output is written by one program and summed in a fixed order, so
that the same run gives the same bits.

Positions in tensors are computed in 64 bits: 13.5 million cells of 12 channels pass 2^31 numbers at a batch of 14.

Argument lists are long because Triton takes tensors and numbers only, no objects that hold them.
"""

from __future__ import annotations

import triton
import triton.language as tl

from lattice.kernels import sparse
from lattice.kernels.triton_rule import rule_backward, rule_forward, rule_sums, store_rule_sums

_SIZES = ["batch", "size_x", "size_y", "size_z", "kept", "offsets", "sign"]
"""Arguments for whose values nothing is compiled anew, so that what the probe has compiled serves every stage.  By default
Triton compiles separately for 1 and for multiples of 16."""

_TILE = tl.constexpr(sparse.TILE)
_NONE = tl.constexpr(sparse.NONE)


@triton.jit
def _place(
    block: tl.tensor, size_y: tl.tensor, size_z: tl.tensor,
    CHANNELS: tl.constexpr, C_BLOCK: tl.constexpr, Z_BLOCK: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor]:  # fmt: skip
    """The cells of a block: (x, y, z [Z_BLOCK], positions of the channels in a column [C_BLOCK, 1], lanes inside)."""
    blocks = tl.cdiv(size_z, Z_BLOCK)
    column = block // blocks
    x, y = tl.cast(column // size_y, tl.int64), tl.cast(column % size_y, tl.int64)
    z = block % blocks * Z_BLOCK + tl.arange(0, Z_BLOCK)
    c = tl.arange(0, C_BLOCK)
    return x, y, z, (c * size_z)[:, None], (c < CHANNELS)[:, None] & (z < size_z)[None, :]


@triton.jit
def _neighbour(
    k: tl.tensor, sign: int, x: tl.tensor, y: tl.tensor, z: tl.tensor, steps: tl.tensor,
    size_x: tl.tensor, size_y: tl.tensor, size_z: tl.tensor, PERIODIC: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:  # fmt: skip
    """The cells at i + sign * o_k: (column, z, whether inside), for each lane.  k is one offset, or one per lane."""
    x += sign * tl.load(steps + 3 * k)
    y += sign * tl.load(steps + 3 * k + 1)
    z += sign * tl.load(steps + 3 * k + 2)
    if PERIODIC:
        x = (x % size_x + size_x) % size_x
        y = (y % size_y + size_y) % size_y
    # One scalar where k is: the columns that lie outside have no depth.
    depth = tl.where((x >= 0) & (x < size_x) & (y >= 0) & (y < size_y), size_z, 0)
    return x * size_y + y, z, (z >= 0) & (z < depth)


@triton.jit
def _message(
    total: tl.tensor, state: tl.tensor, weights: tl.tensor, index: tl.tensor | None, steps: tl.tensor, kept: tl.tensor,
    x: tl.tensor, y: tl.tensor, z: tl.tensor, channels: tl.tensor, lanes: tl.tensor,
    size_x: tl.tensor, size_y: tl.tensor, size_z: tl.tensor, CHANNELS: tl.constexpr, PERIODIC: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """total + sum_k w_k[i] * s[i + o_k] for one sample."""
    columns, column = tl.cast(size_x, tl.int64) * size_y, x * size_y + y
    for slot in range(kept):
        if index is None:
            k = slot
        else:
            tile = (slot * columns + column) * tl.cdiv(size_z, _TILE) + z // _TILE
            k = tl.cast(tl.load(index + tile, mask=z < size_z, other=0), tl.int32)
        there, z_there, inside = _neighbour(k, 1, x, y, z, steps, size_x, size_y, size_z, PERIODIC)
        inside = inside & (z < size_z)
        w = tl.cast(tl.load(weights + (slot * columns + column) * size_z + z, mask=inside, other=0.0), tl.float32)
        source = state + (there * CHANNELS * size_z + z_there)[None, :] + channels
        s = tl.cast(tl.load(source, mask=lanes & inside[None, :], other=0.0), tl.float32)
        total += w[None, :] * s
    return total


@triton.jit
def _load(pointer: tl.tensor, lanes: tl.tensor) -> tl.tensor:
    return tl.cast(tl.load(pointer, mask=lanes, other=0.0), tl.float32)


@triton.jit
def _sigmoid(v: tl.tensor) -> tl.tensor:
    # exp of a negative number never overflows.
    e = tl.exp(-tl.abs(v))
    return tl.where(v >= 0, 1.0, e) / (1.0 + e)


@triton.jit
def _tanh(v: tl.tensor) -> tl.tensor:
    e = tl.exp(-2.0 * tl.abs(v))
    size = (1.0 - e) / (1.0 + e)
    return tl.where(v >= 0, size, -size)


@triton.jit
def _add_to(pointer: tl.tensor, value: tl.tensor, lanes: tl.tensor, FRESH: tl.constexpr) -> None:
    """Adds a value to what is there, or if FRESH replaces it."""
    if not FRESH:
        value += _load(pointer, lanes)
    tl.store(pointer, value, mask=lanes)


@triton.jit(do_not_specialize=_SIZES)
def forward(
    state: tl.tensor, weights: tl.tensor, index: tl.tensor | None, cells: tl.tensor, extra: tl.tensor | None,
    drive: tl.tensor | None, rule: tl.tensor | None, steps: tl.tensor, out: tl.tensor,
    batch: tl.tensor, size_x: tl.tensor, size_y: tl.tensor, size_z: tl.tensor, kept: tl.tensor, epsilon: tl.tensor,
    CHANNELS: tl.constexpr, C_BLOCK: tl.constexpr, Z_BLOCK: tl.constexpr, PERIODIC: tl.constexpr,
    HIDDEN: tl.constexpr, H_BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """out = tick(state); then out[z = 0] += drive [B, X, Y, C] if there is one."""
    x, y, z, channels, lanes = _place(tl.program_id(0), size_y, size_z, CHANNELS, C_BLOCK, Z_BLOCK)
    columns, column = tl.cast(size_x, tl.int64) * size_y, x * size_y + y
    sample, here = columns * CHANNELS * size_z, column * CHANNELS * size_z + z[None, :] + channels
    a_z, b_z, c_z = _load(cells + here, lanes), _load(cells + sample + here, lanes), _load(cells + 2 * sample + here, lanes)
    cells += 3 * sample
    a_h, b_h, c_h = _load(cells + here, lanes), _load(cells + sample + here, lanes), _load(cells + 2 * sample + here, lanes)
    for b in range(batch):
        of_sample = tl.cast(b, tl.int64) * sample
        m = tl.zeros((C_BLOCK, Z_BLOCK), tl.float32)
        if extra is not None:
            m += _load(extra + of_sample + here, lanes)
        m = _message(
            m, state + of_sample, weights, index, steps, kept, x, y, z, channels, lanes, size_x, size_y, size_z,
            CHANNELS, PERIODIC,
        )  # fmt: skip
        m *= tl.rsqrt(tl.sum(m * m, 0) / CHANNELS + epsilon)[None, :]
        s = _load(state + of_sample + here, lanes)
        u_z, u_h = a_z * s + b_z * m + c_z, a_h * s + b_h * m + c_h
        if rule is not None:
            met_z, met_h, _ = rule_forward(rule, s, m, CHANNELS, C_BLOCK, Z_BLOCK, HIDDEN, H_BLOCK)
            u_z += met_z
            u_h += met_h
        after = s + _sigmoid(u_z) * (_tanh(u_h) - s)
        if drive is not None:
            # Rounded before the drive is added, as the reference does between two ticks.
            after = tl.cast(tl.cast(after, out.dtype.element_ty), tl.float32)
            c = tl.arange(0, C_BLOCK)
            face = (tl.cast(b, tl.int64) * columns + column) * CHANNELS + c
            driven = _load(drive + face, c < CHANNELS)
            after += tl.where((z == 0)[None, :], driven[:, None], 0.0)
        tl.store(out + of_sample + here, after, mask=lanes)


@triton.jit
def _backward_of_block(
    block: tl.tensor, of_last: tl.tensor | None, of_last_bias: tl.tensor | None, of_first: tl.tensor | None,
    of_first_bias: tl.tensor | None, grad_out: tl.tensor, state: tl.tensor, weights: tl.tensor, index: tl.tensor | None,
    cells: tl.tensor, extra: tl.tensor | None, rule: tl.tensor | None, steps: tl.tensor, grad_state: tl.tensor,
    grad_message: tl.tensor, grad_cells: tl.tensor,
    batch: tl.tensor, size_x: tl.tensor, size_y: tl.tensor, size_z: tl.tensor, kept: tl.tensor, epsilon: tl.tensor,
    CHANNELS: tl.constexpr, C_BLOCK: tl.constexpr, Z_BLOCK: tl.constexpr, PERIODIC: tl.constexpr,
    HIDDEN: tl.constexpr, H_BLOCK: tl.constexpr, LEARNS: tl.constexpr, FRESH: tl.constexpr,
) -> tuple[tl.tensor | None, tl.tensor | None, tl.tensor | None, tl.tensor | None]:  # fmt: skip
    """What backward_cells does for a block of cells.  Returns the sums of the rule's gradients, with this block's in them."""
    x, y, z, channels, lanes = _place(block, size_y, size_z, CHANNELS, C_BLOCK, Z_BLOCK)
    columns = tl.cast(size_x, tl.int64) * size_y
    sample, here = columns * CHANNELS * size_z, (x * size_y + y) * CHANNELS * size_z + z[None, :] + channels
    a_z, b_z, c_z = _load(cells + here, lanes), _load(cells + sample + here, lanes), _load(cells + 2 * sample + here, lanes)
    cells += 3 * sample
    a_h, b_h, c_h = _load(cells + here, lanes), _load(cells + sample + here, lanes), _load(cells + 2 * sample + here, lanes)
    nothing = tl.zeros((C_BLOCK, Z_BLOCK), tl.float32)
    of_a_z, of_b_z, of_c_z, of_a_h, of_b_h, of_c_h = nothing, nothing, nothing, nothing, nothing, nothing
    for b in range(batch):
        of_sample = tl.cast(b, tl.int64) * sample
        m = nothing
        if extra is not None:
            m += _load(extra + of_sample + here, lanes)
        m = _message(
            m, state + of_sample, weights, index, steps, kept, x, y, z, channels, lanes, size_x, size_y, size_z,
            CHANNELS, PERIODIC,
        )  # fmt: skip
        factor = tl.rsqrt(tl.sum(m * m, 0) / CHANNELS + epsilon)[None, :]
        m *= factor
        s, grad = _load(state + of_sample + here, lanes), _load(grad_out + of_sample + here, lanes)
        u_z, u_h = a_z * s + b_z * m + c_z, a_h * s + b_h * m + c_h
        if rule is not None:
            met_z, met_h, between = rule_forward(rule, s, m, CHANNELS, C_BLOCK, Z_BLOCK, HIDDEN, H_BLOCK)
            u_z += met_z
            u_h += met_h
        gate, h = _sigmoid(u_z), _tanh(u_h)
        d_z, d_h = grad * (h - s) * gate * (1.0 - gate), grad * gate * (1.0 - h * h)
        of_a_z += d_z * s
        of_b_z += d_z * m
        of_c_z += d_z
        of_a_h += d_h * s
        of_b_h += d_h * m
        of_c_h += d_h
        of_s, of_m = grad * (1.0 - gate) + d_z * a_z + d_h * a_h, d_z * b_z + d_h * b_h
        if rule is not None:
            more_s, more_m, of_last, of_last_bias, of_first, of_first_bias = rule_backward(
                rule, s, m, between, d_z, d_h, of_last, of_last_bias, of_first, of_first_bias,
                CHANNELS, C_BLOCK, Z_BLOCK, HIDDEN, H_BLOCK, LEARNS,
            )  # fmt: skip
            of_s += more_s
            of_m += more_m
        of_m = factor * (of_m - m * (tl.sum(of_m * m, 0) / CHANNELS)[None, :])
        tl.store(grad_message + of_sample + here, of_m, mask=lanes)
        tl.store(grad_state + of_sample + here, of_s, mask=lanes)
    _add_to(grad_cells + here, of_a_z, lanes, FRESH)
    _add_to(grad_cells + sample + here, of_b_z, lanes, FRESH)
    _add_to(grad_cells + 2 * sample + here, of_c_z, lanes, FRESH)
    grad_cells += 3 * sample
    _add_to(grad_cells + here, of_a_h, lanes, FRESH)
    _add_to(grad_cells + sample + here, of_b_h, lanes, FRESH)
    _add_to(grad_cells + 2 * sample + here, of_c_h, lanes, FRESH)
    return of_last, of_last_bias, of_first, of_first_bias


@triton.jit(do_not_specialize=_SIZES)
def backward_cells(
    grad_out: tl.tensor, state: tl.tensor, weights: tl.tensor, index: tl.tensor | None, cells: tl.tensor,
    extra: tl.tensor | None, rule: tl.tensor | None, steps: tl.tensor, grad_state: tl.tensor, grad_message: tl.tensor,
    grad_cells: tl.tensor, partial: tl.tensor | None,
    batch: tl.tensor, size_x: tl.tensor, size_y: tl.tensor, size_z: tl.tensor, kept: tl.tensor, epsilon: tl.tensor,
    CHANNELS: tl.constexpr, C_BLOCK: tl.constexpr, Z_BLOCK: tl.constexpr, PERIODIC: tl.constexpr,
    HIDDEN: tl.constexpr, H_BLOCK: tl.constexpr, FRESH: tl.constexpr,
) -> None:  # fmt: skip
    """Writes grad_message and the direct part of grad_state, which may be grad_out.  Adds to grad_cells, or writes it.

    With a rule, there may be fewer programs than blocks: each takes every so many blocks.  If the rule learns, each writes its
    sum of the gradients of the rule's numbers as one row of `partial` [programs, numbers].
    """
    if rule is None:
        _backward_of_block(
            tl.program_id(0), None, None, None, None, grad_out, state, weights, index, cells, extra, rule, steps, grad_state,
            grad_message, grad_cells, batch, size_x, size_y, size_z, kept, epsilon,
            CHANNELS, C_BLOCK, Z_BLOCK, PERIODIC, HIDDEN, H_BLOCK, False, FRESH,
        )  # fmt: skip
    else:
        of_last, of_last_bias, of_first, of_first_bias = rule_sums(C_BLOCK, H_BLOCK)
        blocks = size_x * size_y * tl.cdiv(size_z, Z_BLOCK)
        for block in range(tl.program_id(0), blocks, tl.num_programs(0)):
            of_last, of_last_bias, of_first, of_first_bias = _backward_of_block(
                block, of_last, of_last_bias, of_first, of_first_bias, grad_out, state, weights, index, cells, extra, rule,
                steps, grad_state, grad_message, grad_cells, batch, size_x, size_y, size_z, kept, epsilon,
                CHANNELS, C_BLOCK, Z_BLOCK, PERIODIC, HIDDEN, H_BLOCK, partial is not None, FRESH,
            )  # fmt: skip
        if partial is not None:
            size: tl.constexpr = HIDDEN * (4 * CHANNELS + 1) + 2 * CHANNELS if HIDDEN else 2 * CHANNELS * (2 * CHANNELS + 1)
            partial += tl.cast(tl.program_id(0), tl.int64) * size
            store_rule_sums(partial, of_last, of_last_bias, of_first, of_first_bias, CHANNELS, C_BLOCK, HIDDEN, H_BLOCK)


@triton.jit(do_not_specialize=_SIZES)
def backward_state(
    weights: tl.tensor, slots: tl.tensor | None, steps: tl.tensor, grad_message: tl.tensor, grad_state: tl.tensor,
    batch: tl.tensor, size_x: tl.tensor, size_y: tl.tensor, size_z: tl.tensor, offsets: tl.tensor,
    CHANNELS: tl.constexpr, C_BLOCK: tl.constexpr, Z_BLOCK: tl.constexpr, PERIODIC: tl.constexpr,
) -> None:  # fmt: skip
    """grad_state[j] += sum_k w_k[j - o_k] * grad_message[j - o_k], gathered so that no two programs write one cell."""
    x, y, z, channels, lanes = _place(tl.program_id(0), size_y, size_z, CHANNELS, C_BLOCK, Z_BLOCK)
    columns = tl.cast(size_x, tl.int64) * size_y
    sample, here = columns * CHANNELS * size_z, (x * size_y + y) * CHANNELS * size_z + z[None, :] + channels
    for b in range(batch):
        of_sample = tl.cast(b, tl.int64) * sample
        total = _load(grad_state + of_sample + here, lanes)
        for k in range(offsets):
            owner, z_owner, inside = _neighbour(k, -1, x, y, z, steps, size_x, size_y, size_z, PERIODIC)
            slot = k
            if slots is not None:
                tile = (k * columns + owner) * tl.cdiv(size_z, _TILE) + z_owner // _TILE
                slot = tl.cast(tl.load(slots + tile, mask=inside, other=_NONE), tl.int64)
                inside = inside & (slot != _NONE)
            w = tl.cast(tl.load(weights + (slot * columns + owner) * size_z + z_owner, mask=inside, other=0.0), tl.float32)
            reader = grad_message + of_sample + (owner * CHANNELS * size_z + z_owner)[None, :] + channels
            total += w[None, :] * _load(reader, lanes & inside[None, :])
        tl.store(grad_state + of_sample + here, total, mask=lanes)


@triton.jit(do_not_specialize=_SIZES)
def backward_weights(
    grad_message: tl.tensor, state: tl.tensor, index: tl.tensor | None, steps: tl.tensor, grad_weights: tl.tensor,
    batch: tl.tensor, size_x: tl.tensor, size_y: tl.tensor, size_z: tl.tensor, kept: tl.tensor,
    CHANNELS: tl.constexpr, C_BLOCK: tl.constexpr, Z_BLOCK: tl.constexpr, PERIODIC: tl.constexpr, FRESH: tl.constexpr,
) -> None:  # fmt: skip
    """grad_weights[k, i] += sum over samples and channels of grad_message[i] * s[i + o_k], or if FRESH is written."""
    x, y, z, channels, lanes = _place(tl.program_id(0), size_y, size_z, CHANNELS, C_BLOCK, Z_BLOCK)
    columns, column = tl.cast(size_x, tl.int64) * size_y, x * size_y + y
    sample, here = columns * CHANNELS * size_z, column * CHANNELS * size_z + z[None, :] + channels
    for slot in range(kept):
        if index is None:
            k = slot
        else:
            tile = (slot * columns + column) * tl.cdiv(size_z, _TILE) + z // _TILE
            k = tl.cast(tl.load(index + tile, mask=z < size_z, other=0), tl.int32)
        there, z_there, inside = _neighbour(k, 1, x, y, z, steps, size_x, size_y, size_z, PERIODIC)
        source = (there * CHANNELS * size_z + z_there)[None, :] + channels
        total = tl.zeros((C_BLOCK, Z_BLOCK), tl.float32)
        for b in range(batch):
            of_sample = tl.cast(b, tl.int64) * sample
            s = _load(state + of_sample + source, lanes & inside[None, :])
            total += _load(grad_message + of_sample + here, lanes) * s
        _add_to(grad_weights + (slot * columns + column) * size_z + z, tl.sum(total, 0), z < size_z, FRESH)
