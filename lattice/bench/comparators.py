"""Similar work by other libraries, timed in the same process: spikingjelly's STDP for a linear layer, and CAX's 3-D neural
cellular automaton.

Neither does the same work as the lattice.  The STDP layer has as many connections, ticks and sentences.  But it is dense, and
a neuron is given its spikes, while a cell fires by its twelve channels.  The automaton has as many cells and channels, but one
set of parameters for all cells.  It reads 27 neighbours by a convolution, and updates each cell by a small network.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from lattice.bench.plasticity_cost import STRIDES, TICKS, ConnectionRow
from lattice.bench.timings import CHANNELS, Row, copy_rate, timed
from lattice.random_streams import generator
from presets.plasticity_section import PlasticitySection
from presets.topology import Topology

STDP_SHAPE = (16, 16, 16)
NCA_SHAPE = (64, 64, 32)
PERCEIVED, HIDDEN = 3, 32
"""The outputs of the automaton's convolution per channel, and the width of its network.  Such automata commonly have this size.

The convolution of most of them takes each channel by itself.  On a CPU, XLA takes three times as long for that.
"""

INSTALL = {"spikingjelly": "pip install --no-deps spikingjelly loguru", "cax": "pip install cax"}
"""How to install each library.  The first comes without its dependencies, because they would replace the installed torch."""

FIRING = 0.2
"""Share of the neurons that fire in a tick.  The layer's cost does not depend on it."""


def stdp_layer(repeats: int, settings: PlasticitySection) -> ConnectionRow:
    """Times spikingjelly's STDP updates of a linear layer over TICKS ticks.

    Raises ImportError if spikingjelly is not installed.
    """
    from spikingjelly.activation_based.functional.learning import stdp_linear_step

    topology = Topology(STDP_SHAPE, STRIDES)
    connections = topology.cells * len(topology.offsets)
    pre_count = next(n for n in range(int(connections**0.5), 0, -1) if connections % n == 0)
    post_count = connections // pre_count
    draw, batch = generator(0, "bench spikes"), settings.sentences
    before, after = (
        (torch.rand(TICKS, batch, neurons, generator=draw) < FIRING).float() for neurons in (pre_count, post_count)
    )
    weights = torch.zeros(post_count, pre_count)

    def update() -> None:
        trace = (torch.zeros(batch, pre_count), torch.zeros(batch, post_count))
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

    name = f"spikingjelly stdp, a linear layer {pre_count} -> {post_count}"
    row = _row(name, STDP_SHAPE, batch, timed({name: update}, repeats)[name])
    return ConnectionRow(**vars(row), ns_per_connection=1e9 * row.median / connections)


def automaton(repeats: int) -> list[Row]:
    """Times one step of a 3-D neural cellular automaton: batch 1, fp32, compiled by XLA, on all threads, as JAX wants it.

    One row is for the forward, one for the forward with the gradients of state and parameters.
    Raises ImportError if CAX is not installed.
    """
    import jax
    from cax.core.perceive import ConvPerceive
    from cax.core.update import ResidualUpdate
    from flax import nnx

    rngs, size = nnx.Rngs(0), PERCEIVED * CHANNELS
    perceive = ConvPerceive(CHANNELS, size, kernel_size=(3, 3, 3), rngs=rngs)
    update = ResidualUpdate(3, CHANNELS, size, (HIDDEN,), rngs=rngs)
    definition, parameters, others = nnx.split((perceive, update), nnx.Param, ...)
    state = jax.random.normal(jax.random.key(0), (1, *NCA_SHAPE, CHANNELS))

    def step(parameters: Any, state: Any) -> Any:
        perceive, update = nnx.merge(definition, parameters, others)
        return update(state, perceive(state), None)

    forward = jax.jit(step)
    both = jax.jit(jax.value_and_grad(lambda *given: step(*given).sum(), argnums=(0, 1)))
    calls = {
        "forward cax nca": lambda: jax.block_until_ready(forward(parameters, state)),
        "forward+backward cax nca": lambda: jax.block_until_ready(both(parameters, state)),
    }
    taken = timed(calls, repeats, time.perf_counter)
    return [_row(name, NCA_SHAPE, 1, taken[name], os.cpu_count() or 1) for name in calls]


def compare(repeats: int, settings: PlasticitySection, told: Callable[[str], object]) -> tuple[list[Row], list[str]]:
    """Times both libraries.  Returns (rows, remarks).  A library that is not installed gets a remark and no row.

    `told` is called with a line before each measurement.
    """
    rows: list[Any] = []
    remarks: list[str] = []
    for library, measure in (("spikingjelly", lambda: [stdp_layer(repeats, settings)]), ("cax", lambda: automaton(repeats))):
        told(f"comparing with {library}")
        try:
            rows += measure()
        except ImportError as error:
            remarks.append(f"{library}: not compared, {error}; `{INSTALL[library]}` adds it")
    return rows, remarks


def _row(name: str, shape: tuple[int, int, int], batch: int, taken: list[float], threads: int | None = None) -> Row:
    median = statistics.median(taken)
    return Row(
        name=name,
        shape=shape,
        batch=batch,
        threads=threads or torch.get_num_threads(),
        ns_per_cell=1e9 * median / (shape[0] * shape[1] * shape[2]),
        speedup=None,
        copy_gbps=copy_rate(3) / 1e9,
        floor_ratio=None,
        median=median,
        min=min(taken),
        max=max(taken),
    )
