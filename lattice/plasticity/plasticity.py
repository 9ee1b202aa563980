"""Plasticity of a lattice: observes a few sentences per step, and changes each connection by what its two cells did.

    begin(pattern)                  before a step; forgets the last step, and takes the pattern of connections
    observe(tick, state, final)     called by lattice.kernels.propagate with the state before each tick, and after the last one
    signal(tick, grad, state)       called by its backward with the state before `tick` and dL/d(state after it)
    update(weights, rate)           once per step, after the optimizer, however many micro-batches there were

A cell fires in a tick if its state changes by more than its threshold (RMS over channels).  The input face fires when it is
first driven.  A message takes a tick, so two cells that fire in the same tick are no causal pair.  Traces start at zero in
every sentence, and time is counted in ticks.  Sums are divided by the number of sentences observed, so that a rate means the
same for every batch size.  Connections of negative sign learn with the opposite sign: what agrees with a connection's effect
strengthens it.  A pruned lattice takes sums and work only for the connections that it keeps.
"""

from __future__ import annotations

import functools
import math
import time
from dataclasses import dataclass
from typing import Any, assert_never

import torch
from torch import nn

from lattice.kernels import pages
from lattice.kernels.kernel import NORM_EPSILON
from lattice.kernels.sparse import Pattern
from lattice.plasticity import competition, rules
from lattice.plasticity.pairs import pairs
from lattice.plasticity.products import Work, message, products
from lattice.plasticity.slabs import slabs
from lattice.plasticity.spikes import spikes
from lattice.plasticity.update import Wish, learn
from presets.plasticity_section import PlasticitySection as Settings
from presets.topology import Topology, hops_from

LEAST_THRESHOLD, MOST_THRESHOLD = 1e-4, 10.0
"""Bounds of the firing threshold under homeostasis; states lie within -1..1, except on the driven face."""

FIRING_STEPS = 20.0
"""Steps over which a cell's firing rate is averaged."""

BUSY = 0.98
"""Share of cells and ticks.  If cells fire in more of them, the timing of their firing is taken to say nothing."""


@dataclass
class Tally:
    """Counts since the last report."""

    updates: int = 0
    events: int = 0
    """Times that a cell fired."""
    chances: int = 0
    """Times that a cell could fire: cells x ticks x sentences."""
    reached: int = 0
    """The part of `chances` in which the input can have reached the cell."""
    done: int = 0
    """Products of two tiles that were computed."""
    possible: int = 0
    """Products of two tiles that there were."""
    potentiated: int = 0
    """Connections whose magnitude the last update raised."""
    depressed: int = 0
    """Connections whose magnitude the last update lowered."""
    connections: int = 0
    """Connections at the last update, without pruned ones and those over a wall."""
    changes: float = 0.0
    """Sum over updates of the mean |dw|."""
    spoilt: int = 0
    """Sentences left out because a state of their micro-batch was not finite."""
    seconds: float = 0.0
    """Time spent in this class, with its products and updates."""


