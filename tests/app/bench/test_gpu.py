"""`bench gpu`: the whole of it on the CPU, what it says without a GPU, and GPUs that are full, shared, or gone half-way."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
import torch

from app.bench import gpu, gpu_report
from app.bench.gpu_report import BEGIN, END
from app.exit_codes import ExitCode, Stop
from app.run_process import prepare
from app.run_process.engine import device_failure
from lattice.training.trainer import Trainer
from monitors import gauges
from monitors.gauges import Absent, Gpu, GpuMemory

GB = 10**9


def test_without_a_gpu_it_says_so_writes_nothing_and_leaves_with_0(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    told = cli("bench", "gpu", "--json", "--out", tmp_path / "gpu.json", "--summary", tmp_path / "none.md")
    assert told.code == 0
    assert told.json == {"skipped": "no GPU: torch sees no CUDA device here, so nothing was measured"}
    assert "no GPU" in told.err
    assert list(tmp_path.iterdir()) == []


def test_the_whole_bench_on_a_cpu_is_refused(cli):
    told = cli("bench", "gpu", "--device", "cpu")
    assert told.code == ExitCode.USAGE
    assert "--device cpu needs --quick" in told.err


@pytest.mark.slow
def test_a_quick_pass_on_the_cpu_fills_every_section_and_the_summary(cli, tmp_path):
    out, page = tmp_path / "deep" / "gpu.json", tmp_path / "performance.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    told = cli("bench", "gpu", "--device", "cpu", "--quick", "--leak-seconds", 1, "--out", out, "--summary", page, "--json")
    assert told.code == 0, told.err
    report = told.json
    assert json.loads(out.read_text()) == report
    assert report["failures"] == []
    assert {
        "machine",
        "device",
        "copy_gbps",
        "kernels",
        "wide",
        "rows",
        "presets",
        "progressive",
        "leak",
        "bars",
    } <= report.keys()
    assert all(check["passed"] for check in report["kernels"])
    assert report["presets"]["tiny"]["kernel"] == "tick kernel: native (C, fp32)"
    assert [stage["carried"] for stage in report["progressive"]["stages"]] == [False, True]
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}\n") and text.endswith(f"{END}\nafter\n") and "old" not in text
    assert "measures nothing" in text and "| states and temporaries |" in text


# What it makes of a report


def preset(**changes) -> dict:
    planned = {"cell_parameters": 4 * GB, "states": 6 * GB, "temporaries": 2 * GB, "runtime": GB // 2}
    times = {name: {"median": value, "min": value, "max": value} for name, value in
             (("forward_s", 0.04), ("micro_step_s", 0.3), ("step_s", 2.4))}  # fmt: skip
    return {
        "preset": "large",
        "shape": [300, 300, 150],
        "kernel": "tick kernel: triton (bfloat16 states)",
        "micro_batch": 4,
        "plan": {"components": planned, "total_bytes": sum(planned.values()), "micro_batch": 4, "accumulation": 8},
        "measured": {"cell_parameters": 4 * GB, "working": 7 * GB},
        "peak_allocated": 11 * GB,
        "reserved": 12 * GB,
        "driver_used": 15 * GB,
        "losses": [7.5, 7.25],
        "warnings": [],
        "first_step_s": 20.0,
        "look_s": 1.0,
        "decode_share": 0.01,
        **times,
        **changes,
    }


def report(**sections) -> dict:
    device = {"name": "cuda:0", "gpu": "Some GPU", "capability": "9.0", "triton": "3.9.0"}
    memory = {"cap_bytes": 24 * GB, "others_bytes": 2 * GB, "context_bytes": GB // 2}
    return {"failures": [], "machine": "m", "device": device, "quick": False, "memory": memory, **sections}


def test_bars_leave_out_what_others_hold_and_what_was_not_measured():
    bars = gpu_report.bars(report(presets={"large": preset()}), 24.0)
    found = {bar["name"].partition(":")[2].strip(): (bar["value"], bar["met"]) for bar in bars}
    assert found["bytes all told, as the driver counts them"] == (13 * GB, True)
    assert found["seconds of a forward of one micro-batch"] == (0.04, True)
    assert found["decode monitor's share of training time"] == (0.01, True)
    assert gpu_report.bars(report(), 24.0) == []


def test_a_bar_that_is_missed_is_told():
    found = report(presets={"large": preset(driver_used=27 * GB)})
    found["bars"] = gpu_report.bars(found, 24.0)
    assert "| large: bytes all told, as the driver counts them | 25 GB | 24 GB | no |" in gpu_report.summary(found)


def test_the_summary_holds_memory_against_the_plan_by_component():
    text = gpu_report.summary(report(presets={"large": preset()}, failures=["progressive: out of memory"]))
    assert "Some GPU, compute capability 9.0" in text
    assert "| cell parameters | 4 GB | 4 GB |" in text
    assert "| states and temporaries | 8 GB | 7 GB |" in text
    assert "| all of torch's | 12 GB | 11 GB |" in text
    assert "micro-batch 4 of 32" in text
    assert "- progressive: out of memory" in text


def test_a_page_without_the_two_lines_is_left_alone(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("only text\n")
    with pytest.raises(Stop, match="has no lines") as refused:
        gpu_report.write_summary(report(), page)
    assert refused.value.code == ExitCode.USAGE
    assert page.read_text() == "only text\n"


# Sections that fail


@pytest.fixture
def bench(tmp_path):
    return gpu._Bench(torch.device("cpu"), gpu.QUICK, 24.0, 0, tmp_path / "gpu.json")


def raising(error: Exception):
    def fail():
        raise error

    return fail


def test_a_section_that_runs_out_of_memory_is_told_and_the_next_one_runs(bench, tmp_path):
    bench._section("large", raising(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nGPU 0 has")))
    bench._section("copy_gbps", lambda: 900.0)
    assert bench.report["failures"] == ["large: out of memory: CUDA out of memory. Tried to allocate 2 GiB."]
    assert json.loads((tmp_path / "gpu.json").read_text())["copy_gbps"] == 900.0


def test_a_gpu_that_is_gone_is_not_asked_again_and_what_was_measured_stays(bench, tmp_path):
    bench._section("copy_gbps", lambda: 900.0)
    bench._section("rows", raising(torch.AcceleratorError("CUDA error: device lost\nmore")))
    bench._section("leak", raising(AssertionError("asked again")))
    assert bench.report["failures"] == [
        "rows: the GPU stopped answering: CUDA error: device lost; what was measured before is in the report"
    ]
    assert json.loads((tmp_path / "gpu.json").read_text())["copy_gbps"] == 900.0


def test_a_kernel_that_fails_its_check_is_a_failure(bench, monkeypatch):
    wrong = gpu.gpu_kernels.Check("triton", (3, 4, 5), 1, "bfloat16", "walls", True, 0.5, 0.02)
    monkeypatch.setattr(gpu.gpu_kernels, "checks", lambda *arguments: [wrong])
    assert bench._check_kernels()[0]["passed"] is False
    assert bench.report["failures"] == [
        "kernels: triton at 3x4x5, bfloat16, walls: off by 0.5 of the largest value, 0.02 is allowed"
    ]


# The cap, on a GPU that is mocked


@pytest.fixture
def a_gpu(monkeypatch):
    """cuda:0 of 80 GB; `a_gpu(others, context)` sets what the driver counts before and takes for a context."""
    fractions = []

    def there(others: int, context: int) -> list[float]:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (80 * GB - others - context, 80 * GB))
        monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, device: fractions.append(share))
        monkeypatch.setattr(gpu.torch_memory, "uuid", lambda device: "abc")
        memory = GpuMemory(others, 80 * GB - others, 80 * GB)
        nothing = Absent("mocked")
        mine = Gpu(0, "Some GPU", "GPU-abc", memory, nothing, nothing, nothing, nothing)
        monkeypatch.setattr(gauges, "gpus", lambda: [mine])
        return fractions

    return there


def bench_on_cuda() -> gpu._Bench:
    return gpu._Bench(torch.device("cuda", 0), gpu.FULL, 24.0, 0, None)


def test_the_cap_counts_cudas_context_and_not_what_others_hold(a_gpu):
    fractions = a_gpu(others=10 * GB, context=GB // 2)
    assert bench_on_cuda()._cap() == {"cap_bytes": 24 * GB, "others_bytes": 10 * GB, "context_bytes": GB // 2}
    assert fractions == [pytest.approx(23.5 / 80)]


def test_a_gpu_that_others_have_filled_is_refused_with_what_would_help(a_gpu):
    fractions = a_gpu(others=60 * GB, context=GB)
    with pytest.raises(Stop, match=r"^cuda:0 has 20 GB free for the 24 GB of --cap; end what else runs on it") as refused:
        bench_on_cuda()._cap()
    assert refused.value.code == ExitCode.NO_DEVICE
    assert fractions == []


def test_a_gpu_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(Stop, match="cuda:5 is not there; the last one is cuda:1"):
        gpu._device("cuda:5")
    assert gpu._device("cuda") == torch.device("cuda", 0)


# Runs on a GPU that fails


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore"),
            "out of memory on cuda:0, with 4 at once: CUDA out of memory. Tried to allocate 2 GiB.",
        ),
        (
            torch.AcceleratorError("CUDA error: unspecified launch failure\nCUDA kernel errors might"),
            "cuda:0 stopped working: CUDA error: unspecified launch failure; the last checkpoint stands, and --resume goes on "
            "from it",
        ),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            "cuda:0 stopped working: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`; the last "
            "checkpoint stands, and --resume goes on from it",
        ),
        (RuntimeError("shapes do not match"), None),
        (ValueError("CUDA error in a file's name"), None),
    ],
    ids=["full", "lost", "libraries", "ours", "not a RuntimeError"],
)
def test_a_gpu_that_fails_is_one_sentence_and_a_mistake_of_ours_is_not_hidden(error, told):
    assert device_failure(error, torch.device("cuda", 0), ", with 4 at once") == told


def test_a_run_whose_gpu_is_lost_ends_with_3_a_reason_and_its_checkpoints(cli, tmp_path, monkeypatch):
    right = Trainer.step

    def lost(self, rows):
        if self.state.progress.step == 25:
            raise torch.AcceleratorError("CUDA error: device lost\nmore lines")
        return right(self, rows)

    monkeypatch.setattr(Trainer, "step", lost)
    threads = torch.get_num_threads()
    try:
        told = cli("train", "--preset", "tiny", "--set", "run.threads=1", "--runs-dir", tmp_path)
    finally:
        torch.set_num_threads(threads)
    assert told.code == ExitCode.NO_DEVICE
    assert "stopped working: CUDA error: device lost; the last checkpoint stands" in told.err
    (row,) = cli("runs", "--runs-dir", tmp_path, "--json").json["runs"]
    assert (row["state"], row["step"]) == ("failed", 25)
    assert [path.name for path in (Path(row["path"]) / "checkpoints").glob("step-*")] == ["step-00000020"]


def test_a_gpu_that_can_not_be_asked_for_its_memory_is_refused_before_anything_is_written(monkeypatch):
    def lost(device):
        raise torch.AcceleratorError("CUDA error: all CUDA-capable devices are busy or unavailable\nmore")

    monkeypatch.setattr(torch.cuda, "mem_get_info", lost)
    with pytest.raises(Stop, match=r"^cuda:0 can't be used: CUDA error: all CUDA-capable devices are busy") as refused:
        prepare.free_bytes(torch.device("cuda", 0))
    assert refused.value.code == ExitCode.NO_DEVICE


@pytest.mark.parametrize("rule", [[], ["rule.kind=linear"]], ids=["no rule", "linear rule"])
@pytest.mark.parametrize(("triton", "fits"), [(object(), True), (None, False)], ids=["triton", "no triton"])
def test_large_is_planned_for_the_kernel_that_a_gpu_will_run(triton, fits, rule, monkeypatch):
    from app import configure

    monkeypatch.setattr(prepare, "choose_device", lambda name: torch.device("cuda", 0))
    monkeypatch.setattr(prepare, "device_name", lambda device: "a GPU")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (80 * GB, 80 * GB))
    monkeypatch.setattr(prepare.importlib.util, "find_spec", lambda name: triton)
    threads = torch.get_num_threads()
    config = configure.load("large", None, rule).config
    try:
        with contextlib.nullcontext() if fits else pytest.raises(Stop, match="stage large does not fit") as refused:
            assert prepare.prepare_device(config) == torch.device("cuda", 0)
    finally:
        torch.set_num_threads(threads)
    if not fits:
        assert refused.value.code == ExitCode.NO_DEVICE
