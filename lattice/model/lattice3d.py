"""The lattice as a torch module: connections, cell parameters, and the ticks.

Dimensions of tensors: B batch, X Y Z cells, C channels, K offsets.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lattice.kernels import Functional, TickOptions, propagate
from lattice.kernels.chance import CERTAIN, Chance
from lattice.kernels.kernel import NORM_EPSILON
from lattice.kernels.propagate import Kernel
from lattice.kernels.sparse import Pattern, moved
from lattice.model.cell_rule import CellRule
from lattice.plasticity.plasticity import Plasticity
from presets.schema import Connections
from presets.topology import Topology

STATE_GAIN, MESSAGE_GAIN, CELL_NOISE = 0.5, 0.25, 0.02
"""Starting values of a_h and b_h, and the standard deviation of the noise on all cell parameters.

They are so small that tanh hardly distorts the signal of a fresh lattice.
"""

PASS_GATE, PASS_GAIN = 4.0, 1.0
"""Starting values of c_z and b_h in channels that pass: 98 % of the new state is what the message says."""


def initial_weights(topology: Topology, start: Connections, generator: torch.Generator) -> torch.Tensor:
    """Starting weights [K, X, Y, Z]: noise of variance noise^2 / 26, plus biases on offsets straight towards the input face.

    An excitatory lattice takes the absolute values of these.
    """
    weights = torch.randn(len(topology.offsets), *topology.shape, generator=generator) * (start.noise / 26**0.5)
    for k, (dx, dy, dz) in enumerate(topology.offsets):
        if dx == dy == 0 and dz < 0:
            weights[k] += start.bias_local if dz == -1 else start.bias_distant
    return weights.abs() if start.excitatory else weights


def initial_cells(
    shape: tuple[int, int, int],
    channels: int,
    generator: torch.Generator,
    port_channels: int | None = None,
    memory_ticks: float = 1.0,
    ports_pass: bool = False,
) -> torch.Tensor:
    """Starting cell parameters [6, X, Y, C, Z]: a_h and b_h at their gains, the others at 0, all with a little noise.

    The noise makes every cell different.  If `ports_pass`, the first `port_channels` channels (None = all) start as a delay
    line instead: in every tick they forget their state and take their message.  The gates of the channels from `port_channels`
    on start with time constants between 1 and `memory_ticks` ticks: c_z = -log(1 + u (memory_ticks - 1)), u uniform per channel
    (chrono initialisation, Tallec & Ollivier 2018, arXiv 1804.11188, for a gate that lets the new value in).
    """
    x, y, z = shape
    cells = torch.randn(6, x, y, channels, z, generator=generator) * CELL_NOISE
    cells[3] += STATE_GAIN
    cells[4] += MESSAGE_GAIN
    if ports_pass:
        cells[2, :, :, :port_channels] += PASS_GATE
        cells[3, :, :, :port_channels] -= STATE_GAIN
        cells[4, :, :, :port_channels] += PASS_GAIN - MESSAGE_GAIN
    if memory_ticks > 1 and port_channels is not None:
        spread = torch.rand(channels - port_channels, generator=generator)
        cells[2, :, :, port_channels:] -= torch.log1p(spread * (memory_ticks - 1))[:, None]
    return cells


@dataclass(frozen=True)
class Build:
    """How a lattice is built, apart from its topology and its random numbers."""

    channels: int
    ticks: int
    start: Connections
    """The settings that say how connections start."""
    clusters: int = 0
    """Number of functional clusters; 0 = none."""
    integration: float = 0.0
    """Starting value of the gain by which cells hear the mean of their cluster; 0 = they do not hear it."""
    kernel: Kernel | None = None
    """None runs the reference."""
    rule: CellRule | None = None
    """The shared rule by which channels meet; None if there is none."""
    plasticity: Plasticity | None = None
    """The local rule that changes the connections; None if there is none."""
    segment: int = 0
    """Ticks per segment, as for `Lattice.keep_every`."""
    port_channels: int | None = None
    """Channels that ports drive and read; None if they do so with all."""
    memory_ticks: float = 1.0
    """Longest time constant at the start of the channels that no port touches, in ticks."""
    ports_pass: bool = False
    """True if the channels that ports drive and read start as a delay line."""
    epsilon: float = NORM_EPSILON
    """Added to the mean square of a message before it is normalised."""
    chance: Chance = CERTAIN
    """Which cells do not update.  It holds wherever `drawn` does not say otherwise."""
    connections_learn: bool = True
    """True if the connections learn by gradient."""
    cells_learn: bool = True
    """True if the cell parameters learn by gradient.  The gain does, too."""


class Lattice(nn.Module):
    """The lattice: connection `weights` [kept, X, Y, Z] and parameters `cells` [6, X, Y, C, Z].

    A dense lattice keeps all K offsets and has no `index`.  A pruned one has an `index` [kept, X, Y, tiles] of the offsets that
    each tile of cells keeps (lattice.kernels.sparse), and holds nothing in memory for the others.

    After a wound, `lost` (bool [kept, X, Y, Z]) marks the connections that it destroyed, until they have healed.

    With a shared rule, `rule` holds its parameters.

    With functional clusters, there are also

    - `labels` [X, Y, Z], the cluster of each cell;
    - `mean_state` [X, Y, Z, C], a running mean of the states, from which clusters are formed; zero before its first update;
    - `centroids` [clusters, C] of the last clustering; zero before the first one;
    - `gain` [X, Y, C, Z], by which cells hear the mean of their cluster; only if `integration` is above 0.
    """

    index: torch.Tensor | None
    lost: torch.Tensor | None
    labels: torch.Tensor
    mean_state: torch.Tensor
    centroids: torch.Tensor

    def __init__(self, topology: Topology, build: Build, generator: torch.Generator) -> None:
        super().__init__()
        channels, clusters = build.channels, build.clusters
        self.topology, self.channels, self.ticks, self.clusters = topology, channels, build.ticks, clusters
        self.weights = nn.Parameter(initial_weights(topology, build.start, generator), build.connections_learn)
        start = build.port_channels, build.memory_ticks, build.ports_pass
        cells = initial_cells(topology.shape, channels, generator, *start)
        self.cells = nn.Parameter(cells, build.cells_learn)
        self.kernel = build.kernel
        self.segment = build.segment
        self.epsilon, self.rule, self.chance = build.epsilon, build.rule, build.chance
        self.plasticity = build.plasticity
        self._watched = False
        self.excitatory = build.start.excitatory
        self.register_buffer("index", None)
        self.register_buffer("lost", None)
        self._pattern: Pattern | None = None
        self.gain: nn.Parameter | None = None
        x, y, z = topology.shape
        if clusters and build.integration:
            self.gain = nn.Parameter(torch.full((x, y, channels, z), build.integration), build.cells_learn)
        if clusters:
            self.register_buffer("labels", block_labels(topology.shape, clusters))
            self.register_buffer("mean_state", torch.zeros(x, y, z, channels))
            self.register_buffer("centroids", torch.zeros(clusters, channels))

    @property
    def pattern(self) -> Pattern | None:
        """Which connections there are; None if all are."""
        if self.index is None:
            return None
        if self._pattern is None or self._pattern.index is not self.index:
            self._pattern = Pattern(self.index, len(self.topology.offsets))
        return self._pattern

    @torch.no_grad()
    def dense(self) -> torch.Tensor:
        """The weights as [K, X, Y, Z], with zeros for pruned connections.  They are a copy if the lattice is pruned."""
        weights = self.weights.detach()
        return weights if self.pattern is None else self.pattern.expand(weights)

    @torch.no_grad()
    def rewire(self, pattern: Pattern | None, stream: torch.Generator) -> None:
        """Changes to another pattern (None = all connections).  Connections that are in both patterns keep their weights.

        New connections start at zero.  Zero has a sign, which plasticity keeps.  It is drawn from `stream`; in an excitatory
        lattice it is always positive.  Other tensors of connections, such as moments, must follow with
        lattice.kernels.sparse.moved.
        """
        old = self.pattern
        weights = moved(self.weights.detach(), old, pattern)
        if old is not None and not self.excitatory:
            negative = torch.randint(2, weights.shape, generator=stream, dtype=torch.uint8).bool().to(weights.device)
            kept = old.mask(weights.shape[-1])
            weights[~(kept if pattern is None else pattern.take(kept)) & negative] = -0.0
        self.become(weights, pattern)

    @torch.no_grad()
    def become(self, weights: torch.Tensor, pattern: Pattern | None) -> None:
        """Takes weights [kept, X, Y, Z] and their pattern.  The parameter stays the same object, as its optimizer holds it."""
        self.weights.grad = None
        self.weights.data = weights
        self.index = None if pattern is None else pattern.index
        self.lost = None

    def lose(self, connections: torch.Tensor | None) -> None:
        """Marks connections as lost, bool [kept, X, Y, Z]; None = none is."""
        self.lost = connections

    @contextlib.contextmanager
    def standing_in(self, weights: nn.Parameter, index: torch.Tensor) -> Iterator[None]:
        """Uses other connections within the `with` block: weights [kept, X, Y, Z], and their `index` [kept, X, Y, tiles].

        Afterwards the lattice has its own parameter again, which the optimizer holds.
        """
        own = self.weights, self.index
        self.weights, self.index = weights, index
        try:
            yield
        finally:
            self.weights, self.index = own

    def keep_every(self, segment: int) -> None:
        """Keeps one state per segment of so many ticks for the backward (lattice.kernels.propagate).  0 keeps all states."""
        self.segment = segment

    def connections_learn(self, by_gradient: bool) -> None:
        """Sets whether the connections have a gradient from here on.  Drops the present gradient."""
        self.weights.requires_grad_(by_gradient)
        self.weights.grad = None

    def use_plasticity(self, plasticity: Plasticity | None) -> None:
        """Replaces the local rule; None = there is none."""
        self.plasticity = plasticity

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Lets plasticity observe what runs through within the `with` block, so that `learn` can follow.

        Does nothing if there is no plasticity.
        """
        if self.plasticity is not None:
            self.plasticity.begin(self.pattern)
        self._watched = True
        try:
            yield
        finally:
            self._watched = False

    @contextlib.contextmanager
    def drawn(self, **changes: Any) -> Iterator[None]:
        """Changes fields of the ticks' chance (lattice.kernels.chance) within the `with` block."""
        own = self.chance
        self.chance = dataclasses.replace(own, **changes)
        try:
            yield
        finally:
            self.chance = own

    def learn(self, rate: float, only: torch.Tensor | None = None) -> None:
        """Lets plasticity change the connections by what it observed, times `rate`.

        With `only` (bool [kept, X, Y, Z]), those that are not marked stay as they are.
        """
        if self.plasticity is not None:
            self.plasticity.update(self.weights, rate, only)

    @property
    def functional(self) -> Functional | None:
        """The functional tier for the kernels; None if cells do not hear their clusters."""
        return None if self.gain is None else Functional(self.gain, self.labels, self.clusters)

    def forward(self, drive: torch.Tensor, bypass: bool = False) -> torch.Tensor:
        """Runs the ticks on a drive [B, X, Y, C].  Returns the output face [B, X, Y, C].

        `bypass` zeroes every message.  It is a control: nothing can reach the output then.
        """
        return self._ran(drive, self.ticks, bypass, face=True)

    def read_in_time(
        self, drives: torch.Tensor, lag: int, bypass: bool = False, lengths: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Runs one tick per drive [D, B, X, Y, C], and `lag` more.

        Returns the output faces [D, B, X, Y, C], each `lag` ticks after its drive.  `bypass` as for `forward`.  `lengths` [B]
        say how many of the drives belong to each sentence; without them, all do.
        """
        own = None if lengths is None else lengths + lag
        return self._ran(drives, len(drives) + lag, bypass, face=True, read_from=lag, own=own)

    def state(self, drive: torch.Tensor, ticks: int | None = None) -> torch.Tensor:
        """The whole state [B, X, Y, C, Z] after all ticks, or after only the first `ticks`.

        drive [B, X, Y, C] for all ticks, or [D, B, X, Y, C] one for each of the first D ticks.
        """
        return self._ran(drive, self.ticks if ticks is None else ticks, bypass=False, face=False)

    def _ran(
        self,
        drive: torch.Tensor,
        ticks: int,
        bypass: bool,
        face: bool,
        read_from: int | None = None,
        own: torch.Tensor | None = None,
    ) -> torch.Tensor:
        weights = torch.zeros_like(self.weights) if bypass else self.weights
        functional = None if bypass else self.functional
        observer = self.plasticity if self._watched else None
        chance = dataclasses.replace(self.chance, ticks=own)
        options = TickOptions(observer, self.segment, face, read_from, self.epsilon, chance)
        rule = None if self.rule is None else self.rule()
        return propagate(drive, weights, self.cells, self.topology, ticks, self.kernel, functional, self.pattern, options, rule)


def block_labels(shape: tuple[int, int, int], clusters: int) -> torch.Tensor:
    """Labels [X, Y, Z] of the clusters that a lattice starts with: runs of neighbouring cells, of nearly equal size."""
    x, y, z = shape
    count = x * y * z
    return (torch.arange(count) * clusters // count).view(x, y, z)
