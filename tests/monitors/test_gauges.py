"""Gauges read the real machine; a reading that does not exist says why and is never zero."""

from __future__ import annotations

import sys
import threading
import time
import types
from dataclasses import replace

import psutil
import pytest

from monitors import gauges
from monitors.gauges import Absent, Gpu, GpuMemory, same_gpu

MIB = 2**20


class FakeNvml(types.ModuleType):
    """The parts of NVML that are called, for two GPUs; `broken` names functions that raise, and with what."""

    class NVMLError(Exception):
        pass

    nvmlMemory_v2 = 2
    NVML_TEMPERATURE_GPU = 0

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

    def nvmlDeviceGetMigMode(self, handle: int) -> tuple[int, int]:
        self._call("mig")
        return 0, 0

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        self._call("uuid")
        return f"GPU-00{handle}"

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> types.SimpleNamespace:
        self._call("busy")
        return types.SimpleNamespace(gpu=93, memory=40)

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        self._call("power_w")
        return 612_500

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: int) -> int:
        self._call("power_limit_w")
        return 700_000

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:
        self._call("temperature_c")
        assert sensor == self.NVML_TEMPERATURE_GPU
        return 61


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


def test_every_gpu_is_listed_with_its_readings_and_memory_without_the_drivers_own_reserve(install):
    install(FakeNvml())
    rest = {"busy": 0.93, "power_w": 612.5, "power_limit_w": 700.0, "temperature_c": 61.0}
    assert gauges.gpus() == [
        Gpu(0, "Card 0", "GPU-000", GpuMemory(5 * MIB, 75 * MIB, 80 * MIB), **rest),
        Gpu(1, "Card 1", "GPU-001", GpuMemory(5 * MIB + 1, 75 * MIB, 80 * MIB), **rest),
    ]


def test_memory_is_asked_by_version_1_of_a_driver_that_knows_no_other(install):
    install(FakeNvml(memory_2="Function Not Found"))
    assert [gpu.memory.used_bytes for gpu in gauges.gpus()] == [7 * MIB, 7 * MIB + 1]


def test_memory_is_asked_by_version_1_of_a_library_without_the_symbol(install, monkeypatch):
    monkeypatch.delattr(FakeNvml, "nvmlMemory_v2")
    install(FakeNvml())
    assert [gpu.memory.used_bytes for gpu in gauges.gpus()] == [7 * MIB, 7 * MIB + 1]


def test_a_gpu_without_a_name_is_still_read(install):
    install(FakeNvml(name="Not Supported"))
    assert [gpu.name for gpu in gauges.gpus()] == ["GPU 0", "GPU 1"]


READINGS = ("uuid", "busy", "power_w", "power_limit_w", "temperature_c")


@pytest.mark.parametrize("name", READINGS)
def test_a_reading_that_fails_says_why_and_hides_no_other(install, name):
    install(FakeNvml())
    whole = gauges.gpus()
    install(FakeNvml(**{name: "Not Supported"}))
    gauges._nvml.cache_clear()
    assert gauges.gpus() == [replace(gpu, **{name: Absent("Not Supported")}) for gpu in whole]


def test_memory_that_cannot_be_read_hides_no_other_reading(install):
    install(FakeNvml(memory_1="GPU is lost", memory_2="Unknown Error"))
    for gpu in gauges.gpus():
        assert gpu.memory == Absent("GPU is lost")
        assert gpu.busy == 0.93


def test_a_gpu_that_is_split_into_mig_instances_says_that_with_each_reading_it_refuses(install, monkeypatch):
    monkeypatch.setattr(FakeNvml, "nvmlDeviceGetMigMode", lambda self, handle: (1, 1))
    denied = "Insufficient Permissions"
    install(FakeNvml(memory_1=denied, memory_2=denied, busy=denied))
    gpu = gauges.gpus()[0]
    assert gpu.memory == gpu.busy == Absent("Insufficient Permissions; it is split into MIG instances")
    assert gpu.temperature_c == 61.0


def test_a_driver_that_knows_no_mig_is_read_as_before(install):
    install(FakeNvml(mig="Not Supported", busy="Not Supported"))
    assert gauges.gpus()[0].busy == Absent("Not Supported")


@pytest.mark.parametrize("call", ["init", "count"])
def test_a_driver_that_does_not_answer_is_absent_with_its_message(install, call):
    install(FakeNvml(**{call: "Driver Not Loaded"}))
    reading = gauges.gpus()
    assert isinstance(reading, Absent)
    assert "Driver Not Loaded" in reading.reason


def test_a_gpu_without_a_handle_is_listed_with_the_reason_in_every_reading(install):
    install(FakeNvml(handle="GPU is lost"))
    for gpu in gauges.gpus():
        assert {getattr(gpu, name) for name in (*READINGS, "memory")} == {Absent("GPU is lost")}


def test_a_machine_with_a_driver_but_no_gpu_is_absent(install, monkeypatch):
    monkeypatch.setattr(FakeNvml, "nvmlDeviceGetCount", lambda self: 0)
    install(FakeNvml())
    assert gauges.gpus() == Absent("no NVIDIA GPU")


def test_uuids_are_the_same_gpu_whether_nvml_or_cuda_wrote_them():
    assert same_gpu("GPU-5c1a-77", "5c1a-77") and same_gpu("MIG-5C1A-77", "5c1a-77")
    assert not same_gpu("GPU-5c1a-77", "5c1a-78") and not same_gpu("", "") and not same_gpu("GPU-", "")


def test_without_the_library_readings_are_absent(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert gauges.gpus() == Absent("nvidia-ml-py is not installed")


def test_the_library_is_initialised_once_and_again_only_after_a_failure(install):
    nvml = install(FakeNvml(init="Driver Not Loaded"))
    gauges.gpus()
    nvml.broken = {}
    gauges.gpus()
    gauges.gpus()
    assert nvml.calls.count("init") == 2


def test_the_real_library_answers_with_gpus_or_a_reason(install):
    reading = gauges.gpus()
    if isinstance(reading, Absent):
        assert reading.reason
    else:
        for memory in (gpu.memory for gpu in reading):
            assert isinstance(memory, Absent) or 0 < memory.used_bytes + memory.free_bytes <= memory.total_bytes
