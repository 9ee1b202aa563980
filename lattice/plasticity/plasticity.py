"""Plasticity of a lattice: watches a few sentences go through, and changes connections by what their two cells did.

    begin()                         before a step: forget the last one
    observe(tick, state, final)     from lattice.kernels.propagate: the state before tick 0, 1, ..., and after the last
    signal(tick, grad, state)       from its backward: the state before `tick` and dL/d(state after it)
    update(weights, mask, rate)     after the optimizer step, once, however many micro-batches there were

A cell fires in a tick when its state changes by more than its threshold (RMS over channels); the input face fires when it is
first driven.  A message takes a tick, so two cells that fire in the same one are no causal pair.  Traces start at zero for
every sentence and count ticks.  What is summed is divided by the sentences observed, so that a rate means the same whatever
the batch.  Connections of negative sign learn with the opposite sign: what agrees with a connection's effect strengthens it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from lattice.kernels import reference
from lattice.kernels.propagate import NORM_EPSILON
from lattice.kernels.sparse import TILE
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
    """What happened since the last report."""

    updates: int = 0
    events: int = 0
    """Firings observed, of `chances`."""
    chances: int = 0
    silent_tiles: int = 0
    """Runs of TILE cells in a tick of a sentence in which none fired, of `tiles`."""
    tiles: int = 0
    spoilt: int = 0
    """Sentences left out because a state was not finite."""
    seconds: float = 0.0
    """Taken by products and updates."""


class Plasticity(nn.Module):
    """State of the rules, saved with the model: `theta`, `firing`, `threshold`, all [X, Y, Z]."""

    theta: torch.Tensor
    firing: torch.Tensor
    threshold: torch.Tensor

    def __init__(self, settings: Settings, topology: Topology, channels: int, threshold: float) -> None:
        super().__init__()
        self.settings, self.topology, self.channels = settings, topology, channels
        self.register_buffer("theta", torch.zeros(topology.shape))
        self.register_buffer("firing", torch.full(topology.shape, settings.target_rate))
        self.register_buffer("threshold", torch.full(topology.shape, threshold))
        self.stdp = rules.STDP(
            A_plus=settings.A_plus, A_minus=settings.A_minus, tau_plus=settings.tau_plus, tau_minus=settings.tau_minus,
            w_min=settings.w_min, w_max=settings.w_max, mu=settings.mu, coincidence=False,
        )  # fmt: skip
        self._tally = Tally()
        self._changed: torch.Tensor | None = None  # of |w| [K, X, Y, Z], summed since the last report
        self._message_change: float | None = None
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
        clock, tally = time.perf_counter(), self._tally
        good = torch.isfinite(last).flatten(1).all(1)
        tally.spoilt += int((~good).sum())
        spikes = torch.stack(self._spikes)[:, good].float()
        before, last = before[good], last[good]
        if len(last) == 0:
            return
        self._seen += len(last)
        self._probe = before[:1]
        self._fired += spikes.sum((0, 1))
        self._ticks += spikes.shape[0] * spikes.shape[1]
        tally.events += int(spikes.sum())
        tally.chances += spikes.numel()
        activity = last.square().mean(3).sqrt()
        self._activity += activity.sum(0)
        self._squares += activity.square().sum(0)
        # A cell that never fired in a sentence learns nothing from it by the rules of rates.
        learns = spikes.amax(0)
        match self.settings.rule:
            case "stdp":
                self._add(*self._stdp_products(spikes))
                self._count_tiles(spikes.flatten(0, 1))
            case "bcm":
                # Post enters as y * (y - theta) along its direction, so that one product serves all samples.
                weight = learns * (activity - self.theta)
                self._add(self._products(_by_channel(before), _by_channel(last * weight[:, :, :, None])))
                self._count_tiles(learns)
            case "oja":
                self._add(self._products(_by_channel(before), _by_channel(last * learns[:, :, :, None])))
                self._count_tiles(learns)
        tally.seconds += time.perf_counter() - clock

    def _count_tiles(self, events: torch.Tensor) -> None:
        """events [M, X, Y, Z], 0 or 1: in how many runs of TILE cells nothing happened."""
        z = events.shape[-1]
        tiles = F.pad(events, (0, -z % TILE)).unflatten(-1, (-1, TILE)).amax(-1)
        self._tally.tiles += tiles.numel()
        self._tally.silent_tiles += int((tiles == 0).sum())

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
    def signal(self, tick: int, grad: torch.Tensor, state: torch.Tensor) -> None:
        """From the backward, last tick first: dL/d(state after `tick`) and the state before it, both [B, X, Y, C, Z].

        three_factor only.  The eligibility of a connection, its presynaptic state decaying with tau_e, meets the signal of
        the postsynaptic cell; summed backwards in time it is the signal that decays, which needs no stored states.
        """
        if self.settings.rule != "three_factor" or not self._watching:
            return
        clock = time.perf_counter()
        now, credit = -grad[: self._watching].float(), self._credit
        self._credit = now if credit is None else rules.eligibility_step(credit, now, self.settings.tau_e)
        self._add(self._products(_by_channel(state[: self._watching].float()), _by_channel(self._credit)))
        if tick == 0:
            self._credit = None
        self._tally.seconds += time.perf_counter() - clock

    # Learning

    @torch.no_grad()
    def update(self, weights: torch.Tensor, mask: torch.Tensor | None, rate: float) -> None:
        """Changes `weights` [K, X, Y, Z] in place by what was seen since `begin`, times `rate`.

        Those that are pruned (not in `mask`) or lead over a wall stay as they are.
        """
        if not self._seen:
            return
        clock, settings = time.perf_counter(), self.settings
        activity, squares = self._activity / self._seen, self._squares / self._seen
        exists = present(self.topology, weights.device)
        if mask is not None:
            exists &= mask.bool()
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
        learned = rules.with_sign(moved, weights)
        if self._message_change is None:
            self._message_change = self._change_of_message(weights, learned)
        weights.copy_(learned)
        self._changed = moved - magnitude if self._changed is None else self._changed.add_(moved - magnitude)
        self.theta.copy_(rules.bcm_theta(self.theta, squares.sqrt(), settings.tau_theta))
        self.firing.copy_(rules.running_mean(self.firing, self._fired / self._ticks, FIRING_STEPS))
        if settings.homeostasis:
            self.threshold.copy_(
                rules.homeostatic_threshold(
                    self.threshold, self.firing, settings.target_rate, settings.homeostasis, LEAST_THRESHOLD, MOST_THRESHOLD
                )
            )
        self._tally.updates += 1
        self._tally.seconds += time.perf_counter() - clock

    def _change_of_message(self, before: torch.Tensor, after: torch.Tensor) -> float:
        """|m' - m| / |m| of the normalised messages of one sentence, in the last tick, under two sets of connections."""
        old, new = (normalised(reference.message(self._probe, w, self.topology)) for w in (before, after))
        return float((new - old).norm() / old.norm().clamp(min=1e-12))

    @torch.no_grad()
    def report(self) -> dict[str, Any] | None:
        """What happened since the last report, as the fields of monitors.events.Plastic; None where nothing did."""
        tally, changed = self._tally, self._changed
        if changed is None:
            return None
        exists = present(self.topology, changed.device)
        up, down = int((changed > 0).sum()), int((changed < 0).sum())
        fields = {
            "updates": tally.updates,
            "potentiated": up,
            "depressed": down,
            "unchanged": int(exists.sum()) - up - down,
            "active_share": tally.events / max(1, tally.chances),
            "theta": tuple(quantiles(self.theta)),
            "mean_change": float(changed.abs().sum() / exists.sum()),
            "message_change": self._message_change,
            "skipped_share": tally.silent_tiles / max(1, tally.tiles),
            "seconds": tally.seconds,
        }
        self._tally, self._changed, self._message_change = Tally(), None, None
        return fields

    @property
    def spoilt(self) -> int:
        """Sentences left out since the last report, because a state was not finite."""
        return self._tally.spoilt

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
                return sign * sums[0] / self.channels
            case "oja":
                return rules.oja_change(sign * sums[0] / self.channels, squares, magnitude, 1.0)
            case _:
                return rules.three_factor_change(sums[0], sign, 1.0)


def normalised(message: torch.Tensor) -> torch.Tensor:
    """The message norm of a tick: [B, X, Y, C, Z] divided by its RMS over channels."""
    return message * torch.rsqrt(message.square().mean(dim=3, keepdim=True) + NORM_EPSILON)


def quantiles(values: torch.Tensor) -> list[float]:
    """Minimum, quartiles and maximum."""
    ordered = values.flatten().sort().values
    return [float(ordered[round(share * (len(ordered) - 1))]) for share in (0, 0.25, 0.5, 0.75, 1)]


def _by_channel(state: torch.Tensor) -> torch.Tensor:
    """[B, X, Y, C, Z] -> [B * C, X, Y, Z]."""
    return state.permute(0, 3, 1, 2, 4).flatten(0, 1)
