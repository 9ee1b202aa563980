"""Pruning and regrowth: decide which connections each tile of cells keeps.

    fewer are to be kept    the weakest connections of each tile go, by mean |w|; one over a wall counts as zero
    more are to be kept     connections come back with weight zero, chosen by `rewiring.regrow`
    rewiring                both at once, every `rewiring.every` steps

A rewiring exchanges a share of the connections.  The share falls over the stage along a cosine (RigL, Evci et al. 2020).  The
fan-in is constant (SRigL, Lasby et al. 2024).  Random regrowth is that of SET (Mocanu et al. 2018).

The criteria for regrowth are measured on a few training sentences, which are drawn by (seed, stage, step).  So a resumed run
rewires like an uninterrupted one.  No criterion holds dense weights or their moments.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterator

import torch
from torch import nn

from lattice.data.batches import Batch
from lattice.kernels import pages
from lattice.kernels.sparse import TILE, Pattern, tile_means
from lattice.model.lattice3d import Lattice
from lattice.optimizers import moments
from lattice.plasticity.products import pairs_of, products
from lattice.random_streams import generator
from lattice.training.callbacks import Callback
from lattice.training.state import TrainingState
from monitors.events import Rewired
from presets.stage import Stage
from presets.topology import Topology

SENTENCES = 32
"""Training sentences that the criteria of a regrowth are measured on."""

QUIET = 1e-12
"""If a cell's state varies less than this over the sentences (sum of squared deviations), it correlates with no other."""


class Rewirer(Callback):
    """The callback that prunes to the stage's sparsity and rewires every `rewiring.every` steps.  Emits Rewired."""

    def after_step(self, state: TrainingState) -> None:
        lattice, stage, step = state.model.lattice, state.stage, state.progress.stage_step
        if lattice is None:
            return
        keep = stage.kept(step)
        drop = dropped(stage, step, keep)
        if drop or keep != kept(lattice):
            changed = rewire(state, keep, drop)
            if changed is not None:
                state.tell(changed)


def kept(lattice: Lattice) -> int:
    """Connections per cell, including those that lead over a wall."""
    return len(lattice.weights)


def dropped(stage: Stage, step: int, keep: int) -> int:
    """How many of a cell's `keep` connections to drop and regrow after `step` steps of the stage; 0 if no rewiring is due."""
    settings = stage.rewiring
    if settings.regrow == "none" or stage.profile == "freeze" or step % settings.every or step < settings.prune_at:
        return 0
    share = settings.share * 0.5 * (1 + math.cos(math.pi * min(1.0, step / stage.steps)))
    return round(keep * share)


def rewire(state: TrainingState, keep: int, drop: int = 0) -> Rewired | None:
    """Changes the pattern of connections, so that each cell keeps `keep` of them.

    `drop` of these are new and replace the weakest ones; they are fewer if fewer are absent.
    Returns the event, which is not yet emitted, or None if there was nothing to do.
    """
    clock, progress, lattice = time.perf_counter(), state.progress, state.lattice
    settings, old, topology = state.stage.rewiring, lattice.pattern, lattice.topology
    offsets, before = len(topology.offsets), kept(lattice)
    drop = min(drop, offsets - max(keep, before))
    if keep == before and not drop:
        return None
    pages.MAPPINGS.release()  # makes room for the connections of the old and the new pattern side by side
    exists = shares(topology, lattice.weights.device)
    have = torch.ones_like(exists, dtype=torch.bool) if old is None else old.tiles
    strength = _by_offset(lattice) * exists
    if settings.protect_clusters:
        strength += (shares(topology, strength.device, lattice.labels) > 0.5) * (1 + strength.max())
    remaining = min(keep, before) - drop
    stays = highest(strength.masked_fill_(~have, -1.0), remaining)
    if keep > remaining:
        # Connections over a wall are chosen last.  Those that have just been dropped are not chosen at all.
        score = _score(state).masked_fill_(exists == 0, -1.0).masked_fill_(have, -2.0)
        stays |= highest(score, keep - remaining)
    change_pattern(state, Pattern.of_tiles(stays) if keep < offsets else None)
    return Rewired(
        step=progress.step,
        stage=progress.stage,
        pruned=_count(have & ~stays, topology),
        regrown=_count(stays & ~have, topology),
        sparsity=1 - keep / offsets,
        fan_in=tuple(torch.bincount(fan_in(stays, topology).flatten()).tolist()),
        seconds=time.perf_counter() - clock,
    )


def change_pattern(state: TrainingState, pattern: Pattern | None) -> None:
    """Changes the lattice to another pattern of connections (None = dense), and the optimizer's moments with it.

    Moments of connections that stay are kept.  Those of new connections start anew.
    """
    lattice, progress = state.lattice, state.progress
    before, shape = lattice.pattern, lattice.weights.shape
    lattice.rewire(pattern, generator(state.config.run.seed, "signs", progress.stage, progress.stage_step))
    moments.rewire(state.optimizer, lattice.weights, shape, before, pattern)


def highest(rank: torch.Tensor, count: int) -> torch.Tensor:
    """Marks the `count` highest offsets of each tile.

    `rank` and the result (bool) are [K, X, Y, tiles].  Of equal offsets, the first is taken.
    """
    order = torch.sort(rank, dim=0, descending=True, stable=True).indices[:count]
    return torch.zeros_like(rank, dtype=torch.bool).scatter_(0, order, True)


