"""The components of a stage's memory, each counted in bytes without torch.

Tensors that live through a step are counted exactly, from the shapes that lattice.model.lattice3d and lattice.model.coder
build.  `temporaries` follow allocations that were measured in lattice.kernels.propagate, and the activations of text are an
estimate.  The sum is too high rather than too low: it adds up tensors that never exist at the same moment, since the loss's
activations are freed before the lattice's gradients are made.  The `reference` kernel is counted like `compiled`, and
may take more, because autograd keeps the intermediates of all its ticks.

The memory of a tick besides its states depends on the kernel; `assumed_kernel` says which one a config will run on which
device.  On a GPU, `runtime` is the CUDA context, and all other components are what torch allocates there.
"""

from __future__ import annotations

import math

from presets.gru_size import gru_size
from presets.optimizer_state import CELL_VECTORS, rule_numbers, state_bytes
from presets.rule_size import BLOCKS, PROGRAMS
from presets.schema import RunConfig
from presets.stage import Stage
from presets.text_memory import TEXT_BYTES, activations, encoder_size, ports_size, text_on_disk
from presets.topology import TILE

RUNTIME_BYTES = 400_000_000
"""Memory of the interpreter, of torch and of everything that a run does besides its steps (measured)."""

CONTEXT_BYTES = 600_000_000
"""Memory on a GPU of the CUDA context and of what libraries keep there."""

FLOAT, LABEL = 4, 8
"""Bytes of a parameter or running mean (always fp32), and of a cell's cluster label (int64)."""

STATE_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}

# State-sized buffers of a backward tick (measured, see above).
TICK_GRADIENTS = 2
"""The gradient of the next state, which that of the state replaces, and the gradient of the message.  They have the precision
of the states, but fp32 in the compiled kernel."""

CELL_FIELDS = 6
"""Numbers per cell that plasticity keeps (theta, firing rate, threshold) or sums up (firings, activity, activity squared)."""

FUNCTIONAL_BUFFERS, FUNCTIONAL_CHANNELS = 1, 3
"""State-sized buffers in fp32 for the part of messages that comes from clusters, and single channels of a state that computing
it forward and backward takes."""

COMPILED_BUFFERS = 8
"""State-sized buffers of the compiled kernel: a second gradient of the state, and what it stores between its loops.  Measured
are 9.3 states in all at batch 1 on the CPU; a GPU has not been measured yet.  The native and the triton kernel need none."""

COMPILED_RULE = ((14, 0), (3, 5))
"""With a shared rule, the compiled kernel needs more at two moments, of which the larger counts: so many state-sized buffers,
and copies of the hidden numbers, in fp32.  Measured on the CPU at batch 4 are 11.9 states if it is linear, 16.2 with 32 hidden
numbers for 12 channels, and 29.6 with 64."""

RULE_COPIES, RULE_BUFFERS = 3, 6
"""Copies of the shared rule beside its parameters, and state-sized buffers that autograd keeps for it in the reference, per
tick and beside its hidden numbers: its inputs and outputs, and what is added up of them."""

HASH_BYTES, HASHED_BYTES = 17, 8
"""Bytes per cell to find out which cells update in a tick, for each sentence, and of the cells' numbers, once (int64)."""

KERNELS = {
    "native": "native, on the CPU",
    "triton": "triton, on a CUDA GPU",
    "either": "native on the CPU, triton on a CUDA GPU",
    "compiled": "compiled (torch.compile)",
    "reference": "reference, counted as compiled",
}
"""Kernels that a plan may assume.  `either` is for a device that is not known yet; then the larger need counts."""

COMPONENTS = (
    "cell_parameters",
    "connections",
    "plasticity",
    "clusters",
    "text",
    "gradients",
    "optimizer",
    "states",
    "temporaries",
    "runtime",
)
"""The components of every plan, in the order of the table."""


def assumed_kernel(config: RunConfig) -> str:
    """The kernel (a key of KERNELS) that a config runs on its `run.device`, if everything can be compiled there.

    If states are fp16, a device of `auto` is assumed to be a GPU, since no fast kernel on the CPU takes fp16.
    """
    run = config.run
    if run.kernel != "auto":
        return run.kernel
    if config.rule.scope == "cell":  # no other fast kernel runs that
        return "reference" if run.precision == "fp16" or run.device.startswith("cuda") else "native"
    if run.device == "auto":
        return "triton" if run.precision == "fp16" else "either"
    if run.device.startswith("cuda"):
        return "triton"
    return "compiled" if run.precision == "fp16" else "native"


