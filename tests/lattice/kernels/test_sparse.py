"""Compact connections: they compute what a dense lattice with zeros computes, and take the memory that the plan counts."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from lattice.kernels import Functional, propagate
from lattice.kernels.native import KernelUnavailable, NativeKernel
from lattice.kernels.sparse import TILE, Pattern, moved, tile_means
from lattice.plasticity import update
from lattice.plasticity.c_library import plain
from lattice.plasticity.products import present
from presets.topology import Topology

TOPOLOGY = Topology((4, 3, 37), ((2,), (), (3, 17)))
"""Three tiles deep, the last of 5 cells."""


def draw_tiles(kept: int, seed: int, topology: Topology = TOPOLOGY) -> torch.Tensor:
    x, y, z = topology.shape
    drawn = torch.rand(len(topology.offsets), x, y, -(-z // TILE), generator=torch.Generator().manual_seed(seed))
    return torch.zeros_like(drawn, dtype=torch.bool).scatter_(0, drawn.argsort(0)[:kept], True)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_expanding_what_was_taken_gives_the_masked_weights_with_their_signs():
    pattern = Pattern.of_tiles(draw_tiles(9, 1))
    dense = draw(len(TOPOLOGY.offsets), *TOPOLOGY.shape)
    mask = pattern.mask(TOPOLOGY.shape[2])
    assert pattern.expand(pattern.take(dense)).equal(dense * mask)
    assert Pattern.of(mask).index.equal(pattern.index)
    assert torch.signbit(pattern.expand(torch.full((9, *TOPOLOGY.shape), -0.0))).equal(mask)


def test_what_two_patterns_share_moves_exactly_and_the_rest_becomes_zero():
    old, new = Pattern.of_tiles(draw_tiles(9, 1)), Pattern.of_tiles(draw_tiles(14, 2))
    dense, depth = draw(len(TOPOLOGY.offsets), *TOPOLOGY.shape), TOPOLOGY.shape[2]
    compact = moved(old.take(dense), old, new)
    assert new.expand(compact).equal(dense * (old.mask(depth) & new.mask(depth)))
    assert moved(compact, new, None).equal(new.expand(compact)) and moved(dense, None, new).equal(new.take(dense))


def test_tile_means_leave_out_what_lies_behind_the_last_cell():
    values = draw(2, 37)
    wanted = torch.stack([values[:, :16].mean(1), values[:, 16:32].mean(1), values[:, 32:].mean(1)], 1)
    assert torch.allclose(tile_means(values), wanted)


@pytest.mark.parametrize("clustered", [False, True], ids=["", "clusters"])
@pytest.mark.parametrize("boundary", ["walls", "periodic"])
@pytest.mark.parametrize("kernel", ["native", "reference"])
def test_a_compact_lattice_computes_forward_and_backward_what_the_masked_dense_one_does(kernel, boundary, clustered):
    topology = Topology(TOPOLOGY.shape, TOPOLOGY.strides, boundary)
    pattern, channels = Pattern.of_tiles(draw_tiles(9, 1)), 3
    x, y, z = topology.shape
    dense = (draw(len(topology.offsets), x, y, z) * 0.5 * pattern.mask(z)).requires_grad_()
    compact = pattern.take(dense).detach().requires_grad_()
    cells, drive = draw(6, x, y, channels, z, seed=1).requires_grad_(), draw(2, x, y, channels, seed=2).requires_grad_()
    upstream, functional = draw(2, x, y, channels, z, seed=3), None
    if clustered:
        labels = torch.randint(3, (x, y, z), generator=torch.Generator().manual_seed(4))
        functional = Functional(draw(x, y, channels, z, seed=5), labels, 3)
    try:
        chosen = NativeKernel(topology, channels) if kernel == "native" else None
    except KernelUnavailable as error:
        pytest.skip(str(error))

    def run(weights, chosen, pattern):
        state = propagate(drive, weights, cells, topology, 4, chosen, functional, pattern)
        return state, torch.autograd.grad((state * upstream).sum(), (weights, cells, drive))

    (state, found), (wanted_state, wanted) = run(compact, chosen, pattern), run(dense, None, None)
    assert torch.allclose(state, wanted_state, atol=1e-5)
    for one, other in zip(found, (pattern.take(wanted[0]), *wanted[1:]), strict=True):
        assert other.abs().max() > 0 and torch.allclose(one, other, atol=2e-5 * float(other.abs().max()) + 1e-6)


@pytest.mark.parametrize("kernel", ["auto", "reference"])
def test_some_optimizer_steps_leave_the_same_weights_as_in_the_masked_dense_lattice(bench, kernel):
    # Clipping would see the gradients of what is masked.
    settings = ("stages.0.shape=[4,4,20]", "stages.0.ticks=10", f"run.kernel={kernel}", "optimizer.clip=1000000")
    sparse, dense = bench(*settings, "stages.0.sparsity=0.7").trainer, bench(*settings).trainer
    weights, pattern = dense.state.model.lattice.weights, sparse.state.model.lattice.pattern
    mask = pattern.mask(20)
    with torch.no_grad():
        weights *= mask

    def masked(*_: object) -> None:
        weights.grad.mul_(mask)

    dense.state.optimizer.register_step_pre_hook(masked)
    for step in range(6):
        rows = list(range(32 * step, 32 * step + 32))
        sparse.step(rows)
        dense.step(rows)
    assert sparse.state.progress.loss == pytest.approx(dense.state.progress.loss, rel=1e-4)
    found, wanted = sparse.state.model.lattice.dense(), weights.detach()
    assert (found == 0).equal(~mask | (wanted == 0)) and torch.allclose(found, wanted, atol=2e-4)


def test_plasticity_changes_compact_connections_as_it_changes_dense_ones_of_which_the_pruned_do_not_exist(bench, monkeypatch):
    settings = ("connections.learning=plastic", "stages.0.shape=[4,4,20]", "stages.0.ticks=10", "plasticity.rate=0.05")
    sparse, dense = bench(*settings, "stages.0.sparsity=0.7").trainer, bench(*settings).trainer
    depth, lattice = 20, sparse.state.model.lattice
    before = lattice.weights.detach().clone()
    mask = lattice.pattern.mask(depth)
    with torch.no_grad():
        dense.state.model.lattice.weights *= mask
    # The same states are seen by both, so that their rules get the same sums.
    source = sparse.state.train_sentences.batch(list(range(8)), sparse.state.device)[0]
    for trainer in (sparse, dense):
        with torch.no_grad(), trainer.state.model.lattice.watched():
            trainer.state.model.slots(source)
    lattice.plasticity._sums = [lattice.pattern.take(total) for total in dense.state.model.lattice.plasticity._sums]
    lattice.learn(0.05)
    monkeypatch.setattr(update, "present", lambda topology, rows, device: present(topology, rows, device) & mask[:, rows])
    with plain():
        dense.state.model.lattice.learn(0.05)
    assert not lattice.weights.equal(before)
    assert torch.allclose(lattice.dense(), dense.state.model.lattice.weights * mask, atol=1e-5)
    assert torch.signbit(lattice.weights).equal(torch.signbit(before))


# Memory


def test_at_70_percent_connections_gradients_and_moments_take_at_most_35_percent_of_the_dense_bytes(bench):
    def taken(sparsity: float) -> dict[str, int]:
        trainer = bench("stages.0.shape=[4,4,32]", "stages.0.ticks=16", f"stages.0.sparsity={sparsity}").trainer
        trainer.step(list(range(32)))
        lattice, found = trainer.state.model.lattice, {}
        found["weights"] = lattice.weights.nbytes
        if lattice.pattern is not None:
            found["weights"] += lattice.pattern.index.nbytes + lattice.pattern.slots.nbytes
        found["gradients"] = lattice.weights.grad.nbytes
        state = trainer.state.optimizer.state[lattice.weights]
        found["moments"] = state["exp_avg"].nbytes + state["exp_avg_sq"].nbytes
        return found

    dense, sparse = taken(0.0), taken(0.7)
    for part in dense:
        assert 0 < sparse[part] <= 0.35 * dense[part], part


PROCESS = """
import json, sys
import psutil, torch
from lattice.kernels.native import NativeKernel
from lattice.kernels.pages import MAPPINGS
from lattice.kernels.sparse import TILE, Pattern
from lattice.model.lattice3d import Build, Lattice
from presets.schema import Connections
from presets.topology import Topology

