"""The lattice as a torch module: its own weights and cell parameters, and the ports that size-free slots enter and leave by.

Tensor names: B batch, X Y Z cells, C channels, K offsets, S = G*G slots, D numbers a slot.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from lattice.kernels import Functional, Options, propagate
from lattice.kernels.propagate import Kernel
from lattice.kernels.sparse import Pattern, moved
from lattice.plasticity.plasticity import Plasticity
from presets.schema import Connections
from presets.topology import Topology

CONTROL = 3
"""Control points along each side of a patch: a slot drives its patch through 3 x 3 of them, whatever the patch's size."""

STATE_GAIN, MESSAGE_GAIN, CELL_NOISE = 0.5, 0.25, 0.02
"""Start of a_h and b_h, and the noise on all cell parameters: small enough that tanh hardly bends a fresh lattice's signal."""


def interpolation(size: int, patches: int) -> torch.Tensor:
    """[size, patches * CONTROL]: linear interpolation from each patch's control points to the cells along one axis.

    Cell i belongs to the patch it lies in; rows sum to 1.  Works for any size >= patches, divisible or not.
    """
    matrix = torch.zeros(size, patches * CONTROL)
    for i in range(size):
        patch = i * patches // size
        first, last = -(-patch * size // patches), -(-(patch + 1) * size // patches) - 1
        at = (CONTROL - 1) * (i - first) / (last - first) if last > first else (CONTROL - 1) / 2
        low = min(int(at), CONTROL - 2)
        matrix[i, patch * CONTROL + low] += 1 - (at - low)
        matrix[i, patch * CONTROL + low + 1] += at - low
    return matrix


class Port(nn.Module):
    """Slots [B, S, D] <-> one face [B, X, Y, C], through control points; carries over unchanged when the lattice grows."""

    along_x: torch.Tensor
    along_y: torch.Tensor

    def __init__(self, grid: int, channels: int, weight: torch.Tensor, inward: bool) -> None:
        """`weight` [S, D, points] is used as it is for driving, transposed for reading."""
        super().__init__()
        self.grid, self.channels = grid, channels
        slots, slot_width, points = weight.shape
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(slots, points if inward else slot_width))

    def fit(self, size_x: int, size_y: int) -> None:
        """Prepares for a face of size_x * size_y cells."""
        self.register_buffer("along_x", interpolation(size_x, self.grid).to(self.weight.device), persistent=False)
        self.register_buffer("along_y", interpolation(size_y, self.grid).to(self.weight.device), persistent=False)

    def drive(self, slots: torch.Tensor) -> torch.Tensor:
        """Slots -> what is added to the input face [B, X, Y, C]."""
        points = torch.einsum("bsd,sdp->bsp", slots, self.weight) + self.bias
        g = self.grid
        points = points.view(-1, g, g, CONTROL, CONTROL, self.channels).permute(0, 1, 3, 2, 4, 5)
        points = points.reshape(-1, g * CONTROL, g * CONTROL, self.channels)
        return torch.einsum("xi,yj,bijc->bxyc", self.along_x, self.along_y, points)

    def read(self, face: torch.Tensor) -> torch.Tensor:
        """The output face [B, X, Y, C] -> slots: each control point is the weighted mean of the cells near it."""
        # A patch of fewer than CONTROL cells leaves a control point without any; it reads zero.
        along_x, along_y = (m / m.sum(0).clamp(min=1e-6) for m in (self.along_x, self.along_y))
        g = self.grid
        points = torch.einsum("xi,yj,bxyc->bijc", along_x, along_y, face)
        points = points.view(-1, g, CONTROL, g, CONTROL, self.channels).permute(0, 1, 3, 2, 4, 5)
        points = points.reshape(-1, g * g, CONTROL * CONTROL * self.channels)
        return torch.einsum("bsp,sdp->bsd", points, self.weight) + self.bias


