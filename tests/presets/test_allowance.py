"""A run takes the cores and the memory that its container or job allows, not those of the machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from monitors import gauges
from presets import allowance
from presets.allowance import MemoryLimit, cores, memory_limit, threads
from presets.layers import load
from presets.plan import explain, on_device, plan

GB = 10**9


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    """A machine with 8 cores, whose control groups a test writes."""
    monkeypatch.setattr(allowance, "PROC", tmp_path / "proc")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    (tmp_path / "proc").mkdir()


def group(mount: Path, path: str, **files: object) -> None:
    folder = mount / path.lstrip("/")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


def version_2(tmp_path: Path, path: str, root: str = "/") -> Path:
    mount = tmp_path / "unified"
    (tmp_path / "proc" / "cgroup").write_text(f"0::{path}\n")
    (tmp_path / "proc" / "mountinfo").write_text(
        f"22 1 0:21 / / rw - ext4 /dev/root rw\n30 22 0:26 {root} {mount} rw,nosuid shared:4 - cgroup2 cgroup2 rw\n"
    )
    return mount


def version_1(tmp_path: Path, path: str, root: str = "/") -> tuple[Path, Path]:
    memory, cpu = tmp_path / "memory", tmp_path / "cpu"
    (tmp_path / "proc" / "cgroup").write_text(f"5:memory:{path}\n4:cpu,cpuacct:{path}\n1:name=systemd:/\n0::/\n")
    (tmp_path / "proc" / "mountinfo").write_text(
        f"31 30 0:27 {root} {memory} rw - cgroup cgroup rw,memory\n32 30 0:28 {root} {cpu} rw - cgroup cgroup rw,cpu,cpuacct\n"
    )
    return memory, cpu


def test_without_control_groups_the_machine_is_the_limit():
    assert (memory_limit(), cores(), threads(0)) == (None, 8, 8)


def test_version_2_takes_the_lowest_limit_on_the_way_to_the_root(tmp_path):
    mount = version_2(tmp_path, "/job/step")
    group(mount, "/job", memory__max=4 * GB, memory__current=3 * GB, memory__stat=f"anon 5\ninactive_file {GB}")
    group(mount, "/job/step", memory__max="max", memory__current=GB, cpu__max="max 100000")
    assert memory_limit() == MemoryLimit(limit_bytes=4 * GB, free_bytes=2 * GB)
    group(mount, "/job/step", memory__max=3 * GB, memory__current=0)
    assert memory_limit() == MemoryLimit(limit_bytes=3 * GB, free_bytes=2 * GB)


def test_version_1_reads_memory_and_quota_from_hierarchies_of_their_own(tmp_path):
    memory, cpu = version_1(tmp_path, "/job")
    group(memory, "/", memory__limit_in_bytes=9223372036854771712, memory__usage_in_bytes=7 * GB)
    stat = f"inactive_file 1\ntotal_inactive_file {GB}"
    group(memory, "/job", memory__limit_in_bytes=2 * GB, memory__usage_in_bytes=2 * GB, memory__stat=stat)
    group(cpu, "/job", cpu__cfs_quota_us=250000, cpu__cfs_period_us=100000)
    assert memory_limit() == MemoryLimit(limit_bytes=2 * GB, free_bytes=GB)
    assert cores() == 3
    group(cpu, "/job", cpu__cfs_quota_us=-1)
    assert cores() == 8


@pytest.mark.parametrize(("path", "root"), [("/docker/abc", "/docker/abc"), ("/docker/abc", "/"), ("/", "/"), ("/../x", "/..")])
def test_in_a_container_its_own_group_is_the_root_of_what_it_sees(path, root, tmp_path):
    mount = version_2(tmp_path, path, root)
    group(mount, "/", memory__max=GB, memory__current=0, cpu__max="150000 100000")
    assert memory_limit() == MemoryLimit(GB, GB)
    assert cores() == 2


def test_damaged_files_are_no_limit(tmp_path):
    mount = version_2(tmp_path, "/")
    group(mount, "/", memory__max="much", cpu__max="")
    assert (memory_limit(), cores()) == (None, 8)
    (tmp_path / "proc" / "cgroup").write_bytes(b"\xff:\n5\n::::")
    (tmp_path / "proc" / "mountinfo").write_text("\n - \ncgroup2 - cgroup2\n")
    assert (memory_limit(), cores()) == (None, 8)


@pytest.mark.parametrize(("asked", "got"), [("3", 3), ("3,2", 3), (" 16 ", 16), ("0", 2), ("", 2), ("many", 2), ("-1", 2)])
def test_threads_are_those_of_the_config_then_of_the_environment_then_of_the_quota(asked, got, tmp_path, monkeypatch):
    group(version_2(tmp_path, "/"), "/", cpu__max="200000 100000")
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert threads(0) == got
    assert threads(5) == 5


def test_a_plan_fits_what_the_container_may_hold(tmp_path):
    config = load("baseline", None, ()).config
    (free,) = plan(on_device(config, "cpu"))
    group(version_2(tmp_path, "/"), "/", memory__max=free.total_bytes - 10_000_000, memory__current=0)
    (held,) = plan(on_device(config, "cpu"))
    assert held.fits and held.micro_batch < free.micro_batch
    assert held.budget_bytes == free.total_bytes - 10_000_000
    assert plan(on_device(config, "cuda"))[0].budget_bytes == free.budget_bytes


def test_a_plan_that_the_container_can_not_hold_does_not_advise_a_larger_budget(tmp_path):
    group(version_2(tmp_path, "/"), "/", memory__max=GB, memory__current=0)
    (stage,) = plan(on_device(load("large", None, ()).config, "cpu"))
    assert "over the budget of 1.00 GB, which is what this container or job may hold; " in explain(stage)
    assert "memory_budget_gb" not in explain(stage)


def test_the_gauges_show_what_the_container_may_hold(tmp_path):
    group(version_2(tmp_path, "/"), "/", memory__max=50_000_000, memory__current=20_000_000)
    memory = gauges.host_memory()
    assert (memory.available_bytes, memory.total_bytes) == (30_000_000, 50_000_000)
