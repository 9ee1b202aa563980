"""`bench gpu`: measures everything that only a GPU can show, in one command, and takes no more of its memory than a cap.

    kernels      triton and compiled against the reference: forward, gradients, dense and sparse, all dtypes; 64-bit positions
    ticks        a tick's time and its share of the copy bandwidth
    presets      baseline, medium, large: a few steps each; memory by component beside the plan, times, decode overhead
    progressive  all three stages to their ends, shortened
    leak         training for five minutes under the leak detector

The report is written after every section, so that nothing measured is lost if the machine goes away.  Without a GPU the bench
says that there is nothing to do, and the exit code is 0.  With `--quick` the same code runs on the smallest preset in a minute
or two.  With `--device cpu` times come from the clock instead of CUDA events.
"""

from __future__ import annotations

import dataclasses
import gc
import importlib.metadata
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from app import configure, formats
from app.bench import gpu_report
from app.exit_codes import ExitCode, Stop
from lattice.bench import gpu_kernels, gpu_training
from lattice.bench.gpu_training import Material
from lattice.data.batches import corpus_tokenizer
from lattice.data.corpus import load_corpus
from lattice.kernels.native import KernelUnavailable
from lattice.training.trainer import TrainingFailed
from monitors import gauges, torch_memory
from monitors.gauges import Absent
from monitors.machine import machine
from presets.plan import explain
from presets.plan import plan as memory_plan
from presets.schema import RunConfig

Section = Callable[[], Any]


@dataclass(frozen=True)
class Extent:
    """How much the bench measures."""

    presets: tuple[str, ...]
    progressive: str
    progressive_steps: int
    steps: int
    kernels: tuple[str, ...]
    checked_shapes: list[tuple[int, int, int]]
    dtypes: list[torch.dtype]
    timed_shape: tuple[int, int, int]
    timed_batches: tuple[int, ...]
    wide: tuple[tuple[int, int, int], int]
    """Shape and batch of the check in which positions in memory pass 2^31."""
    copy_bytes: int
    repeats: int
    leak_preset: str
    leak_every: int


FULL = Extent(
    presets=("baseline", "medium", "large"),
    progressive="progressive",
    progressive_steps=90,
    steps=5,
    kernels=("triton", "compiled"),
    checked_shapes=[(5, 4, 7), (17, 9, 45), (40, 30, 75), (12, 10, 150)],
    dtypes=[torch.float32, torch.bfloat16, torch.float16],
    timed_shape=(150, 150, 75),
    timed_batches=(1, 8),
    wide=((300, 300, 150), 14),
    copy_bytes=1 << 30,
    repeats=20,
    leak_preset="baseline",
    leak_every=50,
)
QUICK = dataclasses.replace(
    FULL,
    presets=("tiny",),
    progressive="tiny",
    progressive_steps=6,
    steps=2,
    checked_shapes=[(4, 3, 18)],
    timed_shape=(8, 8, 18),
    timed_batches=(2,),
    wide=((6, 5, 18), 3),
    copy_bytes=1 << 22,
    repeats=3,
    leak_preset="tiny",
    leak_every=10,
)


def run(
    device_name: str, quick: bool, cap_gb: float, leak_seconds: float, out: Path | None, summary: Path | None, as_json: bool
) -> None:
    """Measures, writes the report to `out` and the summary to `summary` if these are given, and prints one of them.

    Raises Stop with exit code 2 for options that do not go together, 3 if the GPU has not enough memory free, 4 for a leak, and
    1 if something failed.
    """
    if device_name == "cpu" and not quick:
        raise Stop(ExitCode.USAGE, "--device cpu needs --quick: the whole bench is one for a GPU")
    device = _device(device_name)
    if device is None:
        reason = "no GPU: torch sees no CUDA device here, so nothing was measured"
        print(reason, file=sys.stderr)
        if as_json:
            print(json.dumps({"skipped": reason}))
        return
    bench = _Bench(device, QUICK if quick else FULL, cap_gb, leak_seconds, out)
    report = bench.run()
    if summary is not None:
        gpu_report.write_summary(report, summary)
    if as_json:
        print(json.dumps(report))
    else:
        print(gpu_report.summary(report))
    if report["failures"]:
        raise Stop(ExitCode.FAILED, "; ".join(report["failures"]))
    if report.get("leak", {}).get("verdict") == "leak":
        raise Stop(ExitCode.LEAK, "the leak watch found a leak; the report says where")


