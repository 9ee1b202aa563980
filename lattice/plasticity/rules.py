"""Learning rules of single connections as pure functions: STDP, BCM, Oja, three-factor, homeostasis.

Nothing here knows the lattice, changes an argument or records gradients.  All operations are elementwise, so any shapes that
broadcast will do.  In the lattice, weights and statistics of connections are [K, X, Y, Z], statistics of cells [X, Y, Z].

Conventions
- Rules act on magnitudes |w|, and `with_sign` gives the sign back.
- Rules see two connected cells only through products (pre * post, trace * spike).  A product may be that of one sample, or a
  mean or sum over samples, ticks and channels.  For a connection of negative sign the caller negates it, so that what agrees
  with the connection's effect strengthens it.
- A rule returns the change that it asks for, and `bounded` applies it.  A change that is not finite is ignored.
- Time constants and `dt` are in ticks, and decay is exact: exp(-dt / tau), never 1 - dt / tau.
- The result has the dtype of the magnitude, trace, mean or threshold that is updated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch

# Magnitudes and signs


@torch.no_grad()
def bounded(magnitude: torch.Tensor, change: torch.Tensor, w_min: float, w_max: float) -> torch.Tensor:
    """clip(magnitude + change, w_min, w_max): hard bounds.  A change that is NaN or infinite counts as 0."""
    return (magnitude + _finite(change).to(magnitude.dtype)).clamp(w_min, w_max)


@torch.no_grad()
def with_sign(magnitude: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """`magnitude` with the signs of `weights`.  Zero has a sign too: a weight that fell to -0.0 regrows negative."""
    return torch.copysign(magnitude, weights.to(magnitude.dtype))


@torch.no_grad()
def apply_to_magnitude(weights: torch.Tensor, change: torch.Tensor, w_min: float, w_max: float) -> torch.Tensor:
    """Signed weights whose magnitudes moved by `change` (positive: stronger) within w_min..w_max; signs are kept."""
    return with_sign(bounded(weights.abs(), change, w_min, w_max), weights)


def _finite(values: torch.Tensor) -> torch.Tensor:
    return torch.where(torch.isfinite(values), values, 0)


# Traces and running means


@torch.no_grad()
def decayed(trace: torch.Tensor, tau: float, dt: float = 1.0) -> torch.Tensor:
    """trace * exp(-dt / tau), and 0 if tau = 0."""
    return trace * decay(tau, dt)


@torch.no_grad()
def running_mean(mean: torch.Tensor, value: torch.Tensor, tau: float, dt: float = 1.0) -> torch.Tensor:
    """mean + (1 - exp(-dt / tau)) * (value - mean), the exact solution of tau dmean/dt = value - mean for a constant value.

    If the value is not finite, the mean stays.
    """
    step = (value - mean) * (1 - decay(tau, dt))
    return mean + _finite(step).to(mean.dtype)


def decay(tau: float, dt: float = 1.0) -> float:
    """What exponential decay leaves of 1 after `dt`."""
    return math.exp(-dt / tau) if tau > 0 else 0.0


# Spike-timing-dependent plasticity


@dataclass(frozen=True)
class STDP:
    """The parameters of pair-based STDP (Song, Miller & Abbott 2000), with bounds after Guetig et al. 2003.

    Every pair of a pre- and a postsynaptic spike counts.  With gap = t_post - t_pre it changes the magnitude w by

        gap > 0:  + A_plus  * ((w_max - w) / (w_max - w_min)) ** mu * exp(-gap / tau_plus)
        gap < 0:  - A_minus * ((w - w_min) / (w_max - w_min)) ** mu * exp( gap / tau_minus)
        gap = 0:  as gap > 0 if `coincidence`, else nothing

    and the result is clipped to w_min..w_max.  mu = 0 is additive with hard bounds, mu = 1 fully weight-dependent (soft
    bounds).

    With `coincidence`, pairs of the same tick count as in Brian2's standard model, where presynaptic events come first.
    Without it they are left out, as in NEST.  In the lattice a message takes a tick, so such a pair has no causal order.
    A_plus, A_minus, w_min, w_max are in units of |w|, tau_plus and tau_minus in ticks.
    """

    A_plus: float
    A_minus: float
    tau_plus: float
    tau_minus: float
    w_min: float
    w_max: float
    mu: float = 0.0
    coincidence: bool = True

    def __post_init__(self) -> None:
        """Raises ValueError that names the field."""
        for name in ("A_plus", "A_minus", "mu", "w_min"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"STDP {name} must be a finite number >= 0, not {value}")
        for name in ("tau_plus", "tau_minus"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"STDP {name} must be a finite number of ticks > 0, not {value}")
        if not (math.isfinite(self.w_max) and self.w_max > self.w_min):
            raise ValueError(f"STDP w_max must be a finite number > w_min = {self.w_min}, not {self.w_max}")


class Traces(NamedTuple):
    """Traces of all spikes, this tick's included: each adds 1, and decays with tau_plus (pre) or tau_minus (post)."""

    pre_trace: torch.Tensor
    post_trace: torch.Tensor


class Pairs(NamedTuple):
    """The products per connection by which STDP strengthens and weakens, of one tick or summed over ticks and samples."""

    potentiation: torch.Tensor
    depression: torch.Tensor


@torch.no_grad()
def stdp_pairs(
    traces: Traces, pre_spikes: torch.Tensor, post_spikes: torch.Tensor, stdp: STDP, dt: float = 1.0
) -> tuple[Traces, Pairs]:
    """One tick of STDP: traces decay, are multiplied by the spikes of this tick, and then take these spikes in.

    Spikes are bool or 0/1, in shapes that broadcast with each other and with their trace.  One that is not finite counts as
    none.
    """
    pre_spikes, post_spikes = _finite(pre_spikes), _finite(post_spikes)
    pre_before = decayed(traces.pre_trace, stdp.tau_plus, dt)
    post_before = decayed(traces.post_trace, stdp.tau_minus, dt)
    after = Traces(pre_before + pre_spikes.to(pre_before.dtype), post_before + post_spikes.to(post_before.dtype))
    met = after.pre_trace if stdp.coincidence else pre_before
    return after, Pairs(met * post_spikes, post_before * pre_spikes)


