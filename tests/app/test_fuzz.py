"""Fuzz tests: damaged input of every kind ends with one sentence and the right exit code, without traceback or hang.

Nothing is left half done.  Cases come from fixed random seeds: a few hundred by default, ten thousand each among the slow
tests.  Frames of the control socket are fuzzed in test_protocol.py.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import lzma
import math
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from app.exit_codes import ExitCode, Stop
from app.saved_models.opening import open_run
from app.tui.fold import fold, log_line
from app.tui.snapshot import Snapshot
from lattice.data.batches import Sentences, TokenizedCorpus, corpus_tokenizer
from lattice.data.corpus import Corpus, DataError, Pair, load_corpus
from lattice.data.grammar import generate
from lattice.data.tokenizer import Tokenizer
from lattice.training import changes, checkpoint
from lattice.training.build import build_trainer
from monitors.event_log import EventLog, each_event, read_events
from monitors.runs import RunFolder, list_runs
from presets.layers import ConfigError, flatten, load

ESCAPE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]")
LONGEST_S = 60
"""A case that takes longer than this counts as hanging."""

CASES = pytest.mark.parametrize("cases", [200, pytest.param(10_000, marks=pytest.mark.slow)])
FEWER_CASES = pytest.mark.parametrize("cases", [60, pytest.param(10_000, marks=pytest.mark.slow)])
"""The same for a case that opens a model."""


def fuzz(cases: int) -> settings:
    return settings(
        max_examples=cases,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],  # a case that hangs is not tried again and again
        suppress_health_check=list(HealthCheck),
    )


@contextlib.contextmanager
def in_time() -> Iterator[None]:
    def hung(*_: object) -> None:
        raise AssertionError(f"took longer than {LONGEST_S} s")

    before = signal.signal(signal.SIGALRM, hung)
    signal.setitimer(signal.ITIMER_REAL, LONGEST_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# What is fed in


SHORT = [
    b"",
    b"\0",
    b"\xff\xfe",
    b"\n",
    b"\r\n\r\n",
    b"\x1b[2J\x1b]0;t\x07",
    b'"',
    b"{",
    b"''",
    b"=",
    b"\t",
    b"[]",
    b"-1",
    b"inf",
]
WORDS = [b"1e999", b"nan", b"null", b"true", b"\\ud800", "\u202e".encode(), b"../../etc/passwd"]
ODD_BYTES = st.sampled_from([*SHORT, *WORDS, b"[" * 3000, b"{" * 3000, b"9" * 5000])
EDIT = st.tuples(
    st.sampled_from(["flip", "cut", "insert", "replace", "repeat"]),
    st.floats(0, 1),
    st.floats(0, 1),
    st.one_of(ODD_BYTES, st.binary(max_size=12)),
)
EDITS = st.lists(EDIT, min_size=1, max_size=4)


def damaged(raw: bytes, edits: list[tuple]) -> bytes:
    for kind, start, length, payload in edits:
        at = int(start * len(raw))
        end = min(len(raw), at + 1 + int(length * length * 40))
        match kind:
            case "flip" if raw:
                at = min(at, len(raw) - 1)
                raw = raw[:at] + bytes([raw[at] ^ (1 << int(length * 7))]) + raw[at + 1 :]
            case "cut":
                raw = raw[:at] + raw[end:] if length < 0.8 else raw[:at]
            case "insert":
                raw = raw[:at] + payload + raw[at:]
            case "replace":
                raw = raw[:at] + payload + raw[end:]
            case "repeat":
                raw = raw[:end] + raw[at:]
    return raw


ODD_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=8),
    st.sampled_from([[], [[]], {}, {"a": 1}, 10**400, "\x1b[31m", "\ud800", "x" * 5000, [1, 2, 3], ["a"], -1, 0, 1e308]),
)  # fmt: skip


def assert_told(told, *codes: int) -> None:
    """Ended with one of the codes; where it refused, with words and nothing on stdout."""
    assert told.code in codes, (told.code, told.err)
    assert not ESCAPE.search(told.err) and not ESCAPE.search(told.out)
    if told.code:
        assert told.out == "" and told.err.startswith("lattice-tui: ") and "Traceback" not in told.err
        assert len(told.err) < 50_000


# Configs


PATHS = sorted(flatten(load("tiny").config))
SETTING = st.one_of(st.sampled_from(PATHS), st.sampled_from(PATHS).map(lambda path: path + ".x"), st.text(max_size=20))
ORDINARY = ["-1", "0", "1", "2", "1e9", "10000000000", "nan", "-inf", "none", '"x"', "[]", "[1,2]", "[4,4,6]", "{}", "true"]
ODD = ["[" * 3000, "{a=" * 3000, "9" * 5000, "'", "1979-05-27", "\x1b[2J", "\ud800", "x" * 3000, "[[[]]]", "=", ""]
TOML_TEXT = st.one_of(
    st.sampled_from(ORDINARY),
    st.sampled_from(ODD),
    st.floats().map(repr),
    st.integers(-(2**66), 2**66).map(str),
    st.text(max_size=12),
)


@CASES
def test_any_settings_are_taken_or_refused(cases, cli):
    @fuzz(cases)
    @given(st.lists(st.tuples(SETTING, TOML_TEXT), min_size=1, max_size=4), st.booleans())
    def case(pairs, glued):
        words = [f"--set={path}{'' if glued and not i else '='}{text}" for i, (path, text) in enumerate(pairs)]
        with in_time():
            assert_told(cli("plan", "--preset", "tiny", *words, "--json"), ExitCode.OK, ExitCode.USAGE)

    case()


@CASES
def test_any_config_file_is_taken_or_refused(cases, cli, tmp_path):
    from presets.layers import to_toml

    file, whole = tmp_path / "mine.toml", to_toml(load("tiny").config).encode()

    @fuzz(cases)
    @given(EDITS, st.booleans())
    def case(edits, small):
        file.write_bytes(damaged(b"[training]\nbatch = 8\n" if small else whole, edits))
        with in_time():
            assert_told(cli("plan", "--preset", "tiny", "--config", file, "--json"), ExitCode.OK, ExitCode.USAGE)

    case()


# Data


LINES = {
    ".txt": b"a cat sat\nthe dog ran\n\xd0\xba\xd0\xbe\xd1\x82 \xd1\x81\xd0\xbf\xd0\xb8\xd1\x82\nred birds fly\n",
    ".jsonl": b'{"source": "a cat", "target": "sat"}\n{"source": "\\u00e9", "target": "b"}\n{"source": "x", "target": "y"}\n',
    ".tsv": b"a cat\tsat\nthe dog\tran\nred\tbird\n",
    ".csv": b'source,target\n"a, cat",sat\nthe dog,"ran ""off"""\n',
    ".json": b'[{"source": "a cat", "target": "sat"}, {"source": "the dog", "target": "ran"}]\n',
    ".txt.gz": gzip.compress(b"a cat sat\nthe dog ran\nred birds fly\n", mtime=0),
    ".txt.xz": lzma.compress(b"a cat sat\nthe dog ran\nred birds fly\n"),
}


