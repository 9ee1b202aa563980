"""Volumes come back as they were written, and whatever else lies in their place is refused with a reason."""

from __future__ import annotations

import json
import os
import random
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitors import volumes
from monitors.gauges import Absent
from monitors.volumes import MOST_ALONG, CellField, Volume, Volumes, decode, encode, read_volume, strides

along = st.integers(1, 5)


@st.composite
def made(draw: st.DrawFn) -> Volume:
    shape = draw(st.tuples(along, along, along))
    cells = shape[0] * shape[1] * shape[2]
    names = draw(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=3, unique=True))
    scales = st.none() | st.floats(0, 1e6)
    fields = tuple(CellField(name, draw(st.binary(min_size=cells, max_size=cells)), draw(scales)) for name in names)
    return Volume(draw(st.integers(0, 10**9)), draw(st.integers(0, 31)), shape, shape, fields)


def counted(shape: tuple[int, int, int], step: int = 0) -> Volume:
    """Each cell's byte is its number."""
    cells = shape[0] * shape[1] * shape[2]
    return Volume(step, 0, shape, shape, (CellField("activity", bytes(range(cells)), 0.5),))


@settings(max_examples=100, deadline=None)
@given(made())
def test_a_volume_is_read_back_equal(volume):
    assert decode(encode(volume)) == volume


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_cut_is_the_layer_of_cells_across_its_axis(axis):
    x, y, z = shape = (2, 3, 4)
    volume = counted(shape)
    for index in range(shape[axis]):
        cells = [[(i * y + j) * z + k for k in range(z)] for i in range(x) for j in range(y)]
        if axis == 0:
            wanted = [cells[index * y + j] for j in range(y)]
        elif axis == 1:
            wanted = [cells[i * y + index] for i in range(x)]
        else:
            wanted = [[cells[i * y + j][index] for j in range(y)] for i in range(x)]
        assert [list(row) for row in volume.cut("activity", axis, index)] == wanted
    with pytest.raises(KeyError, match="cluster"):
        volume.cut("cluster", 0, 0)


