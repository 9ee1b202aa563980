"""Plasticity of a lattice: watches a few sentences go through, and changes connections by what their two cells did.

    begin(sentences)                before a step: forget the last one
    observe(tick, state)            from lattice.kernels.propagate: the state before tick 0, 1, ..., and after the last
    signal(tick, grad, state)       from its backward: the state before `tick` and dL/d(state after it)
    update(weights, mask, rate)     after the optimizer step, once, however many micro-batches there were

A cell fires in a tick when its state changes by more than its threshold (RMS over channels); the input face fires when it is
first driven.  A message takes a tick, so two cells that fire in the same one are no causal pair.  Traces start at zero for
every sentence and count ticks.  What is summed is divided by the sentences observed, so that a rate means the same whatever
the batch.  Connections of negative sign learn with the opposite sign: what agrees with a connection's effect strengthens it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from lattice.kernels import reference
from lattice.kernels.propagate import NORM_EPSILON
from lattice.plasticity import competition, rules
from lattice.plasticity.products import present, products
from presets.schema import Plasticity as Settings
from presets.topology import Topology

LEAST_THRESHOLD, MOST_THRESHOLD = 1e-4, 10.0
"""Bounds of homeostasis on the firing threshold; states lie within -1..1 but for the driven face."""

FIRING_STEPS = 20.0
"""Steps over which a cell's firing rate is averaged."""


@dataclass
class Tally:
    """What happened since the last report; counts of connections are of the summed change over these updates."""

    updates: int = 0
    events: int = 0
    """Firings observed, and how many there could have been."""
    chances: int = 0
    work: int = 0
    """Tiles of products with an event on both sides, and all of them."""
    all_work: int = 0
    spoilt: int = 0
    """Sentences left out because a state was not finite."""