def small_tokenizer() -> Tokenizer:
    pairs = tuple(Pair(text, text) for text in generate(40, seed=3))
    return corpus_tokenizer(Corpus("few", pairs, pairs[:1], {}), 300)


@CASES
def test_any_data_file_is_read_or_refused_by_name(cases, tmp_path):
    tokenizer, tiny = small_tokenizer(), load("tiny").config

    @fuzz(cases)
    @given(st.sampled_from(sorted(LINES)), st.sampled_from(["reconstruct", "pairs"]), EDITS, st.integers(0, 3))
    def case(suffix, task, edits, seed):
        file = tmp_path / f"data{suffix}"
        file.write_bytes(damaged(LINES[suffix] * 3, edits))
        settings = {"task": task, "train": str(file), "held_out": 0.3, "max_held_out": 64}
        changed = {"data": tiny.data.model_copy(update=settings), "run": tiny.run.model_copy(update={"seed": seed})}
        with in_time():
            try:
                corpus = load_corpus(tiny.model_copy(update=changed))
            except DataError as error:
                told = str(error).split("\n")
                assert len(told) <= 11 and all(str(file) in line and len(line) < 1000 for line in told)
                return
            assert corpus.train and corpus.valid
            assert not {pair.source for pair in corpus.train} & {pair.source for pair in corpus.valid}
            corpus.fingerprint()
            sentences = Sentences(corpus.train, tokenizer, 8)
            sentences.batch(list(range(len(sentences))), torch.device("cpu"))

    case()


# Run folders


