"""What STDP sees of a lattice: for every connection the pairs of spikes of its two cells, by which of them fired first.

`pairs` goes over the spikes themselves, in C (`pairs.c`), on the CPU; `plain_pairs` makes traces of them and takes products of
these with spikes (lattice.plasticity.products), anywhere and for any number of ticks.
"""

from __future__ import annotations

import ctypes

import torch

from lattice.kernels import pages
from lattice.kernels.native import pointer
from lattice.kernels.sparse import TILE, Pattern
from lattice.plasticity import rules
from lattice.plasticity.native import Geometry, library
from lattice.plasticity.products import Work, products
from lattice.plasticity.slabs import SLAB_NUMBERS
from lattice.plasticity.spikes import traces
from presets.topology import Topology

MAX_TICKS, MAX_BATCH = 32, 8
"""Ticks and sentences that pairs.c takes at once.  It keeps a bit of a 32-bit word for each tick."""

DEFINES = (f"-DMAX_TICKS={MAX_TICKS}", f"-DMAX_BATCH={MAX_BATCH}")


@torch.no_grad()
def pairs(
    spiking: list[torch.Tensor],
    stdp: rules.STDP,
    topology: Topology,
    sums: list[torch.Tensor],
    quiet: float = 0.0,
    pattern: Pattern | None = None,
) -> Work:
    """Adds Σ exp(-gap / tau) to `sums`, each [kept, X, Y, Z]: over pairs of which i + o_k fired `gap` > 0 ticks before i with
    tau_plus to the first, over those of which it fired after i with tau_minus to the second.

    `spiking` are the spikes of each tick, bool [B, X, Y, Z]; the connections are those of `pattern`, without one all K.
    `quiet` as for products; where it is not 0, traces and products are taken.
    """
    fits = spiking[0].device.type == "cpu" and len(spiking) <= MAX_TICKS and not quiet
    kernel = library("pairs.c", *DEFINES) if fits else None
    if kernel is None:
        return plain_pairs(spiking, stdp, topology, sums, quiet, pattern)
    (_, x, y, z), ticks, total, work = spiking[0].shape, len(spiking), Work(0, 0), (ctypes.c_int64 * 2)()
    decays = [ctypes.c_float(rules.decay(tau)) for tau in (stdp.tau_plus, stdp.tau_minus)]
    for part in zip(*(spikes.split(MAX_BATCH) for spikes in spiking), strict=True):
        batch = len(part[0])
        words, busy = (pages.empty((batch, x, y, size), torch.int32) for size in (z, -(-z // TILE)))
        geometry = Geometry(topology, len(sums[0]), pattern, batch)
        addresses = (ctypes.c_void_p * ticks)(*(pointer(spikes, torch.bool).value for spikes in part))
        kernel.pairs(
            ctypes.byref(geometry), ctypes.c_int64(ticks), addresses, *decays,
            *(pointer(field, torch.int32) for field in (words, busy)), *map(pointer, sums), work,
        )  # fmt: skip
        total = Work(total.done + work[0], total.possible + work[1])
    return total


@torch.no_grad()
def plain_pairs(
    spiking: list[torch.Tensor],
    stdp: rules.STDP,
    topology: Topology,
    sums: list[torch.Tensor],
    quiet: float = 0.0,
    pattern: Pattern | None = None,
) -> Work:
    """`pairs` by traces: Σ over samples and ticks of pre_trace · post spike, and of pre spike · post_trace.

    Traces run through all ticks; they are kept for as many sentences and ticks at once as make a slab, or for one tick.
    """
    ticks, cells, device = len(spiking), topology.cells, spiking[0].device
    sentences, at_once = max(1, SLAB_NUMBERS // (ticks * cells)), max(1, SLAB_NUMBERS // cells)
    done = possible = 0
    for part in zip(*(spikes.split(sentences) for spikes in spiking), strict=True):
        batch, x, y, z = part[0].shape
        ends = [torch.zeros(batch, x, y, z, device=device) for _ in range(2)]
        for start in range(0, ticks, at_once):
            some = list(part[start : start + at_once])
            fired, trace = (pages.empty((batch, x, y, len(some), z), device=device) for _ in range(2))
            for sum_of, tau in enumerate((stdp.tau_plus, stdp.tau_minus)):
                traces(some, tau, ends[sum_of], fired, trace)
                pre, post = (trace, fired) if sum_of == 0 else (fired, trace)
                work = products(pre, post, topology, sums[sum_of], quiet, pattern)
                done, possible = done + work.done, possible + work.possible
    return Work(done, possible)