@torch.no_grad()
def potentiated(magnitude: torch.Tensor, product: torch.Tensor, stdp: STDP) -> torch.Tensor:
    """`magnitude` strengthened by pre_trace * post_spikes (or a mean or sum of such products), within the bounds."""
    room = ((stdp.w_max - magnitude) / (stdp.w_max - stdp.w_min)).clamp(0, 1)
    return bounded(magnitude, stdp.A_plus * room**stdp.mu * product, stdp.w_min, stdp.w_max)


@torch.no_grad()
def depressed(magnitude: torch.Tensor, product: torch.Tensor, stdp: STDP) -> torch.Tensor:
    """`magnitude` weakened by post_trace * pre_spikes (or a mean or sum of such products), within the bounds."""
    room = ((magnitude - stdp.w_min) / (stdp.w_max - stdp.w_min)).clamp(0, 1)
    return bounded(magnitude, -stdp.A_minus * room**stdp.mu * product, stdp.w_min, stdp.w_max)


@torch.no_grad()
def stdp_step(
    traces: Traces,
    pre_spikes: torch.Tensor,
    post_spikes: torch.Tensor,
    magnitude: torch.Tensor,
    stdp: STDP,
    dt: float = 1.0,
) -> tuple[Traces, torch.Tensor]:
    """(traces, magnitude) after one tick of STDP.  If both cells fire, depression comes before potentiation, as in Brian2."""
    traces, pairs = stdp_pairs(traces, pre_spikes, post_spikes, stdp, dt)
    return traces, potentiated(depressed(magnitude, pairs.depression, stdp), pairs.potentiation, stdp)


# Rules of rates


@torch.no_grad()
def bcm_change(correlation: torch.Tensor, post: torch.Tensor, theta: torch.Tensor, eta: float) -> torch.Tensor:
    """eta * pre * post * (post - theta) (Bienenstock, Cooper & Munro 1982), correlation = pre * post.

    `post` and `theta` are per cell; eta per step.
    """
    return eta * correlation * (post - theta)


@torch.no_grad()
def bcm_theta(theta: torch.Tensor, post: torch.Tensor, tau_theta: float, dt: float = 1.0) -> torch.Tensor:
    """The sliding threshold: exponential running mean of post ** 2 (Intrator & Cooper 1992), tau_theta in ticks."""
    return running_mean(theta, post.square(), tau_theta, dt)


@torch.no_grad()
def oja_change(correlation: torch.Tensor, power: torch.Tensor, magnitude: torch.Tensor, eta: float) -> torch.Tensor:
    """eta * post * (pre - post * w) (Oja 1982), correlation = pre * post per connection, power = post ** 2 per cell."""
    return eta * (correlation - power * magnitude)


# Three factors


@torch.no_grad()
def eligibility_step(eligibility: torch.Tensor, product: torch.Tensor, tau_e: float, dt: float = 1.0) -> torch.Tensor:
    """eligibility * exp(-dt / tau_e) + product: what a connection did recently, in units of the product; tau_e in ticks.

    With tau_e = 0 it is the product alone.  A product that is not finite adds nothing.
    """
    return decayed(eligibility, tau_e, dt) + _finite(product).to(eligibility.dtype)


@torch.no_grad()
def three_factor_change(eligibility: torch.Tensor, signal: torch.Tensor, eta: float) -> torch.Tensor:
    """eta * eligibility * signal (Fremaux & Gerstner 2016), positive if more of what the connection did is wanted.

    The signal is per cell: signal = -dL/dpost, the direction in which the cell's output should move.  If the eligibility is
    dpost/dw (for a linear cell: pre), the change is a step down the gradient of a *signed* weight.  For a magnitude, the
    eligibility is sign(w) times that.
    """
    return eta * eligibility * signal


# Homeostasis


@torch.no_grad()
def homeostatic_threshold(
    threshold: torch.Tensor, rate: torch.Tensor, target: float, eta: float, low: float, high: float
) -> torch.Tensor:
    """clip(threshold * exp(eta * (rate - target)), low, high): a cell that fires too often becomes harder to fire.

    `rate` is the cell's share of ticks with a spike (see `running_mean`); 0 <= target <= 1; eta is per step.  The step is
    relative, so that the scale of activity need not be known.  low > 0 keeps a threshold from getting stuck at zero.  Adaptive
    thresholds: Diehl & Cook 2015.  If the rate is not finite, the threshold stays.
    """
    return (threshold * _growth(rate - target, eta, threshold.dtype)).clamp(low, high)


@torch.no_grad()
def homeostatic_gain(gain: torch.Tensor, rate: torch.Tensor, target: float, eta: float, high: float) -> torch.Tensor:
    """clip(gain * exp(eta * (target - rate)), -high, high): a cell that fires too often takes in less of its cluster.

    This is multiplicative, like synaptic scaling (Turrigiano et al. 1998).  It acts on the functional gain and not on the
    connections, whose common scale the message norm cancels.  Signs are kept, and a gain of zero stays zero.
    """
    return (gain * _growth(target - rate, eta, gain.dtype)).clamp(-high, high)


def _growth(error: torch.Tensor, eta: float, dtype: torch.dtype) -> torch.Tensor:
    return torch.exp(eta * _finite(error).clamp(-1, 1)).to(dtype)
