"""Formats by name and by content, compressed files, columns, folders of many things, and all bad lines in one message."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
import sys
from pathlib import Path

import pytest

from lattice.data.corpus import load_corpus, pairs_to_score
from lattice.data.pair import DataError, Pair
from lattice.data.reading import read_pairs
from presets.schema import Data
from presets.text_memory import PACKED_BYTES, text_on_disk
from tests.lattice.data.test_data import config_of, same, write

PAIR_LINES = ('{"source": "a b", "target": "c"}', '{"source": "d", "target": "e f"}')
PAIRS = [Pair("a b", "c"), Pair("d", "e f")]


def read(path: Path, task: str = "reconstruct") -> tuple[list[Pair], list[str]]:
    """The pairs of a file or folder, and the notes."""
    notes: list[str] = []
    return list(read_pairs(path, task, notes)), notes


def refusal(path: Path, task: str = "reconstruct") -> str:
    with pytest.raises(DataError) as refused:
        list(read_pairs(path, task))
    return str(refused.value)


# Formats


@pytest.mark.parametrize("name", ["x.jsonl", "x.JSONL", "x.ndjson", "x.json", "x.Json", "x.dat", "x"])
def test_json_lines_are_pairs_under_every_name_but_that_of_plain_text(tmp_path, name):
    path = write(tmp_path / name, *PAIR_LINES)
    assert read(path, "pairs")[0] == PAIRS


@pytest.mark.parametrize("name", ["x.txt", "X.TXT"])
def test_json_lines_named_as_plain_text_are_refused_with_the_name_to_give(tmp_path, name):
    path = write(tmp_path / name, *PAIR_LINES)
    assert "name it" in refusal(path) and ".jsonl" in refusal(path)


def test_a_json_list_of_objects_is_read_and_a_bad_item_is_named(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps([{"source": pair.source, "target": pair.target} for pair in PAIRS], indent=2))
    assert read(path, "pairs")[0] == PAIRS
    path.write_text('[{"source": "a"}, "b"]')
    assert refusal(path).startswith(f"{path}: item 2 is not a JSON object")
    path.write_text('[{"source": "a"},')
    assert "is not a JSON list" in refusal(path)


@pytest.mark.parametrize("name", ["x.tsv", "x.TSV"])
def test_columns_by_tab_under_either_case(tmp_path, name):
    assert read(write(tmp_path / name, "a b\tc", "d\te f"), "pairs")[0] == PAIRS


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip), (".bz2", bz2), (".xz", lzma), (".GZ", gzip)])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.TSV"])
def test_packed_files_are_read_as_what_is_in_them(tmp_path, suffix, pack, name):
    plain = write(tmp_path / name, *(PAIR_LINES if "json" in name else ("a b", "d")))
    packed = tmp_path / "packed" / (name + suffix)
    packed.parent.mkdir()
    packed.write_bytes(pack.compress(plain.read_bytes()))
    assert read(packed)[0] == read(packed.parent)[0] == read(plain)[0] == same("a b", "d")
    assert text_on_disk(Data(train=str(packed))) == PACKED_BYTES * packed.stat().st_size
    assert text_on_disk(Data(train=str(packed.parent))) == PACKED_BYTES * packed.stat().st_size


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt.gz", gzip.compress(b"one\ntwo\n" * 99, mtime=0)[:-9], "is damaged or cut off"),
        ("a.txt.xz", lzma.compress(b"one\ntwo\n" * 99)[:-20], "is damaged or cut off"),
        ("a.txt.gz", b"one\ntwo\n", "take .gz off its name"),
        ("a.zip", b"PK\x03\x04rest", "is a zip archive"),
        ("a.txt.zst", b"\x28\xb5\x2f\xfdrest", "is compressed by zstd"),
        ("a.txt", "one\ntwo\n".encode("utf-16"), "UTF-16; convert the file (iconv -f UTF-16 "),
        ("a.jsonl", "one\ntwo\n".encode("utf-16-le"), "UTF-16LE; convert"),
        ("a.csv", "one\ntwo\n".encode("utf-16-be"), "UTF-16BE; convert"),
        ("a.txt", b"\x7fELF\0\1\2", "line 1 holds a zero byte"),
        ("a.txt", "one\ntwo\n".encode("utf-32"), "UTF-32; convert"),
        ("a.txt", b"one\rtwo\rthree\r", "end by CR alone"),
        ("a.tsv", b"one\ta\rtwo\tb", "end by CR alone"),
        ("._a.txt", b"\0\5\x16\7\0\2\0\0Mac OS X        ", "is what macOS keeps beside a file"),
    ],
)
def test_what_is_no_utf_8_text_is_called_by_its_name_with_what_to_do(tmp_path, name, content, says):
    path = tmp_path / name
    path.write_bytes(content)
    assert refusal(path).startswith(f"{path}: ") and says in refusal(path)


# Columns


@pytest.mark.parametrize("head", [None, "source\ttarget", "Target\tid\tSOURCE"])
def test_a_first_line_names_the_columns_of_a_tsv(tmp_path, head):
    rows = [f"{p.target}\t7\t{p.source}" if head and "id" in head else f"{p.source}\t{p.target}" for p in PAIRS]
    path = write(tmp_path / "a.tsv", *([head] if head else []), *rows)
    assert read(path, "pairs")[0] == PAIRS
    assert read(path)[0] == same("a b", "d")


def test_a_third_column_of_pairs_is_refused_and_an_empty_one_is_none(tmp_path):
    assert read(write(tmp_path / "a.tsv", "a b\tc\t", "d\te f\t "), "pairs")[0] == PAIRS
    message = refusal(write(tmp_path / "b.tsv", "a\tb\tc", "d\te\tf\tg"), "pairs")
    assert "line 1 has 3 columns" in message and "line 2 has 4 columns" in message and "name the columns" in message
    assert read(write(tmp_path / "c.tsv", "a\tb\tc", "d\te\tf"))[0] == same("a", "d")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_has_named_columns_quotes_and_line_breaks_in_them(tmp_path, delimiter):
    path = tmp_path / "a.csv"
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        rows = [["id", "source", "target"], ["1", 'well, "a"; b', "two\nlines"], [], ["2", "d", "e"]]
        csv.writer(file, delimiter=delimiter).writerows(rows)
    assert read(path, "pairs")[0] == [Pair('well, "a"; b', "two lines"), Pair("d", "e")]


def test_csv_without_names_is_one_column_of_text_or_two_of_pairs(tmp_path):
    path = write(tmp_path / "a.csv", "a b,c", "d,e f")
    assert read(path, "pairs")[0] == PAIRS
    assert "line 1 has 2 columns" in refusal(path)
    assert read(write(tmp_path / "b.csv", "a b", '"d, e"'))[0] == same("a b", "d, e")
    assert "is not CSV" in refusal(write(tmp_path / "c.csv", "source,target", '"a,b', "c,d"), "pairs")
    assert "line 2 has 1 columns, fewer" in refusal(write(tmp_path / "d.csv", "source,target", "a"), "pairs")


def test_parquet_has_columns_by_name(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    columns = {"id": [1, 2], "target": [pair.target for pair in PAIRS], "source": [pair.source for pair in PAIRS]}
    parquet.write_table(arrow.table(columns), path)
    assert read(path, "pairs")[0] == PAIRS
    parquet.write_table(arrow.table({"text": ["a"]}), path)
    assert "none is named source" in refusal(path)
    path.write_bytes(b"no parquet")
    assert "is not a parquet file" in refusal(path)


def test_parquet_without_its_library_is_refused_with_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    assert "pip install pyarrow" in refusal(tmp_path / "a.parquet")


# Folders


def test_a_folder_reads_every_text_and_names_and_counts_the_rest(tmp_path):
    write(tmp_path / "a.txt", "one")
    (tmp_path / "b.TXT.gz").write_bytes(gzip.compress(b"two\n", mtime=0))
    write(tmp_path / "c.csv", "source,n", "three,1")
    write(tmp_path / "meta.json", '{"rows": 3}')
    write(tmp_path / "table.csv", "id,size", "1,2")
    (tmp_path / "._a.txt").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        ")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "a.txt").write_bytes(b"\0\5\x16\7")
    (tmp_path / ".DS_Store").write_bytes(b"\0\0\0\1")
    for number in range(8):
        (tmp_path / f"note{number}.md").write_text("text")
    pairs, (note,) = read(tmp_path)
    assert pairs == same("one", "two", "three")
    assert note.startswith(f"{tmp_path}: 12 files in it not read: ._a.txt, __MACOSX/a.txt, meta.json (line 1 is not a JSON")
    assert note.endswith(" and 2 more")


def test_a_folder_with_nothing_to_read_names_what_is_there(tmp_path):
    write(tmp_path / "table.csv", "id,size", "1,2")
    assert "1 file in it not read: table.csv (line 1 has 2 columns" in refusal(tmp_path)


def test_notes_reach_corpus_and_scoring(tmp_path):
    write(tmp_path / "a.jsonl", *PAIR_LINES)
    write(tmp_path / "b.md", "text")
    for task in ("reconstruct", "denoise"):
        config = config_of(train=str(tmp_path), task=task)
        corpus, notes = load_corpus(config), []
        pairs_to_score(tmp_path, config, {}, notes)
        assert corpus.notes == tuple(notes)
        assert len(notes) == 2 and "b.md" in notes[0]
        assert notes[1] == f"{tmp_path}: the task is {task}, so targets are not used; --task pairs trains on them"


# Lines


@pytest.mark.parametrize("target", ["null", "5", '["x"]', '""'])
@pytest.mark.parametrize("task", ["reconstruct", "denoise", "continue"])
def test_a_target_that_the_task_does_not_use_is_not_looked_at(tmp_path, target, task):
    assert read(write(tmp_path / "a.jsonl", f'{{"source": "a b", "target": {target}}}'), task)[0] == same("a b")


def test_all_bad_lines_are_told_at_once_the_first_ten_by_number(tmp_path):
    path = write(tmp_path / "a.tsv", "fine\tfine", *["\tb", "a\t", "no tab"] * 5)
    told = refusal(path, "pairs").splitlines()
    assert told[0] == f"{path}: line 2: source or target is empty"
    assert told[2].startswith(f"{path}: line 4 has no target")
    assert len(told) == 11 and told[10] == f"... and 5 more such lines in {path}"
    few = refusal(write(tmp_path / "b.tsv", "\tb", "c\td", "a\t"), "pairs").splitlines()
    assert [line.partition(": line ")[2][0] for line in few] == ["1", "3"]


def test_a_very_long_line_is_named_with_its_length(tmp_path):
    path = write(tmp_path / "a.txt", "short", "-" * 500_000, "short too")
    pairs, (note,) = read(path)
    assert len(pairs) == 3 and "line 2 (500,000 characters)" in note and str(path) in note
