"""The share of a gradient's energy that a projection keeps: closed forms, and what is told of a step."""

from __future__ import annotations

import pytest
import torch

from lattice.optimizers.adam8bit import Adam8bit
from lattice.optimizers.galore import GaLore, factors_of, gram, leading
from lattice.optimizers.partwise import PartWise
from lattice.optimizers.retained import of_step, random_factors, retained
from presets.optimizer_state import galore_ranks

BETAS, RATE = (0.9, 0.98), 0.01
SHAPE = (3, 12, 14, 16)


def stream(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=stream(seed))


def low_rank(rank: int, seed: int) -> torch.Tensor:
    """A core of this rank along each mode but the first, seen through as many columns of each [3, 12, 14, 16]."""
    core = noise(SHAPE[0], rank, rank, rank, seed=seed)
    columns = (noise(size, rank, seed=seed + mode) for mode, size in enumerate(SHAPE[1:], 1))
    return torch.einsum("prst,xr,ys,zt->pxyz", core, *columns)


def leading_factors(gradient: torch.Tensor, ranks: tuple[int, ...]) -> dict[int, torch.Tensor]:
    return {mode: leading(gram(gradient, mode), ranks[mode]) for mode in range(1, gradient.dim())}


def test_full_rank_retains_everything_whichever_way_it_turns():
    gradient = noise(*SHAPE, seed=1)
    assert retained(gradient, {}) == pytest.approx(1.0, abs=1e-6)
    square = random_factors({mode: torch.empty(size, size) for mode, size in enumerate(SHAPE) if mode}, stream(2))
    assert retained(gradient, square) == pytest.approx(1.0, abs=1e-5)


def test_a_gradient_of_low_rank_is_retained_whole_by_its_own_factors_and_not_by_random_ones():
    gradient = low_rank(2, seed=3)
    own = leading_factors(gradient, (3, 2, 2, 2))
    assert retained(gradient, own) == pytest.approx(1.0, abs=1e-5)
    assert retained(gradient, random_factors(own, stream(4))) < 0.1


def test_a_random_projection_retains_its_share_of_white_noise():
    gradient, ranks = noise(*SHAPE, seed=5), (3, 6, 7, 8)
    shapes = {mode: torch.empty(SHAPE[mode], ranks[mode]) for mode in (1, 2, 3)}
    shares = [retained(gradient, random_factors(shapes, stream(seed))) for seed in range(40)]
    assert sum(shares) / 40 == pytest.approx(1 / 8, rel=0.05)
    one = [retained(gradient, random_factors({2: shapes[2]}, stream(seed))) for seed in range(40)]
    assert sum(one) / 40 == pytest.approx(1 / 2, rel=0.05)


def test_random_factors_have_orthonormal_columns_and_the_shapes_they_stand_for():
    drawn = random_factors({1: torch.empty(12, 5), 3: torch.empty(16, 16)}, stream(6))
    assert {mode: tuple(factor.shape) for mode, factor in drawn.items()} == {1: (12, 5), 3: (16, 16)}
    for factor in drawn.values():
        torch.testing.assert_close(factor.T @ factor, torch.eye(factor.shape[1]), rtol=0, atol=1e-5)


def test_nothing_of_nothing_counts_as_everything():
    assert retained(torch.zeros(SHAPE), {1: torch.eye(12)[:, :2]}) == 1.0


def stepped(gradients: list[torch.Tensor]) -> tuple[PartWise, torch.nn.Parameter]:
    """Cells by GaLore, connections in 8 bits, text by AdamW, after these gradients of cells."""
    parts = {"text": (5, 5), "connections": (4, 3, 3, 3), "cells": SHAPE}
    params = {part: torch.nn.Parameter(torch.zeros(shape)) for part, shape in parts.items()}
    groups = [{"params": [p], "part": part, "weight_decay": 0.0} for part, p in params.items()]
    optimizer = PartWise(groups, {"cells": GaLore(BETAS, 0.125, 2), "connections": Adam8bit(BETAS)}, RATE, BETAS)
    for gradient in gradients:
        for part, p in params.items():
            p.grad = gradient if part == "cells" else torch.ones_like(p)
        optimizer.step()
    return optimizer, params["cells"]


def test_of_a_step_is_told_what_the_factors_in_use_keep_and_what_random_ones_of_their_ranks_do():
    first, second = low_rank(2, seed=7), noise(*SHAPE, seed=8)
    optimizer, cells = stepped([first])
    (found,) = of_step(optimizer, stream(9))
    assert found.part == "cells" and found.kept == pytest.approx(1.0, abs=1e-5)
    optimizer, cells = stepped([first, second])
    (found,) = of_step(optimizer, stream(9))
    factors = factors_of(optimizer.state[cells], 4)
    share = torch.Size(galore_ranks(SHAPE, 0.125)).numel() / torch.Size(SHAPE).numel()
    assert found.kept == pytest.approx(retained(second, factors), rel=1e-5)
    assert found.random == pytest.approx(retained(second, random_factors(factors, stream(9))), rel=1e-5)
    assert found.kept == pytest.approx(share, rel=0.3) and found.random == pytest.approx(share, rel=0.3)


def test_looking_leaves_the_step_as_it_is():
    optimizer, cells = stepped([low_rank(2, seed=7)])
    kept = {name: value.clone() for name, value in optimizer.state[cells].items()}
    gradient, weights = cells.grad.clone(), cells.detach().clone()
    of_step(optimizer, stream(9))
    assert torch.equal(cells.grad, gradient) and torch.equal(cells, weights)
    assert all(torch.equal(optimizer.state[cells][name], value) for name, value in kept.items())


def test_nothing_is_told_where_nothing_is_projected_or_no_step_was_taken():
    p = torch.nn.Parameter(torch.ones(3, 3))
    p.grad = torch.ones(3, 3)
    assert of_step(torch.optim.AdamW([p]), stream(1)) == []
    assert of_step(stepped([])[0], stream(1)) == []