kept, topology = int(sys.argv[1]), Topology((128, 96, 96), ((), (), (5,)))
build = Build(2, 2, Connections(), kernel=NativeKernel(topology, 2), cells_learn=False)
lattice = Lattice(topology, build, torch.Generator().manual_seed(0))
offsets = len(topology.offsets)
if kept < offsets:
    index = torch.arange(kept, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 128, 96, 96 // TILE).contiguous()
    lattice.rewire(Pattern(index, offsets), torch.Generator())
optimizer = torch.optim.AdamW([lattice.weights], fused=True)
for _ in range(2):
    optimizer.zero_grad()
    lattice(torch.ones(1, 128, 96, 2)).sum().backward()
    optimizer.step()
MAPPINGS.release()  # what a backward needs for itself and would use again
print(json.dumps({"rss": psutil.Process().memory_info().rss, "weights": lattice.weights.nbytes}))
"""


@pytest.mark.slow
def test_a_process_gives_back_the_memory_of_what_is_pruned():
    def measured(kept: int) -> dict[str, int]:
        done = subprocess.run([sys.executable, "-c", PROCESS, str(kept)], capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    dense, sparse = measured(28), measured(8)
    # Weights, their gradient and two moments; each above the size up to which malloc keeps what is freed.
    assert dense["rss"] - sparse["rss"] >= 0.65 * 4 * dense["weights"]


def test_the_mask_of_connections_over_walls_is_the_one_that_pruning_counts():
    from lattice.training.rewiring import shares

    wanted = tile_means(present(TOPOLOGY, slice(None)).float())
    assert torch.equal(shares(TOPOLOGY, torch.device("cpu")), wanted)
