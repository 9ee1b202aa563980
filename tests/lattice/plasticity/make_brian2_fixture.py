"""Runs pair-based STDP in the Brian2 simulator and prints what its synapses do, as JSON.

    pip install 'lattice-tui[brian2]'                      (in a venv of its own: Brian2 wants an older numpy)
    python tests/lattice/plasticity/make_brian2_fixture.py > tests/lattice/plasticity/brian2_stdp.json

The synapse is the one of Brian2's STDP tutorial with the bounds written out: exact event-driven traces, presynaptic events
before postsynaptic ones in a time step, all pairs, no delay.  Imports nothing of this project, so it is an oracle.
"""

from __future__ import annotations

import json
import sys

TICKS, PRE, POST, SEED = 250, 6, 5, 20
STDP = {"A_plus": 0.03, "A_minus": 0.034, "tau_plus": 16.8, "tau_minus": 33.7, "w_min": 0.1, "w_max": 0.9}
EXPONENTS = (0.0, 0.5, 1.0)
RECORD_EVERY = 10

MODEL = """
w : 1
dapre/dt = -apre / tau_plus : 1 (event-driven)
dapost/dt = -apost / tau_minus : 1 (event-driven)
"""
ON_PRE = """
apre += 1
w = clip(w - A_minus * ((w - w_min) / (w_max - w_min))**mu * apost, w_min, w_max)
"""
ON_POST = """
apost += 1
w = clip(w + A_plus * ((w_max - w) / (w_max - w_min))**mu * apre, w_min, w_max)
"""


def simulate(pre_spikes, post_spikes, start, mu):
    """bool [ticks, PRE] and [ticks, POST], weights [PRE, POST] -> weights [ticks / RECORD_EVERY, PRE, POST]."""
    import brian2
    import numpy as np

    brian2.prefs.codegen.target = "numpy"
    brian2.start_scope()
    brian2.defaultclock.dt = 1 * brian2.ms
    trains = []
    for spikes in (pre_spikes, post_spikes):
        ticks, cells = np.nonzero(spikes)
        trains.append(brian2.SpikeGeneratorGroup(spikes.shape[1], cells, ticks * brian2.ms))
    constants = {**STDP, "mu": mu}
    for tau in ("tau_plus", "tau_minus"):
        constants[tau] = STDP[tau] * brian2.ms
    synapses = brian2.Synapses(*trains, MODEL, on_pre=ON_PRE, on_post=ON_POST, namespace=constants)
    synapses.connect()
    synapses.w = start.reshape(-1)
    network = brian2.Network(*trains, synapses)
    records = []
    for _ in range(len(pre_spikes) // RECORD_EVERY):
        network.run(RECORD_EVERY * brian2.ms)
        records.append(np.array(synapses.w).reshape(start.shape).tolist())
    return records


def main() -> None:
    import brian2
    import numpy as np

    rng = np.random.default_rng(SEED)
    pre_spikes = rng.random((TICKS, PRE)) < 0.12
    post_spikes = rng.random((TICKS, POST)) < 0.12
    start = rng.uniform(STDP["w_min"], STDP["w_max"], (PRE, POST))
    runs = [{"mu": mu, "weights": simulate(pre_spikes, post_spikes, start, mu)} for mu in EXPONENTS]
    fixture = {
        "made_by": f"make_brian2_fixture.py with Brian2 {brian2.__version__}",
        "stdp": STDP,
        "record_every": RECORD_EVERY,
        "pre_spikes": pre_spikes.astype(int).tolist(),
        "post_spikes": post_spikes.astype(int).tolist(),
        "start": start.tolist(),
        "runs": runs,
    }
    json.dump(fixture, sys.stdout, separators=(",", ":"))
    print()


if __name__ == "__main__":
    main()
