"""Like work by another library, timed in the same process: spikingjelly's STDP step for a linear layer.

It has as many connections as our lattice, and ticks and sentences as ours, but not the same work: it pairs one spike train a
neuron, ours twelve channels a cell; it is made for dense layers, ours for neighbourhoods.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch

from lattice.bench import Row, copy_rate, timed
from lattice.bench_plasticity import STRIDES, TICKS, ConnectionRow
from lattice.model import generator
from presets.schema import Plasticity
from presets.topology import Topology

STDP_SHAPE = (16, 16, 16)
INSTALL = "`pip install --no-deps spikingjelly loguru` adds it"
"""Without its dependencies: those would put another torch in the place of the one that is here."""

FIRING = 0.2
"""Share of the neurons that fire in a tick; what it costs does not depend on it."""


def stdp_layer(repeats: int, settings: Plasticity) -> ConnectionRow:
    """Updates of a linear layer's weights over the ticks of a run.  Raises ImportError where spikingjelly is not installed."""
    from spikingjelly.activation_based.functional.learning import stdp_linear_step

    topology = Topology(STDP_SHAPE, STRIDES)
    connections = topology.cells * len(topology.offsets)
    heard = next(n for n in range(int(connections**0.5), 0, -1) if connections % n == 0)
    hearing = connections // heard
    draw, batch = generator(0, "bench spikes"), settings.sentences
    before, after = ((torch.rand(TICKS, batch, neurons, generator=draw) < FIRING).float() for neurons in (heard, hearing))
    weights = torch.zeros(hearing, heard)

    def update() -> None:
        trace = (torch.zeros(batch, heard), torch.zeros(batch, hearing))
        for tick in range(TICKS):
            change, trace = stdp_linear_step(
                before[tick],
                after[tick],
                trace,
                weights,
                tau_pre=max(1.0, settings.tau_plus),
                tau_post=max(1.0, settings.tau_minus),
            )
            weights.add_(change, alpha=settings.rate)

    name = f"spikingjelly stdp, a linear layer {heard} -> {hearing}"
    row = _row(name, STDP_SHAPE, batch, timed({name: update}, repeats)[name])
    return ConnectionRow(**vars(row), ns_per_connection=1e9 * row.median / connections)


def compare(repeats: int, settings: Plasticity, told: Callable[[str], object]) -> tuple[list[Row], list[str]]:
    """(rows, remarks); a library that is not installed is remarked and left out."""
    told("comparing with spikingjelly")
    try:
        return [stdp_layer(repeats, settings)], []
    except ImportError as error:
        return [], [f"spikingjelly: not compared, {error}; {INSTALL}"]


def _row(name: str, shape: tuple[int, int, int], batch: int, taken: list[float]) -> Row:
    median = statistics.median(taken)
    return Row(
        name=name,
        shape=shape,
        batch=batch,
        threads=torch.get_num_threads(),
        ns_per_cell=1e9 * median / (shape[0] * shape[1] * shape[2]),
        speedup=None,
        copy_gbps=copy_rate(3) / 1e9,
        floor_ratio=None,
        median=median,
        min=min(taken),
        max=max(taken),
    )
