"""The compiled step of the 8-bit AdamW against the one in plain torch, and that nothing but its input decides its results.

Both do the same arithmetic in fp32, in another order (products fused or not, a division or a product with the inverse), so
they differ by a few rounding errors.  A code differs, then by one, only where such an error lies between a number and the next
step's edge: of 255 steps and relative errors of 1e-7 a few in a hundred thousand, and MOST_CODES allows no more.
"""

from __future__ import annotations

import pytest
import torch

from lattice.optimizers import adam8bit
from lattice.optimizers.adam8bit import Adam8bit
from lattice.optimizers.chunks import chunk_size
from presets.optimizer_state import BLOCK

BETAS, RATE = (0.9, 0.98), 0.01
CHUNK = chunk_size(torch.device("cpu"))
COUNTS = [1, 17, BLOCK, 5 * BLOCK - 1, 2 * CHUNK + 3 * BLOCK + 100]
"""Numbers: within a block, whole blocks, a short last one, and chunks that enter the table of random numbers elsewhere."""

UPDATE, SCALE, MOST_CODES = 5e-6, 1e-6, 1e-4
"""Largest relative difference of what a weight moves by, beside the rounding of the weight itself; that of a scale; the
share of codes that may differ."""


@pytest.fixture(autouse=True)
def _has_the_compiled_kernel():
    """Where it could not be built everything would pass all the same: the plain version steps in."""
    assert adam8bit._library() is not None


def gradient(count: int, step: int) -> torch.Tensor:
    """Numbers of many magnitudes; a fifth of them, and from the third block on one block in four, never have a gradient."""
    stream = torch.Generator().manual_seed(100 + step)
    drawn = torch.randn(count, generator=stream) * 10 ** (6 * torch.rand(count, generator=stream) - 5)
    place = torch.arange(count)
    return drawn * (place % 5 != 3) * (place // BLOCK % 4 != 2)


def begun(count: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    p = torch.randn(count, generator=torch.Generator().manual_seed(1))
    return p, Adam8bit(BETAS).start(p)


def copied(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in state.items()}


def trained(count: int, first: int, steps: int, p: torch.Tensor, state: dict[str, torch.Tensor]) -> None:
    rule = Adam8bit(BETAS)
    for step in range(first, first + steps):
        rule.step(p, gradient(count, step), state, RATE)


@pytest.mark.parametrize("count", COUNTS)
def test_each_step_moves_weights_and_moments_as_the_plain_one_does(count):
    rule, (p, state) = Adam8bit(BETAS), begun(count)
    other = total = 0
    for step in range(6):  # from the first, where all moments are zero; each from the state that the compiled one left
        before, plain, plain_state = p.clone(), p.clone(), copied(state)
        g = gradient(count, step)
        rule.step(p, g, state, RATE)
        rule.plain_step(plain, g, plain_state, RATE)
        assert state["step"] == plain_state["step"] == step + 1
        moved = (plain - before).abs()
        assert moved.max() > 0.1 * RATE
        assert ((p - plain).abs() <= UPDATE * moved + torch.finfo().eps * before.abs()).all()
        for name in ("exp_avg_scale", "exp_avg_sq_scale"):
            torch.testing.assert_close(state[name], plain_state[name], rtol=SCALE, atol=0)
        for name in ("exp_avg", "exp_avg_sq"):
            apart = (state[name].int() - plain_state[name].int()).abs()
            assert apart.max() <= 1
            other, total = other + int(apart.sum()), total + count
    assert other <= MOST_CODES * total


def test_what_never_has_a_gradient_stays_as_it_is_and_what_has_one_keeps_its_second_moment():
    count = COUNTS[-1]
    p, state = begun(count)
    before = p.clone()
    trained(count, 0, 4, p, state)
    never = gradient(count, 0) == 0
    assert 0.2 < never.float().mean() < 0.5
    assert torch.equal(p[never], before[never])
    assert not state["exp_avg"][never].any() and not state["exp_avg_sq"][never].any()
    assert state["exp_avg_sq"][~never].all()
    empty = torch.arange(len(state["exp_avg_scale"])) % 4 == 2
    for name in ("exp_avg_scale", "exp_avg_sq_scale"):
        assert not state[name][empty].any() and state[name][~empty].all()


@pytest.mark.parametrize("magnitude", [1e-17, 1e17])
def test_very_small_and_very_large_gradients_move_weights_alike_and_nothing_overflows(magnitude):
    rule, (p, state) = Adam8bit(BETAS), begun(1000)
    plain, plain_state = p.clone(), copied(state)
    for step in range(3):
        g = magnitude * gradient(1000, step).sign()
        rule.step(p, g, state, RATE)
        rule.plain_step(plain, g, plain_state, RATE)
    torch.testing.assert_close(p, plain, rtol=1e-5, atol=1e-6)
    assert all(torch.isfinite(value.float()).all() for value in (p, *state.values()))


def test_resumed_from_copies_it_goes_on_bit_for_bit():
    count = COUNTS[-1]
    whole, state = begun(count)
    trained(count, 0, 5, whole, state)
    p, begun_state = begun(count)
    trained(count, 0, 2, p, begun_state)
    again = copied(begun_state)
    trained(count, 2, 3, p, again)
    assert torch.equal(p, whole)
    assert all(torch.equal(again[name], state[name]) for name in state)


def test_results_do_not_depend_on_the_number_of_threads():
    count = COUNTS[-1]
    before, runs = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            p, state = begun(count)
            trained(count, 0, 3, p, state)
            runs.append({"p": p, **state})
    finally:
        torch.set_num_threads(before)
    for run in runs[1:]:
        assert all(torch.equal(run[name], runs[0][name]) for name in run)


def test_nothing_is_written_beside_a_short_last_block():
    count, room = BLOCK + 30, 64
    p, state = begun(count)
    beside = {name: torch.full((value.numel() + room,), 7, dtype=value.dtype) for name, value in (("p", p), *state.items())}
    views = {name: padded[: padded.numel() - room] for name, padded in beside.items()}
    for name, value in (("p", p), *state.items()):
        views[name].copy_(value.flatten())
    views["step"] = views["step"].view(())
    p = views.pop("p")
    trained(count, 0, 2, p, views)
    assert all((padded[-room:] == 7).all() for padded in beside.values())


def test_without_a_compiler_the_plain_version_serves(monkeypatch):
    count = COUNTS[3]
    p, state = begun(count)
    plain, plain_state = p.clone(), copied(state)
    Adam8bit(BETAS).plain_step(plain, gradient(count, 0), plain_state, RATE)
    monkeypatch.setattr(adam8bit, "_library", lambda: None)
    trained(count, 0, 1, p, state)
    assert torch.equal(p, plain) and all(torch.equal(state[name], plain_state[name]) for name in state)
