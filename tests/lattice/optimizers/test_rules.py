"""The rules of cells and connections beside AdamW: against AdamW itself, closed forms, and what must never happen."""

from __future__ import annotations

import itertools

import pytest
import torch

from lattice.optimizers.adafactor import Adafactor
from lattice.optimizers.adam8bit import Adam8bit, decoded_signed, decoded_unsigned, encode_signed, encode_unsigned, in_blocks
from lattice.optimizers.galore import GaLore, project
from lattice.optimizers.lion import Lion
from lattice.optimizers.partwise import OWN, PartWise
from presets.optimizer_state import BLOCK, galore_ranks

BETAS, RATE = (0.9, 0.98), 0.01
CELLS, CONNECTIONS = (6, 5, 7, 4, 9), (11, 6, 5, 7)  # no count of numbers is a multiple of a block
RULES = {
    "galore": lambda part: GaLore(BETAS, 0.25, 3),
    "adam8bit": lambda part: Adam8bit(BETAS),
    "adafactor": lambda part: Adafactor(part, BETAS, True),
    "adafactor without momentum": lambda part: Adafactor(part, BETAS, False),
    "lion": lambda part: Lion(0.3),
}
PARTS = {"cells": CELLS, "connections": CONNECTIONS}


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def low_rank(shape: tuple[int, ...], seed: int, rank: int = 1) -> torch.Tensor:
    """Sums of `rank` outer products over all modes but the first, which every slice has of its own."""
    slices = []
    for i in range(shape[0]):
        total = torch.zeros(shape[1:])
        for r in range(rank):
            term = torch.tensor(1.0 + i)
            for mode, size in enumerate(shape[1:]):
                term = term[..., None] * draw(size, seed=seed + 100 * r + mode)
            total += term
        slices.append(total)
    return torch.stack(slices)


def trained(rule, shape: tuple[int, ...], steps: int, first: int = 0, scale: float = 1.0):
    """(parameter, state) after steps on gradients of their own, drawn by their number."""
    p = draw(*shape, seed=1)
    state = rule.start(p)
    for step in range(first, first + steps):
        rule.step(p, scale * draw(*shape, seed=10 + step), state, RATE)
    return p, state


def by_adamw(shape: tuple[int, ...], steps: int) -> torch.Tensor:
    p = torch.nn.Parameter(draw(*shape, seed=1))
    optimizer = torch.optim.AdamW([p], lr=RATE, betas=BETAS, weight_decay=0.0)
    for step in range(steps):
        p.grad = draw(*shape, seed=10 + step)
        optimizer.step()
    return p.detach()


# Tensor-GaLore


@pytest.mark.parametrize("shape", PARTS.values(), ids=PARTS)
def test_galore_of_full_rank_is_adamw(shape):
    found, state = trained(GaLore(BETAS, 1.0, 3), shape, 7)
    assert not any(name.startswith("factor") for name in state)
    torch.testing.assert_close(found, by_adamw(shape, 7), rtol=1e-6, atol=1e-7)


def test_galore_keeps_factors_within_the_gap_and_changes_them_after_it():
    rule, p = GaLore(BETAS, 0.25, 3), draw(*CELLS, seed=1)
    state = rule.start(p)
    seen = []
    for step in range(7):
        rule.step(p, draw(*CELLS, seed=10 + step), state, RATE)
        seen.append({name: value.clone() for name, value in state.items() if name.startswith("factor")})
    assert set(seen[0]) == {"factor_1", "factor_2", "factor_3", "factor_4"}
    for name in seen[0]:
        same = [torch.equal(a[name], b[name]) for a, b in itertools.pairwise(seen)]
        assert same == [True, True, False, True, True, False]
        columns = seen[-1][name]
        torch.testing.assert_close(columns.T @ columns, torch.eye(columns.shape[1]), rtol=0, atol=1e-5)


