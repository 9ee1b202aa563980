"""The shared rule in Triton, for a block of cells: [u_z, u_h] += R([s, m]), forward and backward.

`rule` points to the numbers of RuleNumbers: W [2C, 2C] and b [2C] if HIDDEN is 0, else W1 [HIDDEN, 2C], b1, W2 [2C, HIDDEN] and
b2.  The *last* layer is the only one or the second, the *first* one exists if there are two.  A block of s over one of m has a
cell in each column, so that each layer is one tl.dot.  This wants sizes of at least 16, in powers of two: C_BLOCK of C, and
H_BLOCK of HIDDEN, or 2 * C_BLOCK if the rule is linear.  The padding is zero.

Products are of fp32 numbers and in fp32, whatever the states are: with factors of 11 bits (tf32), some hidden numbers change
their sign, and the gradients of their cells with them.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _over(upper: tl.tensor, lower: tl.tensor, C_BLOCK: tl.constexpr, Z_BLOCK: tl.constexpr) -> tl.tensor:
    """Two blocks [C_BLOCK, Z_BLOCK], one over the other."""
    return tl.reshape(tl.permute(tl.join(upper, lower), (2, 0, 1)), (2 * C_BLOCK, Z_BLOCK))


@triton.jit
def _halves(both: tl.tensor, C_BLOCK: tl.constexpr, Z_BLOCK: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    return tl.split(tl.permute(tl.reshape(both, (2, C_BLOCK, Z_BLOCK)), (1, 2, 0)))


@triton.jit
def _outputs(CHANNELS: tl.constexpr, C_BLOCK: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """For each row of two blocks of channels, one over the other: (its number among the 2C, whether it is one of them)."""
    row = tl.arange(0, 2 * C_BLOCK)
    c = row % C_BLOCK
    return row // C_BLOCK * CHANNELS + c, c < CHANNELS


@triton.jit
def _between(
    CHANNELS: tl.constexpr, C_BLOCK: tl.constexpr, HIDDEN: tl.constexpr, H_BLOCK: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """The same for what the last layer takes."""
    if HIDDEN == 0:
        number, there = _outputs(CHANNELS, C_BLOCK)
    else:
        number = tl.arange(0, H_BLOCK)
        there = number < HIDDEN
    return number, there


@triton.jit
def _places(
    CHANNELS: tl.constexpr, C_BLOCK: tl.constexpr, HIDDEN: tl.constexpr, H_BLOCK: tl.constexpr, FIRST: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Where the numbers of the first or of the last layer are: (of W, whether there, of b, whether there)."""
    outer, is_outer = _outputs(CHANNELS, C_BLOCK)
    inner, is_inner = _between(CHANNELS, C_BLOCK, HIDDEN, H_BLOCK)
    if FIRST:
        weight, there = inner[:, None] * (2 * CHANNELS) + outer[None, :], is_inner[:, None] & is_outer[None, :]
        bias, is_bias = HIDDEN * 2 * CHANNELS + inner, is_inner
    else:
        width: tl.constexpr = HIDDEN if HIDDEN else 2 * CHANNELS
        start: tl.constexpr = HIDDEN * (2 * CHANNELS + 1)
        weight, there = start + outer[:, None] * width + inner[None, :], is_outer[:, None] & is_inner[None, :]
        bias, is_bias = start + 2 * CHANNELS * width + outer, is_outer
    return weight, there, bias, is_bias


