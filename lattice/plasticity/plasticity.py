"""Plasticity of a lattice: watches a few sentences go through, and changes connections by what their two cells did.

    begin(pattern)                  before a step: forget the last one; which connections there are
    observe(tick, state, final)     from lattice.kernels.propagate: the state before tick 0, 1, ..., and after the last
    signal(tick, grad, state)       from its backward: the state before `tick` and dL/d(state after it)
    update(weights, rate)           after the optimizer step, once, however many micro-batches there were

A cell fires in a tick when its state changes by more than its threshold (RMS over channels); the input face fires when it is
first driven.  A message takes a tick, so two cells that fire in the same one are no causal pair.  Traces start at zero for
every sentence and count ticks.  What is summed is divided by the sentences observed, so that a rate means the same whatever
the batch.  Connections of negative sign learn with the opposite sign: what agrees with a connection's effect strengthens it.
A pruned lattice costs sums and work for the connections that it has.
"""

from __future__ import annotations

import functools
import math
import time
from dataclasses import dataclass
from typing import Any

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
from presets.schema import Plasticity as Settings
from presets.topology import Topology, hops_from

LEAST_THRESHOLD, MOST_THRESHOLD = 1e-4, 10.0
"""Bounds of homeostasis on the firing threshold; states lie within -1..1 but for the driven face."""

FIRING_STEPS = 20.0
"""Steps over which a cell's firing rate is averaged."""

BUSY = 0.98
"""Share of the firings that are possible above which timing is taken to say nothing."""


@dataclass
class Tally:
    """What happened since the last report."""

    updates: int = 0
    events: int = 0
    """Firings observed, of `chances`."""
    chances: int = 0
    reached: int = 0
    """Chances of cells that what enters can have reached by then."""
    done: int = 0
    """Products of two tiles computed, of `possible`."""
    possible: int = 0
    potentiated: int = 0
    """Connections whose magnitude the last update raised."""
    depressed: int = 0
    connections: int = 0
    """That exist and are not pruned, at the last update."""
    changes: float = 0.0
    """Sum over updates of the mean |dw|."""
    spoilt: int = 0
    """Sentences left out because a state of their micro-batch was not finite."""
    seconds: float = 0.0
    """Taken by watching, products and updates."""


