"""Tests of the volume monitor and the memory monitor."""

from __future__ import annotations

import math

import pytest
import torch

from lattice.observing.decode_monitor import DecodeMonitor, active_share
from lattice.observing.memory_monitor import MemoryMonitor, sampled
from lattice.observing.volume_monitor import VolumeMonitor, volume_of
from monitors import torch_memory, volumes
from monitors.events import Decoded, MemorySampled, Trained, VolumeSaved, Warned
from monitors.gauges import Absent
from monitors.volumes import Volume, Volumes, read_volume


def watched(bench, folder, *assignments: str):
    run = bench(*assignments, callbacks=(DecodeMonitor(), VolumeMonitor(folder), MemoryMonitor()))
    run.trainer.run()
    return run


# Volumes


def test_every_look_leaves_a_volume_of_the_activity_it_measured(bench, tmp_path):
    run = watched(bench, tmp_path / "volumes")
    saved, looks = run.heard.of(VolumeSaved), run.heard.of(Decoded)
    assert [(event.step, event.stage) for event in saved] == [(look.step, look.stage) for look in looks]
    assert [look.step for look in looks] == [4, 6, 8, 12]
    for event, look in zip(saved, looks, strict=True):
        path = tmp_path / event.file
        volume = read_volume(path)
        assert isinstance(volume, Volume) and volume.step == event.step and volume.shape == event.shape
        assert path.stat().st_size == event.bytes and event.fields == tuple(field.name for field in volume.fields)
        threshold = run.trainer.state.config.stages[event.stage].activity_threshold
        activity = volume.named("activity")
        active = sum(byte / 255 * activity.scale > threshold for byte in activity.values) / len(activity.values)
        assert active == pytest.approx(look.active_share, abs=0.05)


def test_watching_changes_nothing_in_what_is_learned(bench, tmp_path):
    alone, seen = bench(callbacks=(DecodeMonitor(),)), watched(bench, tmp_path / "volumes")
    alone.trainer.run()
    assert [event.loss for event in alone.heard.of(Trained)] == [event.loss for event in seen.heard.of(Trained)]


def test_activity_is_scaled_by_its_99th_percentile_and_thinned_by_the_strides():
    change = torch.zeros(70, 2, 3)
    change[::2] = torch.arange(35 * 6).view(35, 2, 3).float()
    volume = volume_of(change, None, step=3, stage=1)
    assert (volume.shape, volume.lattice, volume.step, volume.stage) == ((35, 2, 3), (70, 2, 3), 3, 1)
    (activity,) = volume.fields
    assert activity.scale == 207.0  # the 208th of 210 values
    assert list(activity.values) == [round(min(value / 207, 1) * 255) for value in range(210)]


def test_a_lattice_at_rest_and_one_with_a_single_active_cell_keep_their_scale():
    rest = volume_of(torch.zeros(2, 2, 2), None, 0, 0).fields[0]
    assert (rest.values, rest.scale) == (bytes(8), 0.0)
    change = torch.zeros(10, 10, 10)
    change[1, 2, 3] = 0.5
    one = volume_of(change, None, 0, 0).fields[0]
    assert one.scale == 0.5 and one.values[123] == 255 and sum(one.values) == 255


def test_labels_are_written_as_they_are_and_those_past_a_byte_share_its_last_value():
    labels = torch.tensor([0, 7, 254, 255, 256, 5000]).view(1, 2, 3)
    volume = volume_of(torch.ones(1, 2, 3), labels, 0, 0)
    assert list(volume.named("cluster").values) == [0, 7, 254, 255, 255, 255] and volume.named("cluster").scale is None


def test_clusters_of_the_model_are_in_the_volume_where_the_functional_tier_is_on(bench, tmp_path):
    run = watched(bench, tmp_path / "v", "stages.0.clustering={clusters=4}", "stages.1.clustering={clusters=0}")
    volume = read_volume(Volumes(tmp_path / "v").at(4))
    assert volume.named("cluster").values == bytes(cell * 4 // 96 for cell in range(96))
    assert read_volume(Volumes(tmp_path / "v").at(12)).named("cluster") is None
    assert run.heard.of(VolumeSaved)[0].fields == ("activity", "cluster")


def test_without_a_lattice_there_is_no_volume_and_no_active_cell(bench, tmp_path):
    run = watched(bench, tmp_path / "volumes", "lattice.arm=identity")
    assert run.heard.of(VolumeSaved) == run.heard.of(Warned) == [] and not (tmp_path / "volumes").exists()
    assert {look.active_share for look in run.heard.of(Decoded)} == {0.0}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_activity_that_is_not_finite_is_no_volume(value):
    change = torch.ones(2, 2, 2)
    change[0, 1, 0] = value
    with pytest.raises(ValueError, match="not finite"):
        volume_of(change, None, 0, 0)


def test_a_full_disk_costs_the_volumes_and_one_warning_but_not_the_run(bench, tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(volumes, "atomic_write", full)
    run = watched(bench, tmp_path / "volumes")
    assert run.trainer.state.progress.step == 12 and run.heard.of(VolumeSaved) == []
    (warned,) = run.heard.of(Warned)
    assert warned.step == 4 and "no volume of the lattice saved" in warned.message and "No space" in warned.message


def test_the_active_share_counts_cells_above_the_threshold():
    change = torch.tensor([0.0, 0.1, 0.2, 0.3]).view(1, 2, 2)
    assert active_share(change, 0.15) == 0.5 and active_share(None, 0.15) == 0.0


# Memory


def test_memory_is_told_at_the_first_step_and_at_every_look(bench, tmp_path):
    run = watched(bench, tmp_path / "volumes")
    assert [(event.step, event.stage) for event in run.heard.of(MemorySampled)] == [(1, 0), (4, 0), (6, 0), (8, 1), (12, 1)]
    for event in run.heard.of(MemorySampled):
        assert (event.device, event.device_uuid, event.allocated_bytes, event.reserved_bytes) == ("cpu", "", None, None)
        assert 10**8 < event.rss_bytes <= event.peak_bytes * 1.01


def test_a_first_step_that_is_looked_at_is_told_once(bench, tmp_path):
    run = watched(bench, tmp_path / "volumes", "decode.every=1")
    assert [event.step for event in run.heard.of(MemorySampled)] == list(range(1, 13))


def test_on_a_gpu_its_uuid_and_the_allocators_counts_are_told(monkeypatch):
    for name, value in {"uuid": "5c1a", "allocated": 1, "reserved": 2, "most_held": 3}.items():
        monkeypatch.setattr(torch_memory, name, lambda device, value=value: value)
    event = sampled(torch.device("cuda", 1), step=7, stage=1)
    assert (event.device, event.device_uuid, event.step, event.stage) == ("cuda:1", "5c1a", 7, 1)
    assert (event.allocated_bytes, event.reserved_bytes, event.peak_bytes) == (1, 2, 3)


def test_a_count_of_zero_bytes_is_a_zero_and_no_count_is_none(monkeypatch):
    monkeypatch.setattr(torch_memory, "allocated", lambda device: 0)
    monkeypatch.setattr(torch_memory, "reserved", lambda device: Absent("no CUDA device"))
    event = sampled(torch.device("cpu"), 0, 0)
    assert event.allocated_bytes == 0 and event.reserved_bytes is None
