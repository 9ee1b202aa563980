"""Gauges read the real machine; a reading that does not exist says why and is never zero."""

from __future__ import annotations

import sys
import threading
import time
import types

import psutil
import pytest

from monitors import gauges
from monitors.gauges import Absent, GpuMemory

MIB = 2**20


class FakeNvml(types.ModuleType):
    """The parts of NVML that are called, for two GPUs; `broken` names functions that raise, and with what."""

    class NVMLError(Exception):
        pass

    nvmlMemory_v2 = 2

    def __init__(self, **broken: str) -> None:
        super().__init__("pynvml")
        self.broken = broken
        self.calls: list[str] = []

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name in self.broken:
            raise self.NVMLError(self.broken[name])

    def nvmlInit(self) -> None:
        self._call("init")

    def nvmlDeviceGetCount(self) -> int:
        self._call("count")
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        self._call("handle")
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:
        self._call("name")
        return f"Card {handle}"

    def nvmlDeviceGetMemoryInfo(self, handle: int, version: int = 1) -> types.SimpleNamespace:
        self._call(f"memory_{version}")
        used = {1: 7, 2: 5}[version]  # version 1 counts the driver's reserve as used
        return types.SimpleNamespace(used=used * MIB + handle, free=(80 - used) * MIB, total=80 * MIB)


@pytest.fixture
def install(monkeypatch):
    """Puts a fake library in NVML's place and hands it back."""

    def put(nvml: FakeNvml) -> FakeNvml:
        monkeypatch.setitem(sys.modules, "pynvml", nvml)
        return nvml

    gauges._nvml.cache_clear()
    yield put
    gauges._nvml.cache_clear()


def test_absent_is_falsy_carries_its_reason_and_equals_no_number():
    absent = Absent("no driver")
    assert not absent
    assert absent.reason == "no driver"
    assert absent != 0


def test_host_memory_is_that_of_this_process_and_this_machine():
    memory = gauges.host_memory()
    assert memory.rss_bytes == pytest.approx(psutil.Process().memory_info().rss, rel=0.2)
    assert memory.total_bytes == psutil.virtual_memory().total
    assert memory.rss_bytes < memory.total_bytes
    assert 0 < memory.available_bytes < memory.total_bytes


def test_host_memory_that_cannot_be_read_is_absent_with_the_reason(monkeypatch):
    def hidden():
        raise OSError("/proc is hidden")

    monkeypatch.setattr(psutil, "virtual_memory", hidden)
    memory = gauges.host_memory()
    assert isinstance(memory, Absent)
    assert "/proc is hidden" in memory.reason


def test_peak_rss_is_in_bytes_and_keeps_a_peak_that_has_passed():
    before = gauges.peak_rss_bytes()
    block = bytearray(b"x") * max(64 * MIB, before - psutil.Process().memory_info().rss + 64 * MIB)
    size = len(block)
    del block
    assert gauges.peak_rss_bytes() >= before + 32 * MIB
    assert gauges.peak_rss_bytes() < before + 4 * size


def test_cpu_seconds_count_the_work_of_other_threads():
    spent: list[float] = []

    def work() -> None:
        begin = time.thread_time()
        while time.thread_time() - begin < 0.05:
            pass
        spent.append(time.thread_time() - begin)

    before = gauges.cpu_seconds()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert gauges.cpu_seconds() - before >= spent[0]


def test_gpu_memory_lists_every_gpu_without_the_drivers_own_reserve(install):
    install(FakeNvml())
    assert gauges.gpu_memory() == [
        GpuMemory(0, "Card 0", 5 * MIB, 75 * MIB, 80 * MIB),
        GpuMemory(1, "Card 1", 5 * MIB + 1, 75 * MIB, 80 * MIB),
    ]


def test_gpu_memory_takes_version_1_from_a_driver_that_knows_no_other(install):
    install(FakeNvml(memory_2="Function Not Found"))
    assert [gpu.used_bytes for gpu in gauges.gpu_memory()] == [7 * MIB, 7 * MIB + 1]


def test_gpu_memory_takes_version_1_from_a_library_without_the_symbol(install, monkeypatch):
    monkeypatch.delattr(FakeNvml, "nvmlMemory_v2")
    install(FakeNvml())
    assert [gpu.used_bytes for gpu in gauges.gpu_memory()] == [7 * MIB, 7 * MIB + 1]


def test_a_gpu_without_a_name_is_still_read(install):
    install(FakeNvml(name="Not Supported"))
    assert [gpu.name for gpu in gauges.gpu_memory()] == ["GPU 0", "GPU 1"]


@pytest.mark.parametrize("call", ["init", "count", "handle"])
def test_any_nvml_error_is_absent_with_its_message(install, call):
    install(FakeNvml(**{call: "Driver Not Loaded"}))
    reading = gauges.gpu_memory()
    assert isinstance(reading, Absent)
    assert "Driver Not Loaded" in reading.reason


def test_a_gpu_whose_memory_cannot_be_read_is_absent_naming_the_gpu(install):
    install(FakeNvml(memory_1="GPU is lost", memory_2="GPU is lost"))
    assert gauges.gpu_memory() == Absent("GPU 0: GPU is lost")


def test_a_machine_with_a_driver_but_no_gpu_is_absent(install, monkeypatch):
    monkeypatch.setattr(FakeNvml, "nvmlDeviceGetCount", lambda self: 0)
    install(FakeNvml())
    assert gauges.gpu_memory() == Absent("no NVIDIA GPU")


def test_without_the_library_readings_are_absent(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert gauges.gpu_memory() == Absent("nvidia-ml-py is not installed")


def test_the_library_is_initialised_once_and_again_only_after_a_failure(install):
    nvml = install(FakeNvml(init="Driver Not Loaded"))
    gauges.gpu_memory()
    nvml.broken = {}
    gauges.gpu_memory()
    gauges.gpu_memory()
    assert nvml.calls.count("init") == 2


def test_the_real_library_answers_with_gpus_or_a_reason(install):
    reading = gauges.gpu_memory()
    if isinstance(reading, Absent):
        assert reading.reason
    else:
        assert all(0 < gpu.used_bytes + gpu.free_bytes <= gpu.total_bytes for gpu in reading)