class Plasticity(nn.Module):
    """The rule of a lattice with its state, which is saved with the model: `theta`, `firing`, `threshold`, all [X, Y, Z]."""

    theta: torch.Tensor
    firing: torch.Tensor
    threshold: torch.Tensor

    def __init__(self, settings: Settings, topology: Topology, channels: int, threshold: float) -> None:
        super().__init__()
        self.topology, self.channels, self.start = topology, channels, threshold
        self.register_buffer("theta", torch.zeros(topology.shape))
        self.register_buffer("firing", torch.full(topology.shape, settings.target_rate))
        self.register_buffer("threshold", torch.full(topology.shape, threshold))
        self.configure(settings, threshold)
        self._tally = Tally()
        self._message_change: float | None = None
        self.begin()

    @torch.no_grad()
    def configure(self, settings: Settings, threshold: float) -> None:
        """Goes on with other settings.  Thresholds that homeostasis has moved keep their ratio to `threshold`."""
        self.settings = settings
        self.stdp = rules.STDP(
            A_plus=settings.A_plus, A_minus=settings.A_minus, tau_plus=settings.tau_plus, tau_minus=settings.tau_minus,
            w_min=settings.w_min, w_max=settings.w_max, mu=settings.mu, coincidence=False,
        )  # fmt: skip
        if threshold != self.start:
            self.threshold.mul_(threshold / self.start).clamp_(LEAST_THRESHOLD, MOST_THRESHOLD)
            self.start = threshold

    @property
    def _read_by_middle(self) -> slice:
        """The layers of x that cells in the middle layer read."""
        size, reach = self.topology.shape[0], max(abs(dx) for dx, _, _ in self.topology.offsets)
        middle = size // 2
        wraps = self.topology.boundary == "periodic" and (middle < reach or middle + reach >= size)
        return slice(0, size) if wraps else slice(max(0, middle - reach), min(size, middle + reach + 1))

    # Watching

    def begin(self, pattern: Pattern | None = None) -> None:
        """Begins a step and forgets the last one.  Without a pattern, every cell has all K connections."""
        self._pattern = pattern
        self._left, self._seen = self.settings.sentences, 0
        self._fired = torch.zeros_like(self.theta)
        self._ticks = 0
        self._activity = torch.zeros_like(self.theta)
        self._squares = torch.zeros_like(self.theta)
        self._sums: list[torch.Tensor] = []
        self._probe: torch.Tensor | None = None
        self._watching = 0
        self._last: torch.Tensor | None = None
        self._spikes: list[torch.Tensor] = []
        self._credit: torch.Tensor | None = None
        self._power, self._signals = 0.0, 0

    @torch.no_grad()
    def observe(self, tick: int, state: torch.Tensor, final: bool) -> None:
        """Takes the state [B, X, Y, C, Z] before `tick` (from 0), or if `final` the one after the last tick.

        The state is kept until the next call, and must not be written to meanwhile.
        """
        if tick == 0:
            self._watching = min(self._left, len(state))
            self._left -= self._watching
            self._last, self._spikes = None, []
        if not self._watching:
            return
        clock = time.perf_counter()
        now = state[: self._watching].detach()
        self._spikes.append(spikes(now, self._last, self.threshold))
        if final and not all(map(math.isfinite, torch.aminmax(state))):
            # All sentences: a kernel may read past the end of a sentence's states, and a weight of zero does not stop a NaN.
            self._tally.spoilt += self._watching
            self._watching = 0
        elif final:
            self._finish(self._last if self._last is not None else torch.zeros_like(now), now)
        self._last = now
        if final:
            self._last, self._spikes = None, []
        self._tally.seconds += time.perf_counter() - clock

    def _finish(self, before: torch.Tensor, last: torch.Tensor) -> None:
        """Adds the products of a micro-batch whose ticks were all observed.  States are as in `observe`."""
        tally, (size, width, depth), ticks = self._tally, self.topology.shape, len(self._spikes)
        self._seen += len(last)
        if self._probe is None:
            self._probe = before[:1, self._read_by_middle].to(torch.float32, copy=True)
        activity = torch.empty(len(last), *self.topology.shape, device=last.device)
        for rows in slabs(size, len(last) * width * depth * max(self.channels, ticks)):
            activity[:, rows] = last[:, rows].float().square().mean(3).sqrt()
            fired = torch.stack([spikes[:, rows] for spikes in self._spikes]).float()
            self._fired[rows] += fired.sum((0, 1))
            tally.events += int(fired.sum())
        self._activity += activity.sum(0)
        self._squares += activity.square().sum(0)
        self._ticks += len(last) * ticks
        tally.chances += activity.numel() * ticks
        hops = hops_from(0, depth, self.topology.strides[2])
        tally.reached += activity.numel() // depth * sum(max(0, ticks - far) for far in hops)
        # A cell that never fired in a sentence learns nothing from it by the rules of rates.
        match self.settings.rule:
            case "stdp":
                sums = [self._sum(0), self._sum(1)]
                self._count(pairs(self._spikes, self.stdp, self.topology, sums, self.settings.quiet, self._pattern))
            case "bcm":
                # Post enters as y * (y - theta) along its direction, so that one product serves all samples.
                weight = self._ever_fired() * (activity - self.theta)
                self._add(before.float(), last * weight[:, :, :, None])
            case "oja":
                self._add(before.float(), last.float() * self._ever_fired()[:, :, :, None])
            case "three_factor":
                pass  # it adds up in the backward (`signal`)
            case unknown:
                assert_never(unknown)

    def _ever_fired(self) -> torch.Tensor:
        """Whether each cell fired in any tick of its sentence, bool [B, X, Y, Z]."""
        return functools.reduce(torch.logical_or, self._spikes)

    def _add(self, pre: torch.Tensor, post: torch.Tensor) -> None:
        """Adds the products of two fields [b, X, Y, M, Z] to the only sum."""
        self._count(products(pre, post, self.topology, self._sum(0), self.settings.quiet, self._pattern))

    def _sum(self, number: int) -> torch.Tensor:
        """The sum of that number [kept, X, Y, Z], which is zero at first."""
        if number == len(self._sums):
            kept = len(self.topology.offsets) if self._pattern is None else self._pattern.kept
            self._sums.append(pages.zeros((kept, *self.topology.shape), device=self.theta.device))
        return self._sums[number]

    def _count(self, work: Work) -> None:
        self._tally.done += work.done
        self._tally.possible += work.possible

    @torch.no_grad()
    def signal(self, tick: int, grad: torch.Tensor, state: torch.Tensor) -> None:
        """Takes dL/d(state after `tick`) and the state before it, both [B, X, Y, C, Z].  The last tick comes first.

        Only the rule three_factor uses it.  There the eligibility of a connection, its presynaptic state decaying with tau_e,
        is multiplied by the signal of the postsynaptic cell.  Summed backwards in time, it is the signal that decays instead,
        and no states have to be stored.
        """
        if self.settings.rule != "three_factor" or not self._watching:
            return
        clock = time.perf_counter()
        now, credit = -grad[: self._watching].float(), self._credit
        self._power += float(now.double().square().sum())
        self._signals += now.numel()
        self._credit = now if credit is None else rules.eligibility_step(credit, now, self.settings.tau_e)
        self._add(state[: self._watching].detach().float(), self._credit)
        if tick == 0:
            self._credit = None
        self._tally.seconds += time.perf_counter() - clock

    # Learning

    @torch.no_grad()
    def update(self, weights: torch.Tensor, rate: float, only: torch.Tensor | None = None) -> None:
        """Changes `weights` [kept, X, Y, Z] in place by what was observed since `begin`, times `rate`.

        Weights of connections over a wall stay as they are.  So do those that `only` (bool [kept, X, Y, Z]) does not mark.
        """
        if not self._seen or not self._sums:
            return
        clock, settings = time.perf_counter(), self.settings
        activity, squares = self._activity / self._seen, self._squares / self._seen
        won = None
        if settings.winners:
            won = competition.winners_in_blocks(activity, settings.neighbourhood, settings.winners)
        middle = self.topology.shape[0] // 2
        layer = slice(middle, middle + 1)
        before = weights[:, layer].clone() if self._message_change is None else None
        learned = learn(weights, self._wish(squares, rate), won, settings, self.topology, self._pattern, only)
        if before is not None:
            self._message_change = self._change_of_message(layer, before, weights[:, layer])
        tally = self._tally
        tally.potentiated, tally.depressed, tally.connections = learned.potentiated, learned.depressed, learned.connections
        tally.changes += learned.moved / max(1, learned.connections)
        self.theta.copy_(rules.bcm_theta(self.theta, squares.sqrt(), settings.tau_theta))
        self.firing.copy_(rules.running_mean(self.firing, self._fired / self._ticks, FIRING_STEPS))
        if settings.homeostasis:
            self.threshold.copy_(
                rules.homeostatic_threshold(
                    self.threshold, self.firing, settings.target_rate, settings.homeostasis, LEAST_THRESHOLD, MOST_THRESHOLD
                )
            )
        tally.updates += 1
        tally.seconds += time.perf_counter() - clock

    def _wish(self, squares: torch.Tensor, rate: float) -> Wish:
        """The change of |w| that the rule asks for.  squares [X, Y, Z]: a cell's squared activity, mean over sentences."""
        share = rate / self._seen
        match self.settings.rule:
            case "stdp":
                return Wish(self._sums, share, stdp=self.stdp)
            case "bcm":
                return Wish(self._sums, share / self.channels)
            case "oja":
                return Wish(self._sums, share / self.channels, decay=rate * squares)
            case "three_factor":
                # Relative to the signal's own size: neither batch nor loss scale matters, and a rate of 1 moves |w| by
                # about 1, as it does in the other rules.
                size = (self._power / max(1, self._signals)) ** 0.5
                per_sentence = self._signals / (self._seen * self.topology.cells)
                return Wish(self._sums, share / (size * per_sentence) if size > 0 else 0.0)
            case unknown:
                assert_never(unknown)

    def _change_of_message(self, rows: slice, before: torch.Tensor, after: torch.Tensor) -> float:
        """The relative change |m' - m| / |m| of the messages m when weights [kept, rows, Y, Z] change from `before` to `after`.

        Messages are the normalised ones to the cells in `rows` of x, of one sentence in its last tick.
        """
        probe = self._probe
        assert probe is not None, "there is one as soon as a sentence was seen"
        if self._pattern is not None:
            before, after = (self._pattern.rows(rows).expand(weights) for weights in (before, after))
        layers = self._read_by_middle
        old, new = (normalised(message(probe, weights, self.topology, rows, layers.start)) for weights in (before, after))
        return float((new - old).norm() / old.norm().clamp(min=1e-12))

    @property
    def silent(self) -> torch.Tensor:
        """The cells that did not fire since `begin`, bool [X, Y, Z]."""
        return self._fired == 0

    @torch.no_grad()
    def report(self) -> dict[str, Any] | None:
        """The fields of monitors.events.Plastic since the last report; None if there was no update."""
        tally = self._tally
        if not tally.updates:
            return None
        fields = {
            "updates": tally.updates,
            "potentiated": tally.potentiated,
            "depressed": tally.depressed,
            "unchanged": tally.connections - tally.potentiated - tally.depressed,
            "active_share": tally.events / max(1, tally.chances),
            "theta": tuple(quantiles(self.theta)),
            "mean_change": tally.changes / tally.updates,
            "message_change": self._message_change,
            "skipped_share": 1 - tally.done / max(1, tally.possible),
            "seconds": tally.seconds,
        }
        self._tally, self._message_change = Tally(), None
        return fields

    @property
    def spoilt(self) -> int:
        """Sentences left out since the last report, because a state of their micro-batch was not finite."""
        return self._tally.spoilt

    @property
    def busy(self) -> bool:
        """Whether almost every cell fired in every tick in which it could since the last report; then timing says nothing."""
        return self._tally.events >= BUSY * self._tally.reached > 0


def normalised(message: torch.Tensor) -> torch.Tensor:
    """The message norm of a tick: [B, X, Y, C, Z] divided by its RMS over channels."""
    return message * torch.rsqrt(message.square().mean(dim=3, keepdim=True) + NORM_EPSILON)


def quantiles(values: torch.Tensor) -> list[float]:
    """Minimum, quartiles and maximum."""
    ordered = values.flatten().sort().values
    return [float(ordered[round(share * (len(ordered) - 1))]) for share in (0, 0.25, 0.5, 0.75, 1)]