@pytest.fixture(scope="module")
def trained(tmp_path_factory, cli, sentences) -> RunFolder:
    """A finished run of six steps."""
    place = tmp_path_factory.mktemp("trained")
    threads = torch.get_num_threads()
    small = ("--steps", 6, "--set", "run.threads=1", "--set", "checkpoint.every=2", "--set", "decode.every=3")
    told = cli("train", "--preset", "tiny", *small, "--data", sentences, "--runs-dir", place)
    torch.set_num_threads(threads)
    assert told.code == 0, told.err
    return RunFolder(Path(list_runs(place)[0]["path"]))


def odd_state(state: dict, path: int, value: object) -> dict:
    """With one of its values, at any depth, replaced."""
    places = []

    def walk(at: dict) -> None:
        for key, inner in at.items():
            places.append((at, key))
            if isinstance(inner, dict):
                walk(inner)

    walk(state)
    at, key = places[path % len(places)]
    at[key] = value
    return state


FILES = ["model.safetensors", "optimizer.safetensors", "state.json", "tokenizer.json"]
DAMAGE = st.one_of(
    st.tuples(st.just("bytes"), st.sampled_from(FILES), EDITS),
    st.tuples(st.just("bytes"), st.just("MANIFEST.json"), EDITS),
    st.tuples(st.just("state"), st.integers(0, 200), ODD_VALUES),
    st.tuples(st.just("tensors"), st.sampled_from(["model.safetensors", "optimizer.safetensors"]), st.integers(0, 5000)),
    st.tuples(st.just("link"), st.sampled_from(["model.safetensors", "MANIFEST.json", "state.json"]), st.none()),
)


def sign(path: Path) -> None:
    """A manifest that fits the files, as somebody who edits a checkpoint would make it."""
    manifest = json.loads((path / "MANIFEST.json").read_text())
    for name, entry in manifest["files"].items():
        entry.update(bytes=(path / name).stat().st_size, sha256=checkpoint._digest(path / name))
    (path / "MANIFEST.json").write_text(json.dumps(manifest))


def spoil(path: Path, damage: tuple, signed: bool) -> None:
    from safetensors.torch import load_file, save_file

    match damage:
        case "bytes", name, edits:
            (path / name).write_bytes(damaged((path / name).read_bytes(), edits))
        case "state", at, value:
            state = json.loads((path / "state.json").read_text())
            with contextlib.suppress(ValueError):
                (path / "state.json").write_text(json.dumps(odd_state(state, at, value)))
        case "tensors", name, draw:
            tensors = load_file(path / name)
            chosen = sorted(tensors)[draw % len(tensors)]
            value = tensors.pop(chosen)
            if draw % 4 == 1:
                tensors[chosen] = value.flatten()[:1].clone()
            elif draw % 4 == 2:
                tensors[chosen] = value.to(torch.float64)
            elif draw % 4 == 3:
                tensors["more." + chosen] = value
            save_file(tensors, path / name)
        case "link", name, _:
            (path / name).unlink()
            (path / name).symlink_to("/dev/zero" if signed else "/proc/self/mem")
            return
    if signed and damage[:2] != ("bytes", "MANIFEST.json"):
        sign(path)


@FEWER_CASES
def test_any_checkpoint_folder_is_opened_resumed_or_refused(cases, trained, tmp_path):
    newest = checkpoint.steps(trained.checkpoints)[0][1]
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(trained.path, folder.path)
    for _, path in checkpoint.steps(folder.checkpoints):
        shutil.rmtree(path)
    path = folder.checkpoints / newest.name
    config, cpu = load("tiny", None, ["stages.0.steps=3", "stages.1.steps=3"]).config, torch.device("cpu")
    tokenizer = Tokenizer.from_json((newest / "tokenizer.json").read_text())
    few = Sentences(tuple(Pair(text, text) for text in generate(40, seed=3)), tokenizer, 40)

    @fuzz(cases)
    @given(st.lists(DAMAGE, min_size=1, max_size=2), st.booleans())
    def case(damages, signed):
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(newest, path)
        for damage in sorted(damages, key=lambda damage: damage[0] == "link"):  # last: nobody here may read from a device
            with contextlib.suppress(Exception):  # the second damage may not find what the first one took
                spoil(path, damage, signed)
        with in_time():
            try:
                opened = open_run(folder, cpu)
            except Stop as stop:
                assert stop.code in (ExitCode.FAILED, ExitCode.USAGE) and folder.name in str(stop)
            else:
                assert opened.progress.step >= 0
            try:
                saved = checkpoint.load(path)
            except checkpoint.CheckpointError as error:
                assert str(path) in str(error)
                return
            trainer = build_trainer(config, TokenizedCorpus(tokenizer, few, few), cpu)
            try:
                changes.resume(trainer.state, saved.model, saved.optimizer, saved.state)
            except (ValueError, TypeError, KeyError):  # what the engine takes for a refusal
                return
            assert 0 <= trainer.state.progress.stage < 2 and math.isfinite(trainer.state.progress.elapsed_s)
            trainer.step([0, 1, 2, 3])

    case()