def _device(name: str) -> torch.device | None:
    """The device to measure; None if it should be a GPU and there is none."""
    if name == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        return None
    index = int(name.partition(":")[2] or 0)
    if index >= torch.cuda.device_count():
        raise Stop(ExitCode.NO_DEVICE, f"--device: {name} is not there; the last one is cuda:{torch.cuda.device_count() - 1}")
    return torch.device("cuda", index)


class _Bench:
    def __init__(self, device: torch.device, extent: Extent, cap_gb: float, leak_seconds: float, out: Path | None) -> None:
        self._device, self._extent, self._leak_seconds, self._out = device, extent, leak_seconds, out
        # On a CPU the same code runs with the only kernel that there is.
        self._kernels = extent.kernels if device.type == "cuda" else ("native",)
        self._dtypes = extent.dtypes if device.type == "cuda" else [torch.float32]
        self._cap_gb = cap_gb
        self.report: dict[str, Any] = {"failures": []}
        self._lost = ""
        self._latest: tuple[tuple[str, int, int], Material] | None = None

    def run(self) -> dict[str, Any]:
        self.report |= {"machine": machine(), "device": self._describe(), "quick": self._extent is QUICK}
        self.report["memory"] = self._cap()
        self._section("copy_gbps", self._copy)
        self._section("kernels", self._check_kernels)
        self._section("wide", self._wide)
        self._section("rows", self._ticks)
        self.report["presets"] = {}
        for name in self._extent.presets:
            self._section(name, partial(self._preset, name), self.report["presets"])
        self._section("progressive", self._progressive)
        if self._leak_seconds:
            self._section("leak", self._leak)
        self.report["bars"] = gpu_report.bars(self.report, self._cap_gb)
        self._write()
        return self.report

    def _section(self, name: str, measure: Section, into: dict[str, Any] | None = None) -> None:
        """Measures one section, and keeps the result or the reason why there is none.

        After the GPU has gone, later sections are skipped.
        """
        if self._lost:
            return
        print(f"{name} ...", file=sys.stderr, flush=True)
        failure = ""
        try:
            (self.report if into is None else into)[name] = measure()
        except torch.OutOfMemoryError as error:
            failure = f"out of memory: {_first_line(error)}"
        except torch.AcceleratorError as error:
            failure = self._lost = f"the GPU stopped answering: {_first_line(error)}; what was measured before is in the report"
        except (KernelUnavailable, TrainingFailed, ValueError) as error:
            failure = str(error)
        if failure:
            self.report["failures"].append(f"{name}: {failure}")
        gc.collect()
        if self._device.type == "cuda" and not self._lost:
            torch.cuda.empty_cache()
        self._write()

    def _write(self) -> None:
        if self._out is None:
            return
        try:
            self._out.parent.mkdir(parents=True, exist_ok=True)
            partial = self._out.with_name(f".{self._out.name}.partial")
            partial.write_text(json.dumps(self.report, indent=1) + "\n", encoding="utf-8")
            os.replace(partial, self._out)
        except OSError as error:
            raise Stop(ExitCode.FAILED, f"{self._out} can't be written: {error.strerror or error}") from error

    # What is there

    def _describe(self) -> dict[str, Any]:
        told: dict[str, Any] = {"name": str(self._device), "torch": torch.__version__, "triton": _version("triton")}
        if self._device.type == "cuda":
            properties = torch.cuda.get_device_properties(self._device)
            told |= {
                "gpu": properties.name,
                "capability": f"{properties.major}.{properties.minor}",
                "total_bytes": properties.total_memory,
                "cuda": torch.version.cuda,
            }
        return told

    def _cap(self) -> dict[str, int | None]:
        """Limits this process to the cap, CUDA's context included.  Raises Stop if the GPU has not that much memory free."""
        if self._device.type != "cuda":
            return {"cap_bytes": None, "others_bytes": None, "context_bytes": None}
        cap, others = round(self._cap_gb * 1e9), _used_before(self._device)
        free, total = torch.cuda.mem_get_info(self._device)  # makes the context
        others = min(others, total - free)
        context = total - free - others
        if total - others < cap:
            raise Stop(
                ExitCode.NO_DEVICE,
                f"{self._device} has {formats.bytes_(total - others)} free for the {formats.bytes_(cap)} of --cap; "
                "end what else runs on it, or give a smaller cap",
            )
        torch.cuda.set_per_process_memory_fraction((cap - context) / total, self._device)
        return {"cap_bytes": cap, "others_bytes": others, "context_bytes": context}

    # What is measured

    def _copy(self) -> float:
        return gpu_kernels.copy_rate(self._device, self._extent.copy_bytes, self._extent.repeats) / 1e9

    def _check_kernels(self) -> list[dict[str, Any]]:
        found = list(gpu_kernels.checks(self._device, self._kernels, self._extent.checked_shapes, self._dtypes))
        for each in found:
            if not each.passed:
                why = each.failure or f"off by {each.error:.2g} of the largest value, {each.tolerance:g} is allowed"
                with_rule = "" if each.rule == "none" else f", {each.rule} rule"
                told = f"{each.kernel} at {formats.shape(each.shape)}, {each.dtype}, {each.boundary}{with_rule}: {why}"
                self.report["failures"].append(f"kernels: {told}")
        return [dataclasses.asdict(each) | {"passed": each.passed} for each in found]

    def _wide(self) -> dict[str, Any]:
        """Runs the first kernel on states of more than 2^31 numbers."""
        (shape, batch), dtype = self._extent.wide, self._dtypes[-1]
        alike = gpu_kernels.samples_alike(self._kernels[0], shape, batch, dtype, self._device)
        if not alike:
            raise ValueError(f"{self._kernels[0]}: the last of {batch} equal sentences comes out otherwise than the first")
        numbers = batch * gpu_kernels.CHANNELS * shape[0] * shape[1] * shape[2]
        return {"kernel": self._kernels[0], "shape": list(shape), "batch": batch, "numbers": numbers, "alike": alike}

    def _ticks(self) -> list[dict[str, Any]]:
        rows, rate = [], 1e9 * self.report.get("copy_gbps", float("nan"))
        for batch in self._extent.timed_batches:
            for dtype in self._dtypes[:2]:
                found, remarks = gpu_kernels.tick_rows(
                    self._device, self._kernels, self._extent.timed_shape, batch, dtype, rate, self._extent.repeats
                )
                rows += [dataclasses.asdict(row) for row in found]
                self.report["failures"] += [f"ticks: {remark}" for remark in remarks]
        return rows

    def _config(self, preset: str, *assignments: str) -> RunConfig:
        budget = [f"run.memory_budget_gb={self._cap_gb}"] if preset in ("large", "progressive") else []
        return configure.load(preset, None, [f'run.device="{self._device}"', *budget, *assignments]).config

    def _material(self, config: RunConfig) -> Material:
        """The corpus of the config and its tokenizer.  The presets share the bundled corpus, whose tokenizer takes seconds."""
        data = config.data
        key = (data.model_dump_json(), config.run.seed, config.text.vocabulary)
        if self._latest is not None and self._latest[0] == key:
            return self._latest[1]
        corpus = load_corpus(config)
        self._latest = key, Material(corpus, corpus_tokenizer(corpus, config.text.vocabulary))
        return self._latest[1]

    def _planned(self, config: RunConfig) -> None:
        for stage in memory_plan(config):
            if not stage.fits:
                raise ValueError(explain(stage))

    def _preset(self, name: str) -> dict[str, Any]:
        config = self._config(name)
        self._planned(config)
        return gpu_training.train_preset(name, config, self._material(config), self._device, self._extent.steps).as_json()

    def _progressive(self) -> dict[str, Any]:
        config = configure.with_steps(self._config(self._extent.progressive), self._extent.progressive_steps)
        self._planned(config)
        return gpu_training.train_through(config, self._material(config), self._device)

    def _leak(self) -> dict[str, Any]:
        every = self._extent.leak_every
        config = self._config(self._extent.leak_preset, f"decode.every={every}")
        endless = configure.with_steps(config, 10_000_000)
        return gpu_training.watch_for_leaks(endless, self._material(config), self._device, self._leak_seconds, every)


def _used_before(device: torch.device) -> int:
    """Bytes of the GPU's memory that other processes hold; 0 if the driver does not say.

    This must be read before CUDA makes the context of this process.
    """
    uuid, seen = torch_memory.uuid(device), gauges.gpus()
    if isinstance(uuid, Absent) or isinstance(seen, Absent):
        return 0
    for gpu in seen:
        if not isinstance(gpu.uuid, Absent) and gauges.same_gpu(gpu.uuid, uuid) and not isinstance(gpu.memory, Absent):
            return gpu.memory.used_bytes
    return 0


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
