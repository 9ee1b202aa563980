"""Times the lattice on this machine and compares with the best possible: the time that memory needs to copy the same bytes.

`floor_ratio` = time x copy rate / bytes.  The bytes per cell of a dense tick are fixed, for batch 1:

    forward              4 * (6C + K) + 3C * s
    forward+backward     4 * (24C + 2K) + 9C * s

s is the bytes per number of a state: 4, or 2 in bf16.  Sparse rows are compared with the same bytes.  The copy rate, read plus
written, is measured in the same run with the same threads.  Implementations take turns, so their ratio holds even if the
machine's speed drifts.  A backward adds to gradients that are there, as in a training step in all ticks and micro-batches but
the first.  Only the output face is asked for, as in training.
"""

from __future__ import annotations

import functools
import itertools
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from lattice.data.batches import Schedule, TokenizedCorpus
from lattice.data.corpus import load_corpus
from lattice.kernels import TickOptions, choose, propagate
from lattice.kernels.kernel import RuleNumbers
from lattice.kernels.native import KernelUnavailable
from lattice.kernels.propagate import Kernel
from lattice.kernels.sparse import TILE, Pattern
from lattice.model.lattice3d import initial_cells, initial_weights
from lattice.observing.decode_monitor import DecodeMonitor
from lattice.random_streams import generator
from lattice.training.build import build_trainer
from presets.rule_size import HIDDEN, rule_size
from presets.schema import Connections, RunConfig
from presets.topology import Topology

COPY_FLOATS = 64 * 1024 * 1024
"""Size of the copied array: 256 MiB, far more than any cache."""

CHANNELS = 12

SPARSITY = 0.7
"""Share of the connections that are pruned in the sparse rows."""

SPARSE_TICKS = 4
"""Ticks per call in the sparse rows; times are divided by it.  The backwards of these ticks share a list that is made once."""


@dataclass(frozen=True)
class Row:
    """One timing.  `median`, `min` and `max` are seconds per call.  `floor_ratio` is None if no number of bytes is fixed."""

    name: str
    shape: tuple[int, int, int]
    batch: int
    threads: int
    ns_per_cell: float
    """Nanoseconds per cell and sentence (a cell-update)."""
    speedup: float | None
    """How many times faster than the reference: the median over pairs of neighbouring calls.  None if there is no reference."""
    copy_gbps: float
    """GB per second, read plus written, of a plain copy with as many threads."""
    floor_ratio: float | None
    median: float
    min: float
    max: float


def timed(
    calls: Mapping[str, Callable[[], object]], repeats: int, clock: Callable[[], float] | None = None
) -> dict[str, list[float]]:
    """Seconds of each call, `repeats` times.  The calls take turns, after one warm-up each.

    With one thread, these are CPU seconds of the process, which leave out what other processes take of the core.  With more
    threads, they are seconds of the wall clock.  `clock` overrides this.
    """
    clock = clock or (time.process_time if torch.get_num_threads() == 1 else time.perf_counter)
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = clock()
            call()
            times[name].append(clock() - start)
    return times


def copy_rate(repeats: int) -> float:
    """Bytes per second, read plus written, of a plain copy with torch's present number of threads."""
    source = torch.ones(COPY_FLOATS)
    target = torch.empty_like(source)
    return 2 * source.nbytes / statistics.median(timed({"copy": lambda: target.copy_(source)}, repeats)["copy"])


RULES = {"linear": 0, "mlp": HIDDEN}
"""Shared rules that are timed, with their hidden numbers."""

TICK_KERNELS = ("native", "native-bf16", "compiled", "reference")

RULED = ("native", "compiled")
"""Those of them that are timed with shared rules."""

_Variant = tuple[Kernel | None, torch.dtype, torch.Tensor, Pattern | None, RuleNumbers | None]