@torch.no_grad()
def shares(topology: Topology, device: torch.device, labels: torch.Tensor | None = None) -> torch.Tensor:
    """Share of a tile's cells in which an offset leads to a cell and not over a wall: [K, X, Y, tiles].

    With `labels` [X, Y, Z], only a cell of the same cluster counts.
    """
    found = []
    for offset in topology.offsets:
        cells = torch.zeros(topology.shape, device=device)
        for here, there in pairs_of(topology, offset):
            cells[here] = 1.0 if labels is None else (labels[here] == labels[there]).float()
        found.append(tile_means(cells))
    return torch.stack(found)


@torch.no_grad()
def fan_in(tiles: torch.Tensor, topology: Topology) -> torch.Tensor:
    """Connections of each cell that do not lead over a wall: [X, Y, Z] (int64).

    `tiles` [K, X, Y, tiles] (bool) says which offsets each tile keeps.
    """
    total = torch.zeros(topology.shape, dtype=torch.long, device=tiles.device)
    for keeps, offset in zip(tiles, topology.offsets, strict=True):
        cells = keeps.repeat_interleave(TILE, -1)[..., : topology.shape[2]]
        for here, _ in pairs_of(topology, offset):
            total[here] += cells[here]
    return total


def _count(tiles: torch.Tensor, topology: Topology) -> int:
    return int(fan_in(tiles, topology).sum())


@torch.no_grad()
def _by_offset(lattice: Lattice) -> torch.Tensor:
    """Mean |w| of each offset in each tile: [K, X, Y, tiles].  It is 0 if there is no connection, or one that is not finite."""
    strength = torch.nan_to_num(tile_means(lattice.weights.abs()), posinf=0.0)
    if lattice.pattern is None:
        return strength
    found = strength.new_zeros(len(lattice.topology.offsets), *strength.shape[1:])
    return found.scatter_(0, lattice.pattern.index.long(), strength)


# Criteria for regrowth: a score >= 0 for each offset of each tile


def _score(state: TrainingState) -> torch.Tensor:
    match state.stage.rewiring.regrow:
        case "activity":
            score = correlations(state)
        case "gradient":
            score = gradients(state)
        case _:
            score = _drawn(state)
    return torch.nan_to_num(score, posinf=0.0)


def _drawn(state: TrainingState) -> torch.Tensor:
    topology = state.lattice.topology
    x, y, z = topology.shape
    drawn = torch.rand(len(topology.offsets), x, y, -(-z // TILE), generator=_stream(state, "regrowth"))
    return drawn.to(state.device)


def _stream(state: TrainingState, purpose: str) -> torch.Generator:
    progress = state.progress
    return generator(state.config.run.seed, purpose, progress.stage, progress.stage_step)


def _probe(state: TrainingState) -> Iterator[Batch]:
    """Yields SENTENCES training sentences in micro-batches, each to be run before the next one is asked for."""
    sentences, size = state.train_sentences, state.micro_batch
    rows = torch.randint(len(sentences), (SENTENCES,), generator=_stream(state, "regrowth sentences")).tolist()
    for start in range(0, SENTENCES, size):
        with state.model.drawn(first=start):
            yield sentences.batch(rows[start : start + size], state.device)


@torch.no_grad()
def correlations(state: TrainingState) -> torch.Tensor:
    """|Pearson correlation| between the last states of two cells, over sentences and channels: tile means [K, X, Y, tiles].

    Each channel is centred by itself, so whatever is the same in all sentences does not count.
    """
    model, topology = state.model, state.lattice.topology
    states = (model.state(source).float().sum(0) for source, _, _ in _probe(state))
    mean = functools.reduce(torch.add, states) / SENTENCES
    power = torch.zeros(topology.shape, device=state.device)
    together = torch.zeros(len(topology.offsets), *topology.shape, device=state.device)
    for source, _, _ in _probe(state):
        centred = torch.nan_to_num(model.state(source).float() - mean, posinf=0.0, neginf=0.0)
        power += centred.square().sum((0, 3))
        products(centred, centred, topology, together)
    scale = torch.where(power > QUIET, power.rsqrt(), 0.0)[None, :, :, None]
    both = torch.zeros_like(together)
    products(scale, scale, topology, both)
    return tile_means(together.mul_(both).abs_())


def gradients(state: TrainingState) -> torch.Tensor:
    """|dL/dw| that absent connections would have if they were there with weight zero: tile means [K, X, Y, tiles].

    This is RigL's criterion.  Absent connections are taken in groups of at most as many as are kept, so a probe needs at most
    twice the memory of the connections.  Connections that are there score 0.  The lattice must be pruned.
    """
    model, lattice = state.model, state.lattice
    old, weights = lattice.pattern, lattice.weights.detach()
    assert old is not None, "nothing is absent from a dense lattice"
    absent = Pattern.of_tiles(~old.tiles).index
    score = torch.zeros(old.offsets, *absent.shape[1:], device=weights.device)
    state.optimizer.zero_grad(set_to_none=True)
    for group in absent.split(old.kept):
        widened = torch.cat([weights, weights.new_zeros(len(group), *weights.shape[1:])])
        total = torch.zeros_like(widened[old.kept :])
        with lattice.standing_in(nn.Parameter(widened), torch.cat([old.index, group])):
            for batch in _probe(state):
                loss, _ = model.loss(*batch)
                (found,) = torch.autograd.grad(state.scaler.scale(loss), [lattice.weights])
                total += found[old.kept :]
        score.scatter_(0, group.long(), tile_means(total.abs_()))
    return score