class Plasticity(nn.Module):
    """State of the rules, saved with the model: `theta`, `firing`, `threshold`, all [X, Y, Z]."""

    theta: torch.Tensor
    firing: torch.Tensor
    threshold: torch.Tensor

    def __init__(self, settings: Settings, topology: Topology, threshold: float) -> None:
        super().__init__()
        self.settings, self.topology = settings, topology
        self.register_buffer("theta", torch.zeros(topology.shape))
        self.register_buffer("firing", torch.full(topology.shape, settings.target_rate))
        self.register_buffer("threshold", torch.full(topology.shape, threshold))
        self.stdp = rules.STDP(
            A_plus=settings.A_plus, A_minus=settings.A_minus, tau_plus=settings.tau_plus, tau_minus=settings.tau_minus,
            w_min=settings.w_min, w_max=settings.w_max, mu=settings.mu, coincidence=False,
        )  # fmt: skip
        self.tally = Tally()
        self.changed: torch.Tensor | None = None
        """Change of |w| [K, X, Y, Z] summed since the last report."""
        self.begin()

    # Watching

    def begin(self) -> None:
        """A new step: what was seen before is forgotten."""
        self._left, self._seen = self.settings.sentences, 0
        self._fired = torch.zeros_like(self.theta)
        self._ticks = 0
        self._activity = torch.zeros_like(self.theta)
        self._squares = torch.zeros_like(self.theta)
        self._sums: list[torch.Tensor] = []
        self._watching = 0
        self._last: torch.Tensor | None = None
        self._spikes: list[torch.Tensor] = []
        self._credit: torch.Tensor | None = None

    @torch.no_grad()
    def observe(self, tick: int, state: torch.Tensor, final: bool) -> None:
        """The state [B, X, Y, C, Z] before `tick` (from 0), or after the last tick where `final`."""
        if tick == 0:
            self._watching = min(self._left, len(state))
            self._left -= self._watching
            self._last, self._spikes = None, []
        if not self._watching:
            return
        now = state[: self._watching].float()
        change = now if self._last is None else now - self._last
        self._spikes.append(change.square().mean(3).sqrt() > self.threshold)
        if final:
            self._finish(self._last if self._last is not None else torch.zeros_like(now), now)
        self._last = now.clone() if not final else None

    def _finish(self, before: torch.Tensor, last: torch.Tensor) -> None:
        """All ticks of this micro-batch were seen: adds its products."""
        good = torch.isfinite(last).flatten(1).all(1)
        self.tally.spoilt += int((~good).sum())
        spikes = torch.stack(self._spikes)[:, good].float()
        before, last = before[good], last[good]
        if len(last) == 0:
            return
        self._seen += len(last)
        self._fired += spikes.sum((0, 1))
        self._ticks += spikes.shape[0] * spikes.shape[1]
        self.tally.events += int(spikes.sum())
        self.tally.chances += spikes.numel()
        activity = last.square().mean(3).sqrt()
        self._activity += activity.sum(0)
        self._squares += activity.square().sum(0)
        rule = self.settings.rule
        if rule == "stdp":
            self._add(*self._stdp_products(spikes))
        elif rule == "bcm":
            # Post enters as y * (y - theta) times its direction, so that one product serves all samples.
            self._add(self._products(_by_channel(before), _by_channel(last * (activity - self.theta)[:, :, :, None])))
        elif rule == "oja":
            self._add(self._products(_by_channel(before), _by_channel(last)))

    def _stdp_products(self, spikes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Σ over samples and ticks of pre_trace · post spike and of post_trace · pre spike; spikes [T + 1, B, X, Y, Z]."""
        pre_trace, post_trace = torch.zeros_like(spikes), torch.zeros_like(spikes)
        for tick in range(1, len(spikes)):
            pre_trace[tick] = rules.decayed(pre_trace[tick - 1] + spikes[tick - 1], self.stdp.tau_plus)
            post_trace[tick] = rules.decayed(post_trace[tick - 1] + spikes[tick - 1], self.stdp.tau_minus)
        flat = spikes.flatten(0, 1)
        return self._products(pre_trace.flatten(0, 1), flat), self._products(flat, post_trace.flatten(0, 1))

    def _products(self, pre: torch.Tensor, post: torch.Tensor) -> torch.Tensor:
        return products(pre, post, self.topology)

    def _add(self, *sums: torch.Tensor) -> None:
        self._sums = [a + b for a, b in zip(self._sums, sums, strict=True)] if self._sums else list(sums)

    @torch.no_grad()
    def signal(self, grad: torch.Tensor, state: torch.Tensor) -> None:
        """From the backward, last tick first: dL/d(state after the tick) and the state before it, both [B, X, Y, C, Z].

        three_factor only.  The eligibility of a connection, its presynaptic state decaying with tau_e, meets the signal of
        the postsynaptic cell; summed backwards in time it is the signal that decays, which needs no stored states.
        """
        if self.settings.rule != "three_factor" or not self._watching:
            return
        now = -grad[: self._watching].float()
        credit = self._credit
        self._credit = now if credit is None else rules.eligibility_step(credit, now, self.settings.tau_e)
        self._add(self._products(_by_channel(state[: self._watching].float()), _by_channel(self._credit)))

    def signals_end(self) -> None:
        """The backward of this micro-batch is through."""
        self._credit = None

    # Learning

    @torch.no_grad()
    def update(self, weights: torch.Tensor, mask: torch.Tensor | None, rate: float) -> None:
        """Changes `weights` [K, X, Y, Z] in place by what was seen since `begin`, times `rate`; pruned ones stay as they are."""
        if not self._seen:
            return
        settings = self.settings
        activity, squares = self._activity / self._seen, self._squares / self._seen
        exists = present(self.topology, weights.device)
        if mask is not None:
            exists &= mask
        magnitude, sign = weights.abs(), torch.where(torch.signbit(weights), -1.0, 1.0)
        wish = self._wish(magnitude, sign, squares) * rate
        if settings.winners:
            won = competition.winners_in_blocks(activity, settings.neighbourhood, settings.winners)
            wish = competition.competitive_change(wish, won, settings.inhibition)
        moved = rules.bounded(magnitude, wish * exists, settings.w_min, settings.w_max)
        if settings.conserve:
            total = (magnitude * exists).sum(0)
            moved = competition.conserved(moved, total, settings.w_min, settings.w_max, present=exists)
        moved = torch.where(exists, moved, magnitude)
        weights.copy_(rules.with_sign(moved, weights))
        self.changed = moved - magnitude if self.changed is None else self.changed.add_(moved - magnitude)
        self.theta.copy_(rules.bcm_theta(self.theta, squares.sqrt(), settings.tau_theta))
        self.firing.copy_(rules.running_mean(self.firing, self._fired / self._ticks, FIRING_STEPS))
        if settings.homeostasis:
            self.threshold.copy_(
                rules.homeostatic_threshold(
                    self.threshold, self.firing, settings.target_rate, settings.homeostasis, LEAST_THRESHOLD, MOST_THRESHOLD
                )
            )
        self.tally.updates += 1

    def _wish(self, magnitude: torch.Tensor, sign: torch.Tensor, squares: torch.Tensor) -> torch.Tensor:
        """The change of |w| that the rule asks for at rate 1."""
        sums = [total / self._seen for total in self._sums]
        match self.settings.rule:
            case "stdp":
                excitatory = sign > 0
                causal, acausal = torch.where(excitatory, sums[0], sums[1]), torch.where(excitatory, sums[1], sums[0])
                weaker = rules.depressed(magnitude, acausal, self.stdp)
                return rules.potentiated(weaker, causal, self.stdp) - magnitude
            case "bcm":
                return sign * sums[0] / self._channels
            case "oja":
                return rules.oja_change(sign * sums[0] / self._channels, squares, magnitude, 1.0)
            case _:
                return rules.three_factor_change(sums[0], sign, 1.0)


def _by_channel(state: torch.Tensor) -> torch.Tensor:
    """[B, X, Y, C, Z] -> [B * C, X, Y, Z]."""
    return state.permute(0, 3, 1, 2, 4).flatten(0, 1)
