"""torch's allocator is read on CUDA devices; elsewhere there is no reading, and it is not a zero."""

from __future__ import annotations

from types import SimpleNamespace
from uuid import UUID

import pytest
import torch

from monitors import torch_memory
from monitors.gauges import Absent

READINGS = [torch_memory.allocated, torch_memory.reserved, torch_memory.peak, torch_memory.uuid]
NO_DEVICE = Absent("no CUDA device")


@pytest.mark.parametrize("read", READINGS)
@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")], ids=["name", "device"])
def test_the_cpu_has_no_reading(read, device):
    assert read(device) == NO_DEVICE


@pytest.mark.parametrize("read", READINGS)
@pytest.mark.parametrize(("device", "count"), [("cuda", 0), ("cuda:0", 0), ("cuda:1", 1)])
def test_a_cuda_device_that_is_not_there_has_no_reading(read, device, count, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert read(device) == NO_DEVICE


def test_resetting_the_peak_without_a_cuda_device_does_nothing(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: pytest.fail("asked torch to reset"))
    torch_memory.reset_peak("cpu")
    torch_memory.reset_peak("cuda")


def test_each_reading_asks_the_allocator_for_its_own_count_of_that_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for number, name in enumerate(["memory_allocated", "memory_reserved", "max_memory_allocated"]):
        monkeypatch.setattr(torch.cuda, name, lambda device, number=number: (number, device))
    counts = [torch_memory.allocated, torch_memory.reserved, torch_memory.peak]
    assert [read("cuda:1") for read in counts] == [(0, "cuda:1"), (1, "cuda:1"), (2, "cuda:1")]


def test_the_uuid_is_text_of_that_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=UUID(int=7)))
    assert torch_memory.uuid("cuda:1") == "00000000-0000-0000-0000-000000000007"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_peak_outlives_the_tensor_until_it_is_reset():
    size = 2**24
    torch_memory.reset_peak("cuda")
    before = torch_memory.allocated("cuda")
    tensor = torch.zeros(size, dtype=torch.uint8, device="cuda")
    assert torch_memory.allocated("cuda") >= before + size
    assert torch_memory.reserved("cuda") >= torch_memory.allocated("cuda")
    del tensor
    assert torch_memory.peak("cuda") >= before + size
    torch_memory.reset_peak("cuda")
    assert torch_memory.peak("cuda") < before + size