def tick_bytes(
    shape: tuple[int, int, int], batch: int, implementations: tuple[str, ...] = TICK_KERNELS, both: bool = True
) -> int:
    """The bytes that `bench_tick` holds at once, roughly.

    These are parameters, their gradients if `both`, some states, and whatever autograd or `torch.compile` keep.
    """
    x, y, z = shape
    offsets = len(Topology(shape).offsets)
    parameters = 6 * CHANNELS + 2 * offsets  # twice for connections: dense and compact, and room while they are drawn
    states = 2 * (offsets + 10) if "reference" in implementations else 30 if "compiled" in implementations else 4 + SPARSE_TICKS
    return 4 * x * y * z * ((1 + both) * parameters + batch * CHANNELS * states)


def bench_tick(
    shape: tuple[int, int, int],
    batch: int,
    repeats: int,
    implementations: tuple[str, ...] = TICK_KERNELS,
    both: bool = True,
) -> tuple[list[Row], list[str]]:
    """Times one tick of the 26 local offsets: forward and, if `both`, forward+backward.  Returns (rows, remarks).

    `implementations` are some of TICK_KERNELS.  One that can't run here gets a remark.  All is fp32, except for the states of
    `native-bf16`.  Connections learn by gradient, like cells.  In rows called `held`, they have no gradient, as if frozen or
    plastic.  In rows called `sparse`, the share SPARSITY of them is pruned, and the rest is stored compactly.  In rows called
    `linear` and `mlp`, which `native` and `compiled` have, there is a shared rule.
    """
    topology, device = Topology(shape), torch.device("cpu")
    x, y, _ = shape
    weights = initial_weights(topology, Connections(), generator(0, "bench")).requires_grad_()
    cells = initial_cells(shape, CHANNELS, generator(0, "bench cells")).requires_grad_()
    drive = torch.randn(batch, x, y, CHANNELS, generator=generator(0, "bench drive"), requires_grad=True)
    pattern = pruned_pattern(topology, SPARSITY)
    compact = pattern.take(weights.detach()).requires_grad_()
    kernels, remarks = {}, []
    for name in implementations:
        half = name.endswith("-bf16")
        try:
            dtype = torch.bfloat16 if half else torch.float32
            kernels[name] = choose(name.removesuffix("-bf16"), topology, CHANNELS, device, dtype)[0], dtype
        except KernelUnavailable as error:
            remarks.append(f"{name}: {error}")
    # Name of the row -> kernel, dtype of the states, connections, their pattern, and the shared rule.
    dense: dict[str, _Variant] = {name: (*kernel, weights, None, None) for name, kernel in kernels.items()}
    ruled: dict[str, _Variant] = {}
    for name, kind in itertools.product([name for name in RULED if name in kernels], RULES):
        kernel, _ = choose(name, topology, CHANNELS, device, torch.float32, RULES[kind])
        ruled[f"{name} {kind}"] = kernel, torch.float32, weights, None, drawn_rule(kind, device)
    sparse: dict[str, _Variant] = {
        f"{name} sparse {SPARSITY:.0%}": (kernel, dtype, compact, pattern, None)
        for name, (kernel, dtype) in kernels.items()
        if kernel is not None and kernel.sparse
    }
    held: dict[str, _Variant] = {
        f"{name} held": (kernel, dtype, connections.detach(), pattern, None)
        for name, (kernel, dtype, connections, pattern, _) in (dense | sparse).items()
    }
    offsets = len(topology.offsets)
    rows, threads_before = [], torch.get_num_threads()

    def face(
        kernel: Kernel | None,
        dtype: torch.dtype,
        connections: torch.Tensor,
        pattern: Pattern | None,
        rule: RuleNumbers | None,
    ) -> torch.Tensor:
        ticks, options = 1 if pattern is None else SPARSE_TICKS, TickOptions(face=True)
        return propagate(drive.to(dtype), connections, cells, topology, ticks, kernel, None, pattern, options, rule)

    def forward(*variant: Any) -> None:
        with torch.no_grad():
            face(*variant)

    def forward_and_backward(*variant: Any) -> None:
        face(*variant).sum().backward()

    # The last two of each are the numbers per cell that are moved: of parameters, and of states.
    passes = [("forward", forward, dense | sparse | ruled, 6 * CHANNELS + offsets, 3 * CHANNELS)]
    if both:
        numbers = 24 * CHANNELS + 2 * offsets, 9 * CHANNELS
        passes.append(("forward+backward", forward_and_backward, dense | sparse | ruled | held, *numbers))
    try:
        for threads in sorted({1, threads_before}):
            torch.set_num_threads(threads)
            rate = copy_rate(repeats)
            for kind, call, variants, of_parameters, of_states in passes:
                calls = {name: functools.partial(call, *variant) for name, variant in variants.items()}
                times = timed(calls, repeats)
                for name, (_, dtype, _, sparsely, _) in variants.items():
                    taken = times[name] = [seconds / (SPARSE_TICKS if sparsely else 1) for seconds in times[name]]
                    median = statistics.median(taken)
                    size = topology.cells * (4 * of_parameters + dtype.itemsize * of_states)
                    row = Row(
                        name=f"{kind} {name}",
                        shape=shape,
                        batch=batch,
                        threads=threads,
                        ns_per_cell=1e9 * median / (batch * topology.cells),
                        speedup=_speedup(times.get("reference"), taken),
                        copy_gbps=rate / 1e9,
                        floor_ratio=median * rate / size if batch == 1 else None,
                        median=median,
                        min=min(taken),
                        max=max(taken),
                    )
                    rows.append(row)
    finally:
        torch.set_num_threads(threads_before)
    return rows, remarks


