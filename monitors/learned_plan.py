"""The learned plan: a small neural network that corrects the memory plan by what was measured.

It learns the logarithm of measured bytes over planned bytes.  Far from its data a network's output is arbitrary.  So its
weight depends on how near the nearest record is in size, and the plan itself has the remaining weight.  A predicted
ratio lies within the range of the ratios seen so far, or at most LEEWAY (as a logarithm) outside it.  Seconds per step are
learned in the same way, relative to cells x ticks x sentences, but without that weight.

The network has one hidden layer, and is fitted with strong weight decay and full-batch L-BFGS, because with only ten points its
output must be smooth above all.  The fit depends on the records only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from monitors.measured import StageRecord
from presets.components import COMPONENTS
from presets.plan import Lesson

if TYPE_CHECKING:
    import numpy as np

FEWEST = 3
"""Fewest measured stages that a prediction is based on."""

NEWEST = 200
"""Number of newest measured stages that are learned from."""

LEEWAY = 0.1
"""How far (as a logarithm) a prediction may leave the range of ratios that were seen."""

REACH = 0.7
"""Width (in log bytes) of the Gaussian by which a prediction's weight falls with the distance to the nearest record."""

SIZES = ("cells", "ticks", "kept", "segment", "micro_batch", "batch", "threads")
SWITCHES = ("compiled",)


class LearnedPlan:
    """A plan fitted to the records of one machine; it implements presets.plan.Learned."""

    def __init__(self, records: Sequence[StageRecord]) -> None:
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
    """The logarithm of measured over expected values, as a function of the inputs."""

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
    """Cell updates per step; without a lattice, each sentence and tick counts as one."""
    return max(1, features.get("cells", 0)) * features.get("ticks", 0) * features.get("batch", 0)


def _inputs(features: Mapping[str, float]) -> list[float]:
    """The network's inputs: each component's share of the plan, logarithms of the plan and of sizes, and switches."""
    whole = _planned(features)
    shares = [features.get(name, 0) / whole for name in COMPONENTS]
    sizes = [math.log1p(features[name]) for name in SIZES]
    return [*shares, math.log(whole), *sizes, *(features[name] for name in SWITCHES)]
