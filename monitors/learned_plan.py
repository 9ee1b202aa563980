"""The memory plan sharpened by what was measured: a small neural network on top of the analytic plan.

It learns the logarithm of measured over planned bytes.  A network asked outside its data would say anything, so what it says
counts by how near the nearest record is in size, the plan itself counts for the rest, and nothing is said beyond the ratios
that were seen by more than LEEWAY.  Step seconds are learned the same way, over cells, ticks and sentences.  One hidden layer,
strong weight decay and full-batch L-BFGS: with ten points, all that a network must not do is wiggle.  The fit depends on the
records alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from monitors.measured import Measured
from presets.plan import COMPONENTS, Lesson

if TYPE_CHECKING:
    import numpy as np

FEWEST = 3
"""Measured stages that a prediction rests on at least."""

NEWEST = 200
"""Of the measured stages are learned from."""

LEEWAY = 0.1
"""By how much (in logarithms) a prediction may leave the range of the ratios that were seen."""

REACH = 0.7
"""Distance from the nearest record (logarithm of planned bytes) over which trust in what was learned falls, as a Gaussian."""

SIZES = ("cells", "ticks", "kept", "segment", "micro_batch", "batch", "threads")
SWITCHES = ("compiled",)


class LearnedPlan:
    """Fitted to the records of one machine; satisfies presets.plan.Learned."""

    def __init__(self, records: Sequence[Measured]) -> None:
        self._records = [record for record in records if _planned(record.features) and _work(record.features)][-NEWEST:]
        needed = {*SIZES, *SWITCHES}
        self._records = [record for record in self._records if needed <= set(record.features)]
        if len(self._records) < FEWEST:
            return
        inputs = [_inputs(record.features) for record in self._records]
        self._peak = _Ratio(inputs, [math.log(r.peak_bytes / _planned(r.features)) for r in self._records])
        self._time = _Ratio(inputs, [math.log(r.step_s / _work(r.features)) for r in self._records])

    def predict(self, features: Mapping[str, float]) -> Lesson | None:
        if len(self._records) < FEWEST:
            return None
        inputs = _inputs(features)
        nearest = min(abs(math.log(_planned(features) / _planned(record.features))) for record in self._records)
        trust = math.exp(-0.5 * (nearest / REACH) ** 2)
        peak = _planned(features) * math.exp(trust * self._peak.at(inputs))
        return Lesson(round(peak), _work(features) * math.exp(self._time.at(inputs)), len(self._records))


class _Ratio:
    """A logarithm of measured over expected, as a function of the inputs."""

    def __init__(self, inputs: list[list[float]], logs: list[float]) -> None:
        import numpy as np
        from sklearn.neural_network import MLPRegressor
        from sklearn.preprocessing import StandardScaler

        self._mean, self._low, self._high = float(np.mean(logs)), min(logs) - LEEWAY, max(logs) + LEEWAY
        self._scale = StandardScaler().fit(inputs)
        self._spread = float(np.std(logs)) or 1.0
        self._net = MLPRegressor(
            hidden_layer_sizes=(8,), activation="tanh", solver="lbfgs", alpha=10.0, max_iter=500, random_state=0
        )
        self._net.fit(self._scaled(inputs), (np.array(logs) - self._mean) / self._spread)

    def _scaled(self, inputs: list[list[float]]) -> np.ndarray:
        return self._scale.transform(inputs).clip(-4, 4)

    def at(self, inputs: list[float]) -> float:
        log = self._mean + self._spread * float(self._net.predict(self._scaled([inputs]))[0])
        return min(max(log, self._low), self._high)


def _planned(features: Mapping[str, float]) -> float:
    return sum(features.get(name, 0) for name in COMPONENTS)


def _work(features: Mapping[str, float]) -> float:
    """Cell-updates of a step, or sentences where there is no lattice."""
    return max(1, features.get("cells", 0)) * features.get("ticks", 0) * features.get("batch", 0)


def _inputs(features: Mapping[str, float]) -> list[float]:
    """Each component's share of the plan, sizes and the plan itself as logarithms, switches."""
    whole = _planned(features)
    shares = [features.get(name, 0) / whole for name in COMPONENTS]
    sizes = [math.log1p(features[name]) for name in SIZES]
    return [*shares, math.log(whole), *sizes, *(features[name] for name in SWITCHES)]