def total_bytes(config: RunConfig, stage: Stage, micro_batch: int, kernel: str | None = None) -> int:
    return sum(component_bytes(config, stage, micro_batch, kernel).values())


def lattice_size(config: RunConfig, stage: Stage) -> int:
    """Number of parameters of a stage's lattice, its rule and its ports, once its sparsity is reached.

    It is counted as for `lattice.arm` = lattice, whatever that is.
    """
    section, cells = config.lattice, math.prod(stage.shape)
    per_cell = (CELL_VECTORS + stage.clustering.functional) * section.channels + stage.kept()
    rule = rule_numbers(config, stage)
    return cells * per_cell + rule + ports_size(config.text, section.port_channels or section.channels)


def component_bytes(config: RunConfig, stage: Stage, micro_batch: int, kernel: str | None = None) -> dict[str, int]:
    """Bytes by component, in the order of the table.  `kernel=None` is the assumed kernel."""
    channels, itemsize = config.lattice.channels, STATE_BYTES[config.run.precision]
    functional, clusters = stage.clustering.functional, stage.clustering.clusters
    runs = kernel or assumed_kernel(config)
    compiled = runs in ("compiled", "reference")

    text = encoder_size(config.text) + config.text.decoder_size(config.text.decoder_feed_forward())
    cells = 0
    if config.lattice.arm == "lattice":
        text += ports_size(config.text, config.lattice.port_channels or channels)
        cells = math.prod(stage.shape)
    elif units := config.lattice.gru_units:
        text += gru_size(config.text.slot_width, units)
    cell_parameters = (CELL_VECTORS + functional) * channels * cells
    hidden = config.rule.hidden_numbers
    rule = rule_numbers(config, stage)
    offsets, kept = len(stage.topology(config.lattice.boundary).offsets), stage.kept(0)
    weights, sparse = kept * cells, cells > 0 and kept < offsets
    # One byte for each offset that a tile keeps, and in the inverse one for each offset that there is.
    index = (kept + offsets) * math.prod(stage.shape[:2]) * -(-stage.shape[2] // TILE) * sparse

    cells_learn = config.lattice.cells == "gradient"
    weights_learn = config.connections.learning in ("gradient", "hybrid") and stage.profile != "freeze"
    lattice_trained = (cell_parameters + rule) * cells_learn + weights * weights_learn
    trained = text + lattice_trained

    state = channels * cells  # numbers per sentence
    # The backward needs most at its first tick, when all states are still there.
    of_gradients = TICK_GRADIENTS * (FLOAT if compiled else itemsize)
    of_others = FLOAT * (FUNCTIONAL_BUFFERS * functional + COMPILED_BUFFERS * compiled)
    in_tick = (of_gradients + of_others) * state + FLOAT * FUNCTIONAL_CHANNELS * functional * cells
    stochastic = config.rule.update_probability < 1
    # A gradient of its own for cells that do not update.  The hash is done before it, and before that of the message, are made.
    in_tick += max((FLOAT if compiled else itemsize) * state, HASH_BYTES * cells) * stochastic
    # The backward always writes a gradient of the cells, and drops it if they are frozen.
    written = cell_parameters + rule * cells_learn + weights * weights_learn
    in_backward = written - lattice_trained
    # Ticks run on a copy of the rule in one piece.  Its gradient is one piece, too, and is first summed in parts.
    parts = {"native": BLOCKS, "triton": PROGRAMS, "either": PROGRAMS}.get(runs, 0)
    if config.rule.scope == "cell":  # too many to count a copy that is there at another moment only
        in_backward += (1 + (config.training.batch > micro_batch)) * rule
    else:
        in_backward += (RULE_COPIES + parts * cells_learn) * rule
    in_backward += HASHED_BYTES // FLOAT * cells * stochastic
    if compiled and sparse:
        # It takes dense connections only: pruned ones are expanded, and so is their gradient.
        in_backward += offsets * cells * (1 + weights_learn)
        if config.training.batch > micro_batch:
            in_backward += weights * weights_learn  # made compact before it is added to the step's
    if runs == "compiled" and hidden is not None:
        in_tick += FLOAT * max(states * state + copies * hidden * cells for states, copies in COMPILED_RULE)
    if runs == "reference" and hidden is not None:
        in_tick += FLOAT * config.longest_ticks(stage) * (RULE_BUFFERS * state + 2 * hidden * cells)
    transposed = _transposed(stage, config.lattice.boundary) if sparse and runs in ("native", "either") else 0
    if sparse and stage.rewiring.regrow == "gradient":
        in_backward += 4 * weights  # a probe's copy with as many absent connections, and its gradient
    # After backward, clipping and the optimizers work in place, or in small chunks.

    return {
        "cell_parameters": FLOAT * (cell_parameters + rule),
        "connections": FLOAT * weights + index,
        "plasticity": FLOAT * _plasticity(config, stage, weights, cells, state, micro_batch),
        "clusters": (LABEL * cells + FLOAT * channels * (cells + clusters)) * (clusters > 0 and cells > 0),
        "text": FLOAT * text,
        "gradients": FLOAT * trained,
        "optimizer": 2 * FLOAT * text + state_bytes(config, stage, kept),
        "states": micro_batch * states_kept(config, stage) * state * itemsize,
        "temporaries": micro_batch * (in_tick + FLOAT * activations(config, stage)) + FLOAT * in_backward + transposed,
        "runtime": CONTEXT_BYTES if config.run.device.startswith("cuda") else _process(config),
    }


def _transposed(stage: Stage, boundary: str) -> int:
    """Bytes of the list that the native kernel makes for a backward: sparse connections by the tile that they read.

    If an offset goes along z, the cells that read a tile lie in two tiles, each of which may keep the offset.
    """
    offsets = stage.topology(boundary).offsets
    share, tiles = stage.kept(0) / len(offsets), math.prod(stage.shape[:2]) * -(-stage.shape[2] // TILE)
    led = sum(share if dz % TILE == 0 else 1 - (1 - share) ** 2 for _, _, dz in offsets)
    return round(led * tiles * (FLOAT * TILE + 1))


def _plasticity(config: RunConfig, stage: Stage, weights: int, cells: int, state: int, micro_batch: int) -> int:
    """Numbers that lattice.plasticity.plasticity keeps during a backward."""
    if not (stage.waves or config.connections.learning in ("plastic", "hybrid")):
        return 0
    rule, watched = config.plasticity.rule, min(config.plasticity.sentences, micro_batch)
    sums = (2 if rule == "stdp" else 1) * weights
    # A probe's state in the layers that one layer of x reads; for three_factor the signal that arrives, and the credit.
    layers = min(stage.shape[0], 2 * max((1, *stage.strides.x)) + 1) if cells else 0
    signals = 2 * watched * state if rule == "three_factor" else 0
    return sums + CELL_FIELDS * cells + state // stage.shape[0] * layers + signals


def states_kept(config: RunConfig, stage: Stage) -> int:
    """Most states that are kept at once.

    These are the first states of all segments, and all states of the last segment, or of the whole one that the backward runs
    again.  If `training.checkpoint_ticks` is auto, this is the number with segments, the fewest that the plan may choose.
    """
    ticks, chosen = config.longest_ticks(stage), config.training.checkpoint_ticks
    segment = min(segment_ticks(stage) if chosen == "auto" else chosen or 1, ticks)
    segments = -(-ticks // segment)
    last = ticks - (segments - 1) * segment
    return max(segments + last - 1, segments - 1 + segment - 1)


def _process(config: RunConfig) -> int:
    """Bytes of the process with its text; on an unknown device at least those of a GPU's context."""
    taken = RUNTIME_BYTES + TEXT_BYTES * text_on_disk(config.data)
    return taken if config.run.device == "cpu" else max(taken, CONTEXT_BYTES)


def segment_ticks(stage: Stage) -> int:
    """The segment that keeps about the fewest states."""
    return math.ceil(math.sqrt(stage.ticks))