def transposed_ports(grid: int, slot_width: int, channels: int, generator: torch.Generator) -> tuple[Port, Port]:
    """Input and output port that start as each other's transpose with orthogonal rows, so that a transparent lattice would
    hand slots through.  (Independent random ports start ill-conditioned: a linear readout then explains 0.73 of the slots'
    variance behind a fresh 16x16x16 lattice, with these 0.88.)
    """
    points = CONTROL * CONTROL * channels
    weight = torch.empty(grid * grid, slot_width, points)
    for slot in weight:
        nn.init.orthogonal_(slot, generator=generator)
    scale = max(1.0, points / slot_width) ** 0.5
    return Port(grid, channels, weight * scale, inward=True), Port(grid, channels, weight / scale, inward=False)


def initial_weights(topology: Topology, start: Connections, generator: torch.Generator) -> torch.Tensor:
    """[K, X, Y, Z]: noise of variance noise^2 / 26, plus the biases on offsets that point straight back to the input face."""
    weights = torch.randn(len(topology.offsets), *topology.shape, generator=generator) * (start.noise / 26**0.5)
    for k, (dx, dy, dz) in enumerate(topology.offsets):
        if dx == dy == 0 and dz < 0:
            weights[k] += start.bias_local if dz == -1 else start.bias_distant
    return weights.abs() if start.excitatory else weights


def initial_cells(shape: tuple[int, int, int], channels: int, generator: torch.Generator) -> torch.Tensor:
    """[6, X, Y, C, Z]: a_h and b_h at their gains, the rest 0, each with a little noise so that no two cells are alike."""
    x, y, z = shape
    cells = torch.randn(6, x, y, channels, z, generator=generator) * CELL_NOISE
    cells[3] += STATE_GAIN
    cells[4] += MESSAGE_GAIN
    return cells


@dataclass(frozen=True)
class Build:
    """What a lattice is built as, beside its topology and its random numbers."""

    channels: int
    ticks: int
    start: Connections
    """How connections start."""
    clusters: int = 0
    """Functional clusters; 0 = none."""
    integration: float = 0.0
    """Start of the gain by which cells hear the mean of their cluster; 0 = they do not."""
    kernel: Kernel | None = None
    """None runs the reference."""
    plasticity: Plasticity | None = None
    """Changes the connections by what it observes; None if no local rule does."""
    segment: int = 0
    """As for `Lattice.keep_every`."""
    connections_learn: bool = True
    """By gradient."""
    cells_learn: bool = True
    """By gradient, and their gain too."""