class Plasticity(nn.Module):
    """State of the rules, saved with the model: `theta`, `firing`, `threshold`, all [X, Y, Z]."""

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
        """Goes on with edited settings; thresholds that homeostasis moved keep their ratio to `threshold`."""
        self.settings = settings
        self.stdp = rules.STDP(
            A_plus=settings.A_plus, A_minus=settings.A_minus, tau_plus=settings.tau_plus, tau_minus=settings.tau_minus,
            w_min=settings.w_min, w_max=settings.w_max, mu=settings.mu, coincidence=False,
        )  # fmt: skip
        if threshold != self.start:
            self.threshold.mul_(threshold / self.start).clamp_(LEAST_THRESHOLD, MOST_THRESHOLD)
            self.start = threshold

    @property
    def _heard(self) -> slice:
        """The layers of x that the middle one hears from."""
        size, reach = self.topology.shape[0], max(abs(dx) for dx, _, _ in self.topology.offsets)
        middle = size // 2
        wraps = self.topology.boundary == "periodic" and (middle < reach or middle + reach >= size)
        return slice(0, size) if wraps else slice(max(0, middle - reach), min(size, middle + reach + 1))

    # Watching

    def begin(self, pattern: Pattern | None = None) -> None:
        """A new step: what was seen before is forgotten.  Without a pattern all K connections are there."""
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
        """The state [B, X, Y, C, Z] before `tick` (from 0), or after the last tick where `final`.

        It is kept until the next one comes, and must not be written to meanwhile.
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
            # All of them: a kernel may read beside a sentence's states, where a weight of zero does not stop a NaN.
            self._tally.spoilt += self._watching
            self._watching = 0
        elif final:
            self._finish(self._last if self._last is not None else torch.zeros_like(now), now)
        self._last = now
        if final:
            self._last, self._spikes = None, []
        self._tally.seconds += time.perf_counter() - clock

    def _finish(self, before: torch.Tensor, last: torch.Tensor) -> None:
        """All ticks of this micro-batch were seen: adds its products.  States as in `observe`."""
        tally, (size, width, depth), ticks = self._tally, self.topology.shape, len(self._spikes)
        self._seen += len(last)
        if self._probe is None:
            self._probe = before[:1, self._heard].to(torch.float32, copy=True)
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

    def _ever_fired(self) -> torch.Tensor:
        """bool [B, X, Y, Z]: in any tick of this micro-batch."""
        return functools.reduce(torch.logical_or, self._spikes)

    def _add(self, pre: torch.Tensor, post: torch.Tensor) -> None:
        """Adds the products of two fields [b, X, Y, M, Z] to the only sum."""
        self._count(products(pre, post, self.topology, self._sum(0), self.settings.quiet, self._pattern))

    def _sum(self, number: int) -> torch.Tensor:
        """[kept, X, Y, Z], zero at first."""
        if number == len(self._sums):
            kept = len(self.topology.offsets) if self._pattern is None else self._pattern.kept
            self._sums.append(pages.zeros((kept, *self.topology.shape), device=self.theta.device))
        return self._sums[number]

    def _count(self, work: Work) -> None:
        self._tally.done += work.done
        self._tally.possible += work.possible

    @torch.no_grad()
    def signal(self, tick: int, grad: torch.Tensor, state: torch.Tensor) -> None:
        """From the backward, last tick first: dL/d(state after `tick`) and the state before it, both [B, X, Y, C, Z].

        three_factor only.  The eligibility of a connection, its presynaptic state decaying with tau_e, meets the signal of
        the postsynaptic cell; summed backwards in time it is the signal that decays, which needs no stored states.
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
    def update(self, weights: torch.Tensor, rate: float) -> None:
        """Changes `weights` [kept, X, Y, Z] in place by what was seen since `begin`, times `rate`.

        Those that lead over a wall stay as they are.
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
        learned = learn(weights, self._wish(squares, rate), won, settings, self.topology, self._pattern)
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
        """The change of |w| that the rule asks for; squares: the mean over sentences of a cell's activity squared."""
        share = rate / self._seen
        match self.settings.rule:
            case "stdp":
                return Wish(self._sums, share, stdp=self.stdp)
            case "bcm":
                return Wish(self._sums, share / self.channels)
            case "oja":
                return Wish(self._sums, share / self.channels, decay=rate * squares)
            case _:
                # Relative to the signal's own size: neither batch nor loss scale matters, and a rate of 1 moves |w| by
                # about 1, as it does in the other rules.
                size = (self._power / max(1, self._signals)) ** 0.5
                per_sentence = self._signals / (self._seen * self.topology.cells)
                return Wish(self._sums, share / (size * per_sentence) if size > 0 else 0.0)

    def _change_of_message(self, rows: slice, before: torch.Tensor, after: torch.Tensor) -> float:
        """|m' - m| / |m| of the normalised messages to the cells in `rows` of x of one sentence, in the last tick, under two
        sets of their connections [kept, rows, Y, Z]."""
        probe = self._probe
        assert probe is not None, "there is one as soon as a sentence was seen"
        if self._pattern is not None:
            before, after = (self._pattern.rows(rows).expand(weights) for weights in (before, after))
        old, new = (normalised(message(probe, weights, self.topology, rows, self._heard.start)) for weights in (before, after))
        return float((new - old).norm() / old.norm().clamp(min=1e-12))

    @torch.no_grad()
    def report(self) -> dict[str, Any] | None:
        """What happened since the last report, as the fields of monitors.events.Plastic; None where nothing did."""
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
        """Since the last report (almost) every cell fired in every tick from the first that it could: timing says nothing."""
        return self._tally.events >= BUSY * self._tally.reached > 0


def normalised(message: torch.Tensor) -> torch.Tensor:
    """The message norm of a tick: [B, X, Y, C, Z] divided by its RMS over channels."""
    return message * torch.rsqrt(message.square().mean(dim=3, keepdim=True) + NORM_EPSILON)


def quantiles(values: torch.Tensor) -> list[float]:
    """Minimum, quartiles and maximum."""
    ordered = values.flatten().sort().values
    return [float(ordered[round(share * (len(ordered) - 1))]) for share in (0, 0.25, 0.5, 0.75, 1)]