def drawn_rule(kind: str, device: torch.device) -> RuleNumbers:
    """A shared rule of one of RULES, its numbers drawn, which learn."""
    drawn = 0.1 * torch.randn(rule_size(CHANNELS, RULES[kind]), generator=generator(0, "bench rule"))
    return RuleNumbers(drawn.to(device).requires_grad_(), RULES[kind])


def pruned_pattern(topology: Topology, sparsity: float) -> Pattern:
    """A random pattern that keeps the share 1 - sparsity of the offsets of every tile."""
    x, y, z = topology.shape
    offsets = len(topology.offsets)
    kept = max(1, round(offsets * (1 - sparsity)))
    drawn = torch.rand(offsets, x, y, -(-z // TILE), generator=generator(0, "bench pattern"))
    return Pattern(drawn.argsort(0)[:kept].to(torch.uint8).contiguous(), offsets)


def _speedup(reference: list[float] | None, taken: list[float]) -> float | None:
    if reference is None:
        return None
    return statistics.median(slow / fast for slow, fast in zip(reference, taken, strict=True))


def bench_step(config: RunConfig, repeats: int, looks: bool = False) -> tuple[list[Row], float | None]:
    """Times whole training steps of the first stage on the config's data.  Returns (rows, share).

    With `looks`, looks of the decode monitor are timed in turns with them.  `share` is the time of a look over the time of
    `decode.every` steps: the monitor's overhead at its configured rate.  Without looks, it is None.
    """
    text = TokenizedCorpus.of(load_corpus(config), config)
    trainer = build_trainer(config, text, torch.device("cpu"))
    monitor, stage, progress = DecodeMonitor(), config.stages[0], trainer.state.progress
    schedule = Schedule(len(text.train), stage.data_share, config.training.batch, config.run.seed, 0)

    def step() -> None:
        trainer.step(schedule.rows(progress.stage_step))
        progress.advance()

    calls: dict[str, Callable[[], object]] = {"step": step}
    if looks:
        calls["decode"] = lambda: monitor.look(trainer.state, config.decode.sentences)
    times = timed(calls, repeats)
    x, y, z = stage.shape
    sentences = {"step": config.training.batch, "decode": config.decode.sentences}
    rows, rate = [], copy_rate(3)
    for name, taken in times.items():
        median = statistics.median(taken)
        row = Row(
            name=name,
            shape=stage.shape,
            batch=sentences[name],
            threads=torch.get_num_threads(),
            ns_per_cell=1e9 * median / (x * y * z * stage.ticks * sentences[name]),
            speedup=None,
            copy_gbps=rate / 1e9,
            floor_ratio=None,
            median=median,
            min=min(taken),
            max=max(taken),
        )
        rows.append(row)
    share = statistics.median(times["decode"]) / (config.decode.every * statistics.median(times["step"])) if looks else None
    return rows, share