def test_a_big_lattice_is_thinned_to_at_most_64_cells_an_axis():
    assert strides((64, 65, 300)) == (1, 2, 5)
    assert all(-(-cells // stride) <= MOST_ALONG for cells in range(1, 1000) for stride in strides((cells, 1, 1))[:1])


def test_fields_that_do_not_belong_to_the_shape_are_refused_when_written():
    with pytest.raises(ValueError, match="3 bytes for 4 cells"):
        encode(Volume(0, 0, (1, 1, 4), (1, 1, 4), (CellField("a", b"123"),)))
    with pytest.raises(ValueError, match="same name"):
        encode(Volume(0, 0, (1, 1, 1), (1, 1, 1), (CellField("a", b"1"), CellField("a", b"2"))))
    with pytest.raises(ValueError, match="has volumes of"):
        encode(Volume(0, 0, (1, 1, 4), (1, 1, 5), (CellField("a", b"1234"),)))


# Damage


def head(**changes: object) -> bytes:
    fields = {"format": 1, "step": 1, "stage": 0, "shape": [1, 1, 4], "lattice": [1, 1, 4]}
    return json.dumps(fields | {"fields": [{"name": "a", "scale": None}]} | changes).encode() + b"\n"


PACKED = zlib.compress(b"1234")
REFUSED = {
    "empty": (b"", "damaged"),
    "text": (b"hello\nworld", "damaged"),
    "another version": (head(format=2) + PACKED, "format"),
    "too long an axis": (head(shape=[1, 1, 65], lattice=[1, 1, 65]) + PACKED, "shape"),
    "no fields": (head(fields=[]) + PACKED, "fields"),
    "too many fields": (head(fields=[{"name": str(i), "scale": None} for i in range(9)]) + PACKED, "fields"),
    "not finite": (head(fields=[{"name": "a", "scale": 1}]).replace(b'"scale": 1', b'"scale": NaN') + PACKED, "scale"),
    "shape of another lattice": (head(lattice=[1, 1, 9]) + PACKED, "not (1, 1, 4)"),
    "no zlib": (head() + b"1234", "damaged"),
    "torn": (head() + PACKED[:-5], "not the 4 bytes"),
    "a byte short": (head() + zlib.compress(b"123"), "not the 4 bytes"),
    "a byte too many": (head() + zlib.compress(b"12345"), "not the 4 bytes"),
    "a tail": (head() + PACKED + b"x", "not the 4 bytes"),
    "a bomb": (head() + zlib.compress(bytes(50_000_000)), "not the 4 bytes"),
    "deep": (b'{"a":' * 5000 + b"\n", "damaged"),
}


def test_the_parts_that_damage_is_made_of_are_a_volume():
    assert decode(head() + PACKED) == Volume(1, 0, (1, 1, 4), (1, 1, 4), (CellField("a", b"1234"),))


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_volume_is_absent_with_a_reason(name):
    raw, reason = REFUSED[name]
    found = decode(raw)
    assert isinstance(found, Absent) and reason in found.reason


def test_thousands_of_damaged_files_are_refused_or_read_as_whole_volumes():
    draw, raw = random.Random(5), encode(counted((3, 4, 5), step=7))
    refused = 0
    for _ in range(5000):
        damaged = bytearray(raw)
        for _ in range(draw.randint(1, 4)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        if draw.random() < 0.3:
            del damaged[draw.randrange(len(damaged)) :]
        found = decode(bytes(damaged))
        if isinstance(found, Absent):
            refused += 1
        else:
            assert all(len(field.values) == 60 for field in found.fields) and found.shape == (3, 4, 5)
    assert refused > 3000


def test_a_bit_of_the_fields_that_was_changed_on_disk_never_changes_a_value_unnoticed():
    volume = counted((3, 4, 5))
    raw = encode(volume)
    for at in range(8 * (raw.index(b"\n") + 1), 8 * len(raw)):
        damaged = bytearray(raw)
        damaged[at // 8] ^= 1 << at % 8
        found = decode(bytes(damaged))
        assert isinstance(found, Absent) or found == volume  # a few bits only fill up the last byte


def test_a_giant_file_a_pipe_a_folder_and_a_link_are_not_read(tmp_path):
    giant, pipe, folder, link = (tmp_path / name for name in ("giant", "pipe", "folder", "link"))
    with giant.open("wb") as stream:
        stream.truncate(volumes.MOST_FILE_BYTES + 1)
    os.mkfifo(pipe)
    folder.mkdir()
    link.symlink_to(giant)
    reasons = {giant: "a volume at most 4000000", **dict.fromkeys((pipe, folder, link), "is not a plain file")}
    for path, reason in (reasons | {tmp_path / "gone": "No such file"}).items():
        found = read_volume(path)
        assert isinstance(found, Absent) and reason in found.reason and path.name in found.reason


# The folder


def test_a_volume_is_saved_for_its_owner_alone_and_found_by_its_step_or_the_next_later_one(tmp_path):
    folder = Volumes(tmp_path / "volumes")
    assert folder.at(10) is None and folder.oldest() is None
    for step in (10, 20, 30):
        path, size = folder.save(counted((2, 2, 2), step))
        assert path.stat().st_size == size and path.stat().st_mode & 0o777 == 0o600
    assert folder.path.stat().st_mode & 0o777 == 0o700
    assert [folder.at(step) and folder.at(step).name[5:13] for step in (9, 10, 29, 99)] == [
        None, "00000010", "00000020", "00000030",
    ]  # fmt: skip
    assert folder.oldest() == 10
    assert read_volume(folder.at(29)) == counted((2, 2, 2), 20)


def test_the_oldest_go_when_there_are_too_many_or_too_many_bytes(tmp_path):
    few = Volumes(tmp_path / "few", most_files=3)
    for step in range(10):
        few.save(counted((2, 2, 2), step))
    assert [path.name[5:13] for path in sorted(few.path.iterdir())] == ["00000007", "00000008", "00000009"]

    size = len(encode(counted((2, 2, 2))))
    small = Volumes(tmp_path / "small", most_bytes=2 * size + 1)
    for step in range(5):
        small.save(counted((2, 2, 2), step))
    assert [path.name[5:13] for path in sorted(small.path.iterdir())] == ["00000003", "00000004"]
    tiny = Volumes(tmp_path / "tiny", most_bytes=1)
    tiny.save(counted((2, 2, 2), 1))
    assert len(list(tiny.path.iterdir())) == 1, "the one just written stays"


def test_rewinding_removes_later_volumes_and_halves_and_nothing_else(tmp_path):
    folder = Volumes(tmp_path / "volumes")
    folder.rewind(5)  # a run that has none
    for step in (10, 20, 30):
        folder.save(counted((2, 2, 2), step))
    half, other = folder.path / ".step-00000040.volume.x1.tmp", folder.path / "notes.txt"
    half.touch()
    other.touch()
    folder.rewind(20)
    assert sorted(path.name for path in folder.path.iterdir()) == [
        "notes.txt", "step-00000010.volume", "step-00000020.volume",
    ]  # fmt: skip


def test_volumes_up_to_a_step_are_taken_from_another_run_and_nothing_else(tmp_path):
    folder, other = Volumes(tmp_path / "ours"), Volumes(tmp_path / "theirs")
    folder.take(other, 20)
    assert not folder.path.exists()
    for step in (10, 20, 30):
        other.save(counted((2, 2, 2), step))
    (other.path / "step-00000015.volume").symlink_to("/dev/zero")
    (other.path / "step-00000016.volume").write_bytes(b"damaged")
    folder.take(other, 20)
    found = {path.name: path.read_bytes() for path in folder.path.iterdir()}
    assert found == {name: (other.path / name).read_bytes() for name in ("step-00000010.volume", "step-00000020.volume")}
    assert folder.path.stat().st_mode & 0o777 == 0o700


def test_a_save_that_fails_leaves_the_volumes_that_stand(tmp_path, monkeypatch):
    folder = Volumes(tmp_path / "volumes")
    folder.save(counted((2, 2, 2), 1))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(volumes, "atomic_write", full)
    with pytest.raises(OSError, match="No space"):
        folder.save(counted((2, 2, 2), 2))
    assert folder.at(9) == folder.path / "step-00000001.volume"
