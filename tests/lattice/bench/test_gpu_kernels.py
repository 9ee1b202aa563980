"""Tests of the GPU bench on the CPU: the same code on small shapes, timed by the clock."""

from __future__ import annotations

import contextlib
import itertools
import time
from types import SimpleNamespace

import pytest
import torch

from lattice.bench import gpu_kernels
from lattice.bench.gpu_kernels import CHANNELS, Check, check, checks, copy_rate, least_bytes, samples_alike, tick_rows
from lattice.bench.gpu_training import Heard, Material, PeakMemory, components, train_preset, train_through, watch_for_leaks
from lattice.kernels.native import KernelUnavailable, NativeKernel
from monitors import torch_memory
from monitors.leaks import WARM_UP
from presets.plan import plan
from presets.topology import Topology

CPU = torch.device("cpu")
SHAPE = (3, 4, 18)


@pytest.fixture
def material(corpus, tokenizer) -> Material:
    return Material(corpus, tokenizer)


def test_a_kernel_that_is_right_passes_every_check_and_names_what_was_checked():
    found = list(checks(CPU, ("native",), [SHAPE], [torch.float32]))
    assert [(each.boundary, each.sparse, each.batch, each.rule) for each in found] == [*gpu_kernels.CONDITIONS]
    assert all(each.passed and 0 < each.error < each.tolerance for each in found)


@pytest.mark.parametrize("output", ["forward", "backward"])
def test_a_kernel_that_is_wrong_in_one_direction_fails_its_check(output, monkeypatch):
    right = getattr(NativeKernel, output)

    def wrong(self, *arguments, **options):
        found = right(self, *arguments, **options)
        (found if output == "forward" else found[0])[0, 0, 0] *= 1.01
        return found

    monkeypatch.setattr(NativeKernel, output, wrong)
    found = check("native", Topology(SHAPE), 2, torch.float32, CPU, sparse=False)
    assert found.error > found.tolerance
    assert not found.passed


@pytest.mark.parametrize("rule", ["linear", "mlp"])
def test_wrong_gradients_of_a_rule_fail_its_check(rule, monkeypatch):
    right = NativeKernel.backward

    def wrong(self, grad_out, state, parameters, extra, gradients, *arguments):
        found = right(self, grad_out, state, parameters, extra, gradients, *arguments)
        gradients.rule.mul_(1.01)
        return found

    assert check("native", Topology(SHAPE), 2, torch.float32, CPU, False, rule).passed
    monkeypatch.setattr(NativeKernel, "backward", wrong)
    assert not check("native", Topology(SHAPE), 2, torch.float32, CPU, False, rule).passed


def test_compiled_is_checked_on_dense_connections_and_with_a_rule_on_the_first_shape_only(monkeypatch):
    monkeypatch.setattr(gpu_kernels, "check", lambda *about: about)
    first, second = Topology(SHAPE), Topology((4, 4, 4))
    found = list(checks(CPU, ("compiled",), [first.shape, second.shape], [torch.float32]))
    assert [(topology.shape, sparse, rule) for _, topology, _, _, _, sparse, rule in found] == [
        *[(first.shape, False, rule) for rule in ("none", "none", "mlp")],
        *[(second.shape, False, "none")] * 2,
    ]


def test_a_kernel_that_is_not_there_fails_its_check_with_the_reason():
    found = check("triton", Topology(SHAPE), 1, torch.float32, CPU, sparse=True)
    assert not found.passed
    assert (found.error, found.failure) == (None, "the triton kernel runs on a CUDA GPU, not on cpu")


def test_an_error_that_is_no_number_does_not_pass():
    assert not Check("k", SHAPE, 1, "float32", "walls", False, float("nan"), 1.0).passed


def test_equal_sentences_come_out_alike_and_a_kernel_that_mixes_them_up_is_seen(monkeypatch):
    assert samples_alike("native", SHAPE, 3, torch.float32, CPU)
    right = NativeKernel.forward

    def off(self, *arguments, **options):
        found = right(self, *arguments, **options)
        found[-1] = found[-1].roll(1, 0)
        return found

    monkeypatch.setattr(NativeKernel, "forward", off)
    assert not samples_alike("native", SHAPE, 3, torch.float32, CPU)


def test_the_least_bytes_of_a_tick_count_every_tensor_once():
    x, y, z = SHAPE
    cells, batch, kept = x * y * z, 2, 8
    weights, parameters, state = kept * cells * 4, 6 * CHANNELS * cells * 4, batch * CHANNELS * cells * 2
    assert least_bytes(SHAPE, batch, kept, 2, backward=False) == weights + parameters + 2 * state
    both = 3 * (weights + parameters) + 5 * state
    assert least_bytes(SHAPE, batch, kept, 2, backward=True) == both


def test_tick_rows_time_dense_and_sparse_both_ways_and_share_and_ratio_are_inverse():
    rows, remarks = tick_rows(CPU, ("native", "triton"), SHAPE, 2, torch.float32, copy_rate(CPU, 1 << 20, 3), 3)
    assert [row.name for row in rows] == [
        f"{kind} native {variant} float32"
        for variants in (("dense", "dense linear", "dense mlp"), ("sparse 70%",))
        for kind in ("forward", "forward+backward")
        for variant in variants
    ]
    assert remarks == ["triton: the triton kernel runs on a CUDA GPU, not on cpu"]
    for row in rows:
        assert 0 < row.min <= row.median <= row.max
        assert row.share * row.floor_ratio == pytest.approx(1)