@CASES
def test_any_event_log_is_read_rewound_and_shown(cases, trained, tmp_path, cli):
    raw = b"".join(trained.events_jsonl.read_bytes().splitlines(keepends=True))
    folder = RunFolder(tmp_path / "runs" / "run")
    shutil.copytree(trained.path, folder.path, ignore=shutil.ignore_patterns("checkpoints", "volumes"))

    @fuzz(cases)
    @given(EDITS, st.integers(-1, 8), st.one_of(st.none(), st.integers(0, 3)))
    def case(edits, step, count):
        folder.events_jsonl.write_bytes(damaged(raw, edits))
        with in_time():
            found = read_events(folder.events_jsonl)
            assert len(found.events) + found.skipped <= folder.events_jsonl.read_bytes().count(b"\n")
            seen = fold(Snapshot(), found.events)
            assert seen.events == len(found.events)
            lines = [line for event in found.events if (line := log_line(event))]
            assert not any(ESCAPE.search(line.text) or "\n" in line.text for line in lines)
            exported = cli("export", "run", "--what", "decoded", "--runs-dir", tmp_path / "runs")
            assert exported.code in (ExitCode.OK, ExitCode.FAILED)  # what goes into a file quotes what was said, byte for byte
            assert "Traceback" not in exported.err and not ESCAPE.search(exported.err)
            log = EventLog(folder.events_jsonl)
            with contextlib.closing(log):
                log.rewind(step, count)
            kept = list(each_event(folder.events_jsonl))
            assert all(event is None or event.step <= step for event in kept)
            assert folder.events_jsonl.read_bytes()[-1:] in (b"", b"\n")

    case()


@CASES
def test_any_run_json_is_listed_told_and_never_fatal(cases, trained, tmp_path, cli):
    raw = trained.run_json.read_bytes()
    folder = RunFolder(tmp_path / "runs" / "run")
    folder.path.mkdir(parents=True)

    @fuzz(cases)
    @given(EDITS)
    def case(edits):
        folder.run_json.write_bytes(damaged(raw, edits))
        with in_time():
            told = cli("runs", "--json", "--runs-dir", tmp_path / "runs")
            assert told.code == 0 and len(told.json["runs"]) + len(told.json["damaged"]) == 1
            listed = cli("runs", "--runs-dir", tmp_path / "runs")
            assert listed.code == 0 and not ESCAPE.search(listed.out)
            assert_told(cli("status", "run", "--runs-dir", tmp_path / "runs"), ExitCode.OK, ExitCode.FAILED)

    case()


@CASES
def test_any_saved_config_opens_or_is_refused(cases, trained, tmp_path):
    from app.finding import run_config

    raw = trained.config_toml.read_bytes()
    folder = RunFolder(tmp_path)

    @fuzz(cases)
    @given(EDITS)
    def case(edits):
        folder.config_toml.write_bytes(damaged(raw, edits))
        with in_time():
            try:
                run_config(folder)
            except Stop as stop:
                assert stop.code in (ExitCode.USAGE, ExitCode.NO_SUCH_RUN) and str(folder.config_toml) in str(stop)

    case()


def test_no_live_setting_breaks_a_config():
    from presets.live import edit, live_settings

    config = load("tiny").config
    keys = [*live_settings(config), "run.seed", "stages.9.steps", "a", ""]

    @fuzz(300)
    @given(st.one_of(st.sampled_from(keys), st.text(max_size=10)), ODD_VALUES)
    def case(key, value):
        with contextlib.suppress(ConfigError):
            edit(config, key, value)

    case()