@triton.jit
def _layer(
    rule: tl.tensor, inputs: tl.tensor, CHANNELS: tl.constexpr, C_BLOCK: tl.constexpr, HIDDEN: tl.constexpr,
    H_BLOCK: tl.constexpr, FIRST: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """W x + b."""
    weight, there, bias, is_bias = _places(CHANNELS, C_BLOCK, HIDDEN, H_BLOCK, FIRST)
    product = tl.dot(tl.load(rule + weight, mask=there, other=0.0), inputs, input_precision="ieee")
    return product + tl.load(rule + bias, mask=is_bias, other=0.0)[:, None]


@triton.jit
def _transposed(
    rule: tl.tensor, grad: tl.tensor, CHANNELS: tl.constexpr, C_BLOCK: tl.constexpr, HIDDEN: tl.constexpr,
    H_BLOCK: tl.constexpr, FIRST: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """The gradient of x from that of W x + b."""
    weight, there, _, _ = _places(CHANNELS, C_BLOCK, HIDDEN, H_BLOCK, FIRST)
    return tl.dot(tl.trans(tl.load(rule + weight, mask=there, other=0.0)), grad, input_precision="ieee")


@triton.jit
def rule_forward(
    rule: tl.tensor, s: tl.tensor, m: tl.tensor, CHANNELS: tl.constexpr, C_BLOCK: tl.constexpr, Z_BLOCK: tl.constexpr,
    HIDDEN: tl.constexpr, H_BLOCK: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:  # fmt: skip
    """(what is added to u_z, and to u_h, both [C_BLOCK, Z_BLOCK], what the last layer took [H_BLOCK, Z_BLOCK])."""
    between = _over(s, m, C_BLOCK, Z_BLOCK)
    if HIDDEN:
        before = _layer(rule, between, CHANNELS, C_BLOCK, HIDDEN, H_BLOCK, True)
        between = tl.where(before < 0, 0.0, before)  # NaN stays NaN
    met = _layer(rule, between, CHANNELS, C_BLOCK, HIDDEN, H_BLOCK, False)
    met_z, met_h = _halves(met, C_BLOCK, Z_BLOCK)
    return met_z, met_h, between


@triton.jit
def rule_sums(
    C_BLOCK: tl.constexpr, H_BLOCK: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:  # fmt: skip
    """The sums of the rule's gradients before the first cell: W and b of the last layer, and of the first."""
    of_last, of_last_bias = tl.zeros((2 * C_BLOCK, H_BLOCK), tl.float32), tl.zeros((2 * C_BLOCK,), tl.float32)
    return of_last, of_last_bias, tl.zeros((H_BLOCK, 2 * C_BLOCK), tl.float32), tl.zeros((H_BLOCK,), tl.float32)


@triton.jit
def rule_backward(
    rule: tl.tensor, s: tl.tensor, m: tl.tensor, between: tl.tensor, d_z: tl.tensor, d_h: tl.tensor,
    of_last: tl.tensor, of_last_bias: tl.tensor, of_first: tl.tensor, of_first_bias: tl.tensor,
    CHANNELS: tl.constexpr, C_BLOCK: tl.constexpr, Z_BLOCK: tl.constexpr, HIDDEN: tl.constexpr, H_BLOCK: tl.constexpr,
    LEARNS: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor]:  # fmt: skip
    """(gradients that s and m get through the rule, the four sums) from d_z and d_h, the gradients of u_z and u_h.

    The sums grow if the rule LEARNS.
    """
    grad = _over(d_z, d_h, C_BLOCK, Z_BLOCK)
    if LEARNS:
        of_last = tl.dot(grad, tl.trans(between), of_last, input_precision="ieee")
        of_last_bias += tl.sum(grad, 1)
    grad = _transposed(rule, grad, CHANNELS, C_BLOCK, HIDDEN, H_BLOCK, False)
    if HIDDEN:
        grad = tl.where(between > 0, grad, 0.0)
        if LEARNS:
            inputs = _over(s, m, C_BLOCK, Z_BLOCK)
            of_first = tl.dot(grad, tl.trans(inputs), of_first, input_precision="ieee")
            of_first_bias += tl.sum(grad, 1)
        grad = _transposed(rule, grad, CHANNELS, C_BLOCK, HIDDEN, H_BLOCK, True)
    of_s, of_m = _halves(grad, C_BLOCK, Z_BLOCK)
    return of_s, of_m, of_last, of_last_bias, of_first, of_first_bias


@triton.jit
def store_rule_sums(
    partial: tl.tensor, of_last: tl.tensor, of_last_bias: tl.tensor, of_first: tl.tensor, of_first_bias: tl.tensor,
    CHANNELS: tl.constexpr, C_BLOCK: tl.constexpr, HIDDEN: tl.constexpr, H_BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """Writes the sums of one program to `partial`, in the order of the rule's numbers."""
    weight, there, bias, is_bias = _places(CHANNELS, C_BLOCK, HIDDEN, H_BLOCK, False)
    tl.store(partial + weight, of_last, mask=there)
    tl.store(partial + bias, of_last_bias, mask=is_bias)
    if HIDDEN:
        weight, there, bias, is_bias = _places(CHANNELS, C_BLOCK, HIDDEN, H_BLOCK, True)
        tl.store(partial + weight, of_first, mask=there)
        tl.store(partial + bias, of_first_bias, mask=is_bias)