def test_components_count_the_tensors_of_a_step_as_the_plan_does(bench, config_of):
    changes = ("stages.0.sparsity=0.5", "stages.0.clustering.clusters=3", "connections.learning=hybrid")
    trainer, _ = bench(*changes)
    trainer.step([0, 1, 2, 3])
    found, planned = components(trainer.state), plan(config_of(*changes))[0].components
    assert found.keys() == planned.keys() - {"states", "temporaries", "runtime"}
    for name in ("cell_parameters", "connections", "clusters", "text", "gradients"):
        assert found[name] == planned[name], name
    assert found["plasticity"] > 0
    # Moments are planned without step counters, and a corpus may have fewer tokens than a vocabulary has room for.
    assert found["optimizer"] == pytest.approx(planned["optimizer"], rel=0.01)


def test_memory_keeps_the_most_of_each_count(monkeypatch):
    readings = iter([(5, 9, 12), (7, 8, 30), (6, 10, 20)])
    memory = PeakMemory(CPU)

    def next_reading():
        for name, value in zip(("peak", "reserved", "driver_used"), next(readings), strict=True):
            monkeypatch.setattr(torch_memory, name, lambda device, value=value: value)
        memory.after_step()

    for _ in range(3):
        next_reading()
    assert memory.as_json() == {"peak_allocated": 7, "reserved": 10, "driver_used": 30}


def test_without_a_gpu_memory_is_not_told_rather_than_zero():
    memory = PeakMemory(CPU)
    memory.begin()
    memory.after_step()
    assert memory.as_json() == {"peak_allocated": None, "reserved": None, "driver_used": None}


def test_a_preset_is_trained_timed_and_held_against_its_plan(config_of, material):
    config = config_of("training.batch=4", "training.micro_batch=2")
    found = train_preset("tiny", config, material, CPU, 2).as_json()
    assert found["kernel"] == "tick kernel: native (C, fp32)"
    assert (found["micro_batch"], found["plan"]["accumulation"]) == (2, 2)
    assert len(found["losses"]) == 3, "the first step and two more; steps of a micro-batch are not among them"
    for name in ("step_s", "micro_step_s", "forward_s"):
        assert 0 < found[name]["min"] <= found[name]["median"] <= found[name]["max"]
    assert found["measured"]["working"] is None
    assert found["decode_share"] == found["look_s"] / (config.decode.every * found["step_s"]["median"])


def test_a_run_through_all_stages_tells_each_with_its_first_and_last_loss(config_of, material):
    found = train_through(config_of(), material, CPU)
    assert found["end"] == "finished"
    assert [(stage["name"], stage["steps"], stage["carried"]) for stage in found["stages"]] == [
        ("sprout", 6, False),
        ("grow", 6, True),
    ]
    assert all(stage["first_loss"] > 0 < stage["last_loss"] for stage in found["stages"])


def test_the_leak_watch_stops_when_its_time_is_up_and_tells_every_meter(config_of, material, monkeypatch):
    seconds = itertools.count()  # one a step
    clock = SimpleNamespace(monotonic=lambda: next(seconds), perf_counter=time.perf_counter)
    monkeypatch.setattr("lattice.bench.gpu_training.time", clock)
    endless = config_of("stages.0.steps=1000000", "decode.every=1")
    found = watch_for_leaks(endless, material, CPU, 7, 1)
    assert found["steps"] == 8
    assert found["samples"] == 8 - WARM_UP
    assert found["verdict"] == "measuring", "eight samples are too few for a judgement"
    assert {"rss", "tensors"} <= {meter["name"] for meter in found["meters"]}


def test_what_cannot_be_built_is_raised_with_its_reason(config_of, material):
    config = config_of("run.kernel=triton")
    with pytest.raises(KernelUnavailable, match="runs on a CUDA GPU"):
        train_preset("tiny", config, material, CPU, 1)


class _Event:
    """A CUDA event that counts instead of timing."""

    now = 0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        type(self).now += 250
        self.at = self.now

    def synchronize(self):
        self.waited = True

    def elapsed_time(self, end):
        assert end.waited, "read before the device was done"
        return end.at - self.at


def test_on_a_gpu_time_is_taken_between_events_once_the_second_is_done(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", _Event)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    watch = gpu_kernels.Stopwatch(torch.device("cuda"))
    assert watch.seconds(lambda: None) == 0.25
    assert watch.rounds({"a": lambda: None, "b": lambda: None}, 2) == {"a": [0.25, 0.25], "b": [0.25, 0.25]}


def test_heard_keeps_losses_by_stage(bench):
    heard = Heard()
    trainer, _ = bench(callbacks=(heard,))
    trainer.run()
    assert {stage: len(losses) for stage, losses in heard.losses.items()} == {0: 6, 1: 6}
    assert [started.name for started in heard.stages] == ["sprout", "grow"]