class Lattice(nn.Module):
    """weights [kept, X, Y, Z] and cells [6, X, Y, C, Z].

    A dense lattice keeps all K offsets and has no `index`; a pruned one has the `index` [kept, X, Y, tiles] of the offsets
    that each tile of cells keeps (lattice.kernels.sparse), and nothing in memory for the others.

    Where there are clusters, also `labels` [X, Y, Z], and what these are formed anew by: `mean_state` [X, Y, Z, C], a running
    mean (zero before the first look), and `centroids` [clusters, C] (zero before the first fit); with an `integration` above 0,
    cells hear them by the `gain` [X, Y, C, Z].
    """

    index: torch.Tensor | None
    labels: torch.Tensor
    mean_state: torch.Tensor
    centroids: torch.Tensor

    def __init__(self, topology: Topology, build: Build, generator: torch.Generator) -> None:
        super().__init__()
        channels, clusters = build.channels, build.clusters
        self.topology, self.channels, self.ticks, self.clusters = topology, channels, build.ticks, clusters
        self.weights = nn.Parameter(initial_weights(topology, build.start, generator), build.connections_learn)
        self.cells = nn.Parameter(initial_cells(topology.shape, channels, generator), build.cells_learn)
        self.kernel = build.kernel
        self.segment = build.segment
        self.plasticity = build.plasticity
        self._watched = False
        self.excitatory = build.start.excitatory
        self.register_buffer("index", None)
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
        """Which connections there are; None where all are."""
        if self.index is None:
            return None
        if self._pattern is None or self._pattern.index is not self.index:
            self._pattern = Pattern(self.index, len(self.topology.offsets))
        return self._pattern

    @torch.no_grad()
    def dense(self) -> torch.Tensor:
        """All connections [K, X, Y, Z], zero where there is none; a copy where the lattice is pruned."""
        weights = self.weights.detach()
        return weights if self.pattern is None else self.pattern.expand(weights)

    @torch.no_grad()
    def rewire(self, pattern: Pattern | None, stream: torch.Generator) -> None:
        """Goes over to another pattern (None: all connections); the weights of both stay as they are.

        New connections start at zero.  Zero has a sign, which plasticity keeps: it is drawn from `stream`, and positive in
        an excitatory lattice.  What else belongs to connections follows with lattice.kernels.sparse.moved.
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
        """Takes these weights [kept, X, Y, Z] of this pattern.  The parameter stays the same object, for its optimizer."""
        self.weights.grad = None
        self.weights.data = weights
        self.index = None if pattern is None else pattern.index

    @contextlib.contextmanager
    def standing_in(self, weights: nn.Parameter, index: torch.Tensor) -> Iterator[None]:
        """Other connections meanwhile: weights [kept, X, Y, Z] of the pattern of `index` [kept, X, Y, tiles].

        The parameter that the optimizer knows comes back.
        """
        own = self.weights, self.index
        self.weights, self.index = weights, index
        try:
            yield
        finally:
            self.weights, self.index = own

    def keep_every(self, segment: int) -> None:
        """Of so many ticks, one state is kept for the backward (lattice.kernels.propagate); 0 = all are."""
        self.segment = segment

    def connections_learn(self, by_gradient: bool) -> None:
        """Whether the connections have a gradient from here on; the one that is there is dropped."""
        self.weights.requires_grad_(by_gradient)
        self.weights.grad = None

    def use_plasticity(self, plasticity: Plasticity | None) -> None:
        """Another local rule, or none."""
        self.plasticity = plasticity

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Plasticity observes what runs through meanwhile, for `learn`.  Nothing to do where there is none."""
        if self.plasticity is not None:
            self.plasticity.begin(self.pattern)
        self._watched = True
        try:
            yield
        finally:
            self._watched = False

    def learn(self, rate: float) -> None:
        """Plasticity changes the connections by what it saw, `rate` times."""
        if self.plasticity is not None:
            self.plasticity.update(self.weights, rate)

    @property
    def functional(self) -> Functional | None:
        return None if self.gain is None else Functional(self.gain, self.labels, self.clusters)

    def forward(self, drive: torch.Tensor, bypass: bool = False) -> torch.Tensor:
        """Drive [B, X, Y, C] -> output face [B, X, Y, C] after the ticks.

        `bypass` zeroes every message (a control: nothing may then reach the output).
        """
        return self._ran(drive, self.ticks, bypass, face=True)

    def state(self, drive: torch.Tensor, ticks: int | None = None) -> torch.Tensor:
        """The whole state [B, X, Y, C, Z] after all ticks, or after the first `ticks` of them."""
        return self._ran(drive, self.ticks if ticks is None else ticks, bypass=False, face=False)

    def _ran(self, drive: torch.Tensor, ticks: int, bypass: bool, face: bool) -> torch.Tensor:
        weights = torch.zeros_like(self.weights) if bypass else self.weights
        functional = None if bypass else self.functional
        observer = self.plasticity if self._watched else None
        options = Options(observer, self.segment, face)
        return propagate(drive, weights, self.cells, self.topology, ticks, self.kernel, functional, self.pattern, options)


def block_labels(shape: tuple[int, int, int], clusters: int) -> torch.Tensor:
    """Starting clusters [X, Y, Z], before activity has been seen: runs of neighbouring cells of nearly equal size."""
    x, y, z = shape
    count = x * y * z
    return (torch.arange(count) * clusters // count).view(x, y, z)
