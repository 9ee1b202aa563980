"""What STDP sees of a lattice: for every connection the pairs of spikes of its two cells, by which of them fired first.

On the CPU, `pairs` goes over the spikes themselves, in C (`pairs.c`).  `plain_pairs` runs anywhere and for any number of ticks:
it makes traces of the spikes, and products of traces and spikes (lattice.plasticity.products).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import torch

from lattice.kernels import pages
from lattice.kernels.native import pointer
from lattice.kernels.sparse import TILE, Pattern
from lattice.plasticity import rules
from lattice.plasticity.c_library import ConnectionGeometry, library
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
    """Adds Σ exp(-gap / tau) over pairs of spikes of connected cells to two `sums`, each [kept, X, Y, Z].

    The first sum takes the pairs of which i + o_k fired `gap` > 0 ticks before i, with tau_plus.  The second one takes those of
    which it fired `gap` > 0 ticks after i, with tau_minus.  `spiking` are the spikes of each tick, bool [B, X, Y, Z].  The
    connections are those of `pattern`, or all K without one.  `quiet` is as for products; if it is not 0, traces and products
    are taken.
    """
    fits = spiking[0].device.type == "cpu" and len(spiking) <= MAX_TICKS and not quiet
    kernel = library("pairs.c", *DEFINES) if fits else None
    if kernel is None:
        return plain_pairs(spiking, stdp, sums, lambda pre, post, total: products(pre, post, topology, total, quiet, pattern))
    (_, x, y, z), ticks, total, work = spiking[0].shape, len(spiking), Work(0, 0), (ctypes.c_int64 * 2)()
    decays = [ctypes.c_float(rules.decay(tau)) for tau in (stdp.tau_plus, stdp.tau_minus)]
    for part in zip(*(spikes.split(MAX_BATCH) for spikes in spiking), strict=True):
        batch = len(part[0])
        words, busy = (pages.empty((batch, x, y, size), torch.int32) for size in (z, -(-z // TILE)))
        geometry = ConnectionGeometry(topology, len(sums[0]), pattern, batch)
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
    sums: list[torch.Tensor],
    add_products: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], Work],
) -> Work:
    """`pairs` by traces: Σ over samples and ticks of pre_trace · post spike, and of pre spike · post_trace.

    `add_products(pre, post, total)` adds the products of two fields [b, X, Y, T, Z] to a sum.  Traces run through all ticks; at
    most a slab of them is kept at once, or those of one sentence and tick if that is more.
    """
    ticks, cells, device = len(spiking), spiking[0][0].numel(), spiking[0].device
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
                work = add_products(pre, post, sums[sum_of])
                done, possible = done + work.done, possible + work.possible
    return Work(done, possible)
