"""Like work by other libraries, timed in the same process and in turns with ours: `pip install 'lattice-tui[bench]'`.

None does the same work, so each says what it does instead:

*STDP*: spikingjelly's step for a linear layer with as many connections as our lattice, ticks and sentences as ours.  It pairs
one spike train a neuron, ours twelve channels a cell; it is made for dense layers, ours for neighbourhoods.

*NCA*: one step of CAX's 3-D neural cellular automaton (perceive by depthwise convolutions, update by a shared two-layer
network) on as many cells and channels as our tick; its rule is shared by all cells, so that it reads no parameters of a cell.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from lattice.bench import CHANNELS, Row, copy_rate, timed
from lattice.bench_plasticity import STRIDES, TICKS, ConnectionRow
from lattice.model import generator
from presets.schema import Plasticity
from presets.topology import Topology

STDP_SHAPE = (16, 16, 16)
NCA_SHAPE = (64, 64, 32)
FIRING = 0.2
"""Share of the neurons that fire in a tick; what it costs does not depend on it."""


def missing(error: ImportError, name: str) -> str:
    return f"{name}: not compared, {error}; pip install 'lattice-tui[bench]'"


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


def nca_step(repeats: int) -> Row:
    """One forward step on all cores.  Raises ImportError where CAX or JAX is not installed."""
    import jax
    from cax.core.perceive import ConvPerceive
    from cax.core.update import NCAUpdate
    from flax import nnx

    rngs = nnx.Rngs(0)
    perceive = ConvPerceive(
        channel_size=CHANNELS,
        perception_size=4 * CHANNELS,
        kernel_size=(3, 3, 3),
        feature_group_count=CHANNELS,
        rngs=rngs,
    )
    update = NCAUpdate(CHANNELS, 4 * CHANNELS, (32,), cell_dropout_rate=0.5, kernel_size=(3, 3, 3), rngs=rngs)

    @nnx.jit
    def step(perceive, update, state):
        return update(state, perceive(state))

    state = jax.random.normal(jax.random.key(0), (*NCA_SHAPE, CHANNELS))
    calls = {"nca": lambda: jax.block_until_ready(step(perceive, update, state))}
    taken = timed(calls, repeats, time.perf_counter)["nca"]  # JAX has threads of its own
    return _row("CAX 3-D NCA, forward", NCA_SHAPE, 1, taken)


def compare(repeats: int, settings: Plasticity, told: Callable[[str], object]) -> tuple[list[Row], list[str]]:
    """(rows, remarks); a library that is not installed is remarked and left out."""
    rows, remarks = [], []
    for name, call in (("spikingjelly", lambda: stdp_layer(repeats, settings)), ("cax", lambda: nca_step(repeats))):
        told(f"comparing with {name}")
        try:
            rows.append(call())
        except ImportError as error:
            remarks.append(missing(error, name))
    return rows, remarks


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