def test_galore_carries_its_moments_over_where_the_new_span_is_the_old_one_in_other_coordinates():
    gradient = low_rank(CELLS, seed=3)
    turned, steady = (GaLore(BETAS, 0.25, gap) for gap in (2, 100))
    results = []
    for rule in (turned, steady):
        p = torch.zeros(CELLS)
        state = rule.start(p)
        for scale in (1.0, 0.5, 2.0, 1.0):
            rule.step(p, scale * gradient, state, RATE)
        factors = {mode: state[f"factor_{mode}"] for mode in range(1, 5)}
        back = [project(a, {mode: factor.T for mode, factor in factors.items()}) for a in state["exp_avg"]]
        results.append(torch.stack(back))
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-4)
    assert results[0].abs().max() > 0.1


def test_galore_retains_all_of_a_gradient_of_low_rank_and_little_more_than_the_share_of_noise():
    shape = (3, 12, 14, 8, 16)
    share = torch.Size(galore_ranks(shape, 0.25)).numel() / torch.Size(shape).numel()
    retained = {}
    for name, gradient in (("structured", low_rank(shape, seed=5, rank=2)), ("noise", draw(*shape, seed=6))):
        rule, p = GaLore(BETAS, 0.25, 10), torch.zeros(shape)
        state = rule.start(p)
        rule.step(p, gradient, state, RATE)
        retained[name] = float(state["retained"])
    assert retained["structured"] > 0.999
    assert share < retained["noise"] < 2 * share


# 8 bits


def test_signed_codes_come_back_within_a_step_of_their_root_and_unbiased():
    values = in_blocks(draw(1000, seed=2) * torch.logspace(-3, 3, 1000))
    codes, scale = torch.empty(1000, dtype=torch.int8), torch.empty(len(values))
    total = torch.zeros_like(values)
    for i in range(64):
        encode_signed(values, torch.full_like(values, (i + 0.5) / 64), codes, scale)
        total += decoded_signed(codes, scale)
    relative = values / scale[:, None]
    root = (total / 64 / scale[:, None]).abs().sqrt() - relative.abs().sqrt()
    assert root.abs().max() < 1 / 127
    assert ((total / 64 - values).abs() / scale[:, None]).max() < 2e-4


def test_unsigned_codes_never_lose_what_is_not_zero():
    values = in_blocks(torch.logspace(-20, 0, 700))
    values[0, :10] = 0
    codes, scale = torch.empty(700, dtype=torch.uint8), torch.empty(len(values))
    encode_unsigned(values, 0.0, codes, scale)
    back = decoded_unsigned(codes, scale)
    assert torch.equal(back > 0, values > 0)


def test_a_moment_in_8_bits_decays_to_nothing_where_no_gradient_comes():
    rule, p = Adam8bit(BETAS), torch.zeros(300)
    state = rule.start(p)
    rule.step(p, draw(300, seed=3), state, RATE)
    peak = decoded_signed(state["exp_avg"], state["exp_avg_scale"]).abs().sum()
    busy = torch.zeros(300)
    for step in range(100):
        busy[0] = (-1.0) ** step  # keeps the block's scale up: the others must decay by their codes
        rule.step(p, busy, state, RATE)
    rest = decoded_signed(state["exp_avg"], state["exp_avg_scale"]).flatten()[1:BLOCK]
    assert rest.abs().sum() < 1e-3 * peak


def test_8_bits_follow_adamw_closely():
    found, _ = trained(Adam8bit(BETAS), CELLS, 20)
    expected, start = by_adamw(CELLS, 20), draw(*CELLS, seed=1)
    assert (found - expected).norm() < 0.05 * (expected - start).norm()


# Factors and signs


@pytest.mark.parametrize("part", OWN)
def test_adafactor_is_adamw_where_the_squares_are_an_outer_product(part):
    shape = PARTS[part]
    rows, axis = draw(*shape, seed=4).abs() + 0.5, 0 if part == "connections" else 3
    # A scale that depends on all but z, times one that depends on all but the factored axis.
    scale = rows.mean(-1, keepdim=True) * rows.mean(axis, keepdim=True)
    signs = draw(*shape, seed=5).sign()
    p, q = torch.zeros(shape), torch.nn.Parameter(torch.zeros(shape))
    rule, reference = Adafactor(part, BETAS, True), torch.optim.AdamW([q], lr=RATE, betas=BETAS, weight_decay=0.0)
    state = rule.start(p)
    for _ in range(4):
        rule.step(p, scale * signs, state, RATE)
        q.grad = scale * signs
        reference.step()
    torch.testing.assert_close(p, q.detach(), rtol=1e-2, atol=1e-4)  # the first moment is bf16


def test_lion_moves_every_number_by_the_whole_rate_against_its_momentum():
    rule, p = Lion(0.5), torch.zeros(CELLS)
    state, gradient = rule.start(p), draw(*CELLS, seed=7)
    rule.step(p, gradient, state, RATE)
    torch.testing.assert_close(p, -0.5 * RATE * gradient.sign())
    rule.step(p, -0.01 * gradient, state, RATE)  # 0.9 x 0.01 of the momentum against 0.1 x 0.01: the momentum wins
    torch.testing.assert_close(p, -RATE * gradient.sign())


# All of them


@pytest.mark.parametrize("part", OWN)
@pytest.mark.parametrize("name", RULES)
def test_a_zero_gradient_moves_nothing(name, part):
    rule, p = RULES[name](part), draw(*PARTS[part], seed=1)
    before, state = p.clone(), rule.start(p)
    for _ in range(5):
        rule.step(p, torch.zeros_like(p), state, RATE)
    assert torch.equal(p, before)
    assert all(torch.isfinite(value.float()).all() for value in state.values())


@pytest.mark.parametrize("part", OWN)
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("scale", [1e-12, 1e6])
def test_the_size_of_the_gradient_does_not_matter_and_nothing_overflows(name, part, scale):
    p, state = trained(RULES[name](part), PARTS[part], 4, scale=scale)
    moved = (p - draw(*PARTS[part], seed=1)).abs().max()
    assert torch.isfinite(p).all() and moved < 10 * 4 * RATE
    if scale > 1:
        assert moved > 0.5 * RATE * 0.3
    assert all(torch.isfinite(value.float()).all() for value in state.values())


@pytest.mark.parametrize("part", OWN)
@pytest.mark.parametrize("name", RULES)
def test_resumed_from_copies_of_its_tensors_it_goes_on_exactly(name, part):
    whole, _ = trained(RULES[name](part), PARTS[part], 8)
    p, state = trained(RULES[name](part), PARTS[part], 4)
    again, copies = RULES[name](part), {key: value.clone() for key, value in state.items()}
    assert {key: (value.shape, value.dtype) for key, value in copies.items()} == {
        key: (value.shape, value.dtype) for key, value in again.start(p.to("meta")).items()
    }
    for step in range(4, 8):
        again.step(p, draw(*PARTS[part], seed=10 + step), copies, RATE)
    assert torch.equal(p, whole)


@pytest.mark.parametrize("name", RULES)
def test_a_gradient_that_is_not_finite_is_refused_and_nothing_changes(name):
    cells, text = (torch.nn.Parameter(draw(*shape, seed=1)) for shape in (CELLS, (5, 5)))
    groups = [{"params": [p], "part": part, "weight_decay": 0.0} for p, part in ((text, "text"), (cells, "cells"))]
    optimizer = PartWise(groups, {"cells": RULES[name]("cells")}, RATE, BETAS)
    before = cells.detach().clone(), text.detach().clone()
    text.grad, cells.grad = torch.ones_like(text), torch.ones_like(cells)
    cells.grad[3, 2, 1, 0, 8] = float("nan")
    with pytest.raises(FloatingPointError, match="not finite"):
        optimizer.step()
    assert torch.equal(cells, before[0]) and torch.equal(text, before[1])
    assert not optimizer.state[cells]


def test_the_rate_set_on_a_group_reaches_both_adamw_and_the_rule():
    cells, text = (torch.nn.Parameter(torch.zeros(*shape)) for shape in (CELLS, (5, 5)))
    groups = [{"params": [p], "part": part, "weight_decay": 0.0} for p, part in ((text, "text"), (cells, "cells"))]
    optimizer = PartWise(groups, {"cells": Lion(1.0)}, RATE, BETAS)
    for group, rate in zip(optimizer.param_groups, (0.5, 0.25), strict=True):
        group["lr"] = rate
    text.grad, cells.grad = torch.ones_like(text), torch.ones_like(cells)
    optimizer.step()
    assert torch.allclose(text, torch.full_like(text, -0.5)) and torch.equal(cells, torch.full_like(cells, -0.25))
