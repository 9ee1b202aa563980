"""Corpora and batches: what is read, what is held out, what is refused, and which sentence a step sees."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import presets.layers
from lattice.data.batches import Schedule, Sentences, corpus_tokenizer
from lattice.data.corpus import Corpus, DataError, Pair, load_corpus, read_pairs
from lattice.data.grammar import CORPUS_SIZE
from lattice.data.special_tokens import BEGIN, END, PAD
from lattice.data.tokenizer import Tokenizer
from presets.schema import RunConfig

CPU = torch.device("cpu")


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def same(*texts: str) -> list[Pair]:
    return [Pair(text, text) for text in texts]


def numbered(folder: Path, count: int, name: str = "many.txt") -> Path:
    return write(folder / name, *(f"sentence number {i}" for i in range(count)))


def config_of(seed: int = 0, **data) -> RunConfig:
    """The tiny preset with these settings of its data."""
    config = presets.layers.load("tiny").config
    changed = {"data": config.data.model_copy(update=data), "run": config.run.model_copy(update={"seed": seed})}
    return config.model_copy(update=changed)


def load(train: Path, task: str = "reconstruct", valid: Path | None = None, held_out: float = 0.1, most: int = 1000, seed=0):
    data = {"task": task, "train": str(train), "valid": None if valid is None else str(valid)}
    return load_corpus(config_of(**data, held_out=held_out, max_held_out=most, seed=seed))


# Formats


def test_plain_text_is_one_sentence_a_line_with_spacing_normalised_and_blank_lines_skipped(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"  one   two\r\n\n\t\nthree\tfour\nlast without newline")
    assert list(read_pairs(path, "reconstruct")) == same("one two", "three four", "last without newline")


def test_any_other_ending_is_read_as_plain_text(tmp_path):
    assert list(read_pairs(write(tmp_path / "corpus", "one", "two"), "reconstruct")) == same("one", "two")


def test_a_byte_order_mark_is_not_part_of_the_first_sentence(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffпервая\nвторая\n".encode())
    assert list(read_pairs(path, "reconstruct")) == same("первая", "вторая")


def test_a_byte_order_mark_before_json_is_skipped(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes('\ufeff{"source": "a", "target": "b"}\n'.encode())
    assert list(read_pairs(path, "pairs")) == [Pair("a", "b")]


def test_russian_text_is_kept_letter_by_letter(tmp_path):
    lines = ("Съешь же ещё этих мягких французских булок.", "Кошка сидит на окне.")
    assert list(read_pairs(write(tmp_path / "ru.txt", *lines), "reconstruct")) == same(*lines)


def test_jsonl_pairs_have_a_source_and_a_target(tmp_path):
    lines = [json.dumps(item) for item in ({"source": " a  b ", "target": "c"}, {"source": "привет", "target": "hi", "id": 1})]
    assert list(read_pairs(write(tmp_path / "p.jsonl", *lines), "pairs")) == [Pair("a b", "c"), Pair("привет", "hi")]


def test_jsonl_reconstructs_its_source_with_or_without_a_target(tmp_path):
    path = write(tmp_path / "p.jsonl", '{"source": "a"}', '{"source": "b", "target": "c"}')
    assert list(read_pairs(path, "reconstruct")) == same("a", "b")


def test_an_escaped_emoji_in_json_is_one_character(tmp_path):
    path = write(tmp_path / "p.jsonl", r'{"source": "\ud83d\ude00"}')
    assert list(read_pairs(path, "reconstruct")) == same("😀")


def test_tsv_pairs_are_source_tab_target(tmp_path):
    path = write(tmp_path / "p.tsv", "how are you\tfine", " да \t нет ")
    assert list(read_pairs(path, "pairs")) == [Pair("how are you", "fine"), Pair("да", "нет")]


def test_tsv_reconstructs_its_first_column(tmp_path):
    path = write(tmp_path / "p.tsv", "how are you\tfine", "alone")
    assert list(read_pairs(path, "reconstruct")) == same("how are you", "alone")


def test_a_folder_is_read_whole_in_name_order_and_other_files_are_left_alone(tmp_path):
    (tmp_path / "deeper").mkdir()
    write(tmp_path / "b.jsonl", '{"source": "second"}')
    write(tmp_path / "a.txt", "first")
    write(tmp_path / "deeper" / "c.tsv", "third\tx")
    (tmp_path / "photo.png").write_bytes(b"\x89PNG\0")
    assert list(read_pairs(tmp_path, "reconstruct")) == same("first", "second", "third")


def test_an_empty_file_among_others_in_a_folder_is_no_error(tmp_path):
    write(tmp_path / "a.txt")
    write(tmp_path / "b.txt", "text")
    assert list(read_pairs(tmp_path, "reconstruct")) == same("text")


# What is refused, and how


def refusal(path: Path, task: str) -> str:
    with pytest.raises(DataError) as refused:
        list(read_pairs(path, task))
    return str(refused.value)


@pytest.mark.parametrize(
    ("name", "content", "task", "line", "says"),
    [
        ("a.txt", b"fine\nalso fine\nzero\0byte\n", "reconstruct", 3, "zero byte"),
        ("a.txt", "текст\n".encode("utf-16"), "reconstruct", 1, "not UTF-8"),
        ("a.txt", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "reconstruct", 1, "not UTF-8"),
        ("a.txt", "fine\ncafé\n".encode("latin-1"), "reconstruct", 2, "UTF-8"),
        ("a.jsonl", b'{"source": "a"}\n{"source": \n', "reconstruct", 2, "not a JSON object"),
        ("a.jsonl", b'\n\n["a", "b"]\n', "reconstruct", 3, "not a JSON object"),
        ("a.jsonl", b'"a"\n', "reconstruct", 1, "not a JSON object"),
        ("a.jsonl", b'{"text": "a"}\n', "reconstruct", 1, "not a JSON object"),
        ("a.jsonl", b'{"source": "a", "n": ' + b"9" * 5000 + b"}\n", "reconstruct", 1, "not a JSON object"),
        ("a.jsonl", b"[" * 100_000 + b"\n", "reconstruct", 1, "not a JSON object"),
        ("a.jsonl", b'{"source": 5}\n', "reconstruct", 1, "must be strings"),
        ("a.jsonl", b'{"source": "a", "target": ["b"]}\n', "pairs", 1, "must be strings"),
        ("a.jsonl", b'{"source": "a", "target": "b"}\n{"source": "c"}\n', "pairs", 2, "no target"),
        ("a.jsonl", b'{"source": "a", "target": null}\n', "pairs", 1, "no target"),
        ("a.jsonl", b'{"source": "a", "target": " "}\n', "pairs", 1, "empty"),
        ("a.jsonl", b'{"source": ""}\n', "reconstruct", 1, "empty"),
        ("a.jsonl", rb'{"source": "half \ud800 a character"}' + b"\n", "reconstruct", 1, "half of a character"),
        ("a.jsonl", rb'{"source": "a", "target": "\udc00"}' + b"\n", "pairs", 1, "half of a character"),
        ("a.tsv", b"a\tb\nno tab\n", "pairs", 2, "no target"),
        ("a.tsv", b"a\tb\nc\t\n", "pairs", 2, "empty"),
        ("a.tsv", b"\tb\n", "reconstruct", 1, "empty"),
        ("a.txt", b"plain text has no targets\n", "pairs", 1, "no target"),
    ],
    ids=[
        "zero-byte", "utf-16", "binary", "latin-1", "cut-json", "json-array", "json-string", "no-source", "huge-number",
        "deep-json", "source-not-text", "target-not-text", "jsonl-no-target", "jsonl-null-target", "jsonl-blank-target",
        "jsonl-empty-source", "half-character", "half-character-target", "tsv-no-target", "tsv-empty-target",
        "tsv-empty-source", "plain-pairs",
    ],
)  # fmt: skip
def test_a_bad_line_is_refused_with_file_line_and_reason(name, content, task, line, says, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    message = refusal(path, task)
    assert message.startswith(f"{path}: line {line}")
    assert not message.startswith(f"{path}: line {line}0")
    assert says in message


def test_a_bad_line_in_a_folder_is_refused_with_its_own_file(tmp_path):
    write(tmp_path / "a.txt", "fine")
    (tmp_path / "b.txt").write_bytes(b"fine\n\xff\n")
    assert refusal(tmp_path, "reconstruct").startswith(f"{tmp_path / 'b.txt'}: line 2 ")


def test_a_missing_file_is_refused_by_name(tmp_path):
    assert refusal(tmp_path / "absent.txt", "reconstruct") == f"{tmp_path / 'absent.txt'}: no such file or folder"


@pytest.mark.parametrize("content", [b"", b"\n \n\t\n", b"\xef\xbb\xbf"], ids=["empty", "blank", "only-bom"])
def test_a_file_without_a_sentence_is_refused_by_name(content, tmp_path):
    path = tmp_path / "empty.txt"
    path.write_bytes(content)
    assert refusal(path, "reconstruct") == f"{path}: no sentence in it; expected one per line"


def test_a_folder_without_texts_is_refused_with_the_endings_it_should_have(tmp_path):
    (tmp_path / "notes.md").write_text("text")
    message = refusal(tmp_path, "reconstruct")
    assert message.startswith(f"{tmp_path}: ")
    assert ".txt, .jsonl, .tsv" in message


def test_what_is_neither_file_nor_folder_is_refused_by_name():
    assert refusal(Path("/dev/null"), "reconstruct") == "/dev/null: not a regular file"


def test_a_single_line_is_refused_for_want_of_one_to_hold_out(tmp_path):
    path = write(tmp_path / "one.txt", "only one")
    with pytest.raises(DataError, match=r"1 usable line.*at least 2") as refused:
        load(path)
    assert str(path) in str(refused.value)


def test_one_line_many_times_is_still_one_line(tmp_path):
    with pytest.raises(DataError, match="1 usable line"):
        load(write(tmp_path / "one.txt", "only one", "only  one", "ONLY ONE"))


def test_bad_held_out_data_is_refused_by_its_own_name(tmp_path):
    with pytest.raises(DataError) as refused:
        load(numbered(tmp_path, 5), valid=tmp_path / "absent.txt")
    assert str(refused.value).startswith(f"{tmp_path / 'absent.txt'}: ")


def test_pairs_without_data_are_refused_with_what_to_give():
    with pytest.raises(DataError, match="--data"):
        load_corpus(config_of(task="pairs"))


# The split


def keys(pairs: tuple[Pair, ...]) -> set[str]:
    return {" ".join(pair.source.casefold().split()) for pair in pairs}


def test_the_split_loses_nothing_and_overlaps_nowhere(tmp_path):
    corpus = load(numbered(tmp_path, 200))
    assert len(corpus.valid) == 20
    assert len(corpus.train) == 180
    assert keys(corpus.train) | keys(corpus.valid) == {f"sentence number {i}" for i in range(200)}
    assert not keys(corpus.train) & keys(corpus.valid)
    assert corpus.left_out == {}


def test_repeats_in_other_case_or_spacing_are_dropped_and_counted(tmp_path):
    path = write(tmp_path / "a.txt", "Straße eins", "STRASSE  EINS", "zwei", "Zwei", "drei")
    corpus = load(path)
    assert sorted(pair.source for pair in corpus.train + corpus.valid) == ["Straße eins", "drei", "zwei"]
    assert corpus.left_out == {"repeated": 2}


def test_one_question_with_two_answers_keeps_the_first_so_that_it_is_on_one_side(tmp_path):
    corpus = load(write(tmp_path / "a.tsv", "how are you\tfine", "How are you\tbad", "hello\thi"), task="pairs")
    assert {(pair.source, pair.target) for pair in corpus.train + corpus.valid} == {("how are you", "fine"), ("hello", "hi")}


def test_at_least_one_sentence_is_held_out_and_never_more_than_the_limit(tmp_path):
    path = numbered(tmp_path, 100)
    assert len(load(path, held_out=0.001).valid) == 1
    assert len(load(path, held_out=0.5, most=7).valid) == 7


def test_the_split_is_the_same_every_time_and_whatever_the_order_of_lines(tmp_path):
    lines = [f"sentence number {i}" for i in range(100)]
    first = load(write(tmp_path / "a.txt", *lines))
    again = load(write(tmp_path / "b.txt", *lines))
    backward = load(write(tmp_path / "c.txt", *reversed(lines)))
    assert (first.train, first.valid) == (again.train, again.valid)
    assert keys(backward.valid) == keys(first.valid)


def test_another_seed_holds_out_other_sentences(tmp_path):
    path = numbered(tmp_path, 200)
    assert keys(load(path, seed=0).valid) != keys(load(path, seed=1).valid)


def test_adding_lines_moves_no_training_sentence_into_the_held_out_ones_while_their_number_stays(tmp_path):
    """By rank of a hash: new sentences may push old ones out of the held-out set, but pull none in."""
    old = load(numbered(tmp_path, 200), most=20, held_out=0.5)
    new = load(numbered(tmp_path, 220, "more.txt"), most=20, held_out=0.5)
    assert len(old.valid) == len(new.valid) == 20
    assert not keys(new.valid) & keys(old.train)
    assert len(keys(new.valid) & keys(old.valid)) >= 15


def test_held_out_sentences_of_their_own_file_are_removed_from_training(tmp_path):
    train = write(tmp_path / "train.txt", "one", "two", "three", "four")
    valid = write(tmp_path / "valid.txt", "TWO", "five", "five")
    corpus = load(train, valid=valid)
    assert list(corpus.train) == same("one", "three", "four")
    assert list(corpus.valid) == same("TWO", "five")
    assert corpus.left_out == {"repeated": 1, "also in the held-out file": 1}


def test_held_out_sentences_that_are_all_of_the_training_text_are_refused(tmp_path):
    path = write(tmp_path / "a.txt", "one", "two")
    with pytest.raises(DataError, match="nothing is left to train on"):
        load(path, valid=path)


def test_without_data_the_bundled_corpus_is_split():
    corpus = load_corpus(config_of(max_held_out=500))
    assert (corpus.name, len(corpus.train), len(corpus.valid)) == ("bundled", CORPUS_SIZE - 500, 500)
    assert not keys(corpus.train) & keys(corpus.valid)


def test_the_fingerprint_tells_every_change_of_text_and_side():
    pairs = same("a", "b", "c")

    def fingerprint(train: list[Pair], valid: list[Pair]) -> str:
        return Corpus("name", tuple(train), tuple(valid), {}).fingerprint()

    first = fingerprint(pairs[:2], pairs[2:])
    assert first == Corpus("moved", tuple(pairs[:2]), tuple(pairs[2:]), {"repeated": 3}).fingerprint()
    others = {fingerprint(pairs[:1], pairs[1:]), fingerprint(pairs, []), fingerprint([Pair("a", "x"), pairs[1]], pairs[2:])}
    assert len(others | {first}) == 4


# Sentences as tensors


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["aa bb cc"] * 3, 270)


def test_the_tokenizer_of_a_corpus_learns_from_sources_and_targets_of_the_training_side():
    corpus = Corpus("name", (Pair("source " * 9, "zielwort " * 9),) * 3, tuple(same("unheard " * 9)), {})
    tokenizer = corpus_tokenizer(corpus, 300)
    lengths = {word: len(tokenizer.encode([word])[0]) for word in ("source", "zielwort", "unheard")}
    assert lengths["source"] == lengths["zielwort"] == 1
    assert lengths["unheard"] > 3


@pytest.mark.parametrize("overlong", ["-" * 2500, "окно" * 600])
def test_a_word_of_any_length_is_learned_in_pieces_and_comes_back(overlong):
    tokenizer = Tokenizer.train([overlong, *["aa bb cc"] * 3], 300)
    learned = tokenizer.decode(torch.arange(tokenizer.vocabulary)[:, None])
    assert 4 < max(map(len, learned)) <= 1000, "the library learns a token of 2048 dashes, in quadratic time"
    assert tokenizer.decode(torch.tensor(tokenizer.encode([overlong]))) == [overlong]


def test_cut_counts_each_side_that_is_longer_than_max_tokens(tokenizer):
    (length,) = map(len, tokenizer.encode(["xyz xyz"]))
    pairs = (Pair("xyz xyz", "x"), Pair("xyz xyz x", "xyz xyz xyz"), Pair("x", "xyz xyz x"), Pair("x", "x"))
    sentences = Sentences(pairs, tokenizer, length)
    assert len(sentences) == 4
    assert sentences.cut == {"source": 1, "target": 2}
    longest = [len(row) for row in tokenizer.encode([pairs[1].source, pairs[1].target])]
    assert list(sentences.cuts("odd")) == [
        f"1 of 4 odd sources are longer than text.max_tokens = {length} and are cut there; the longest has {longest[0]} tokens",
        f"2 of 4 odd targets are longer than text.max_tokens = {length} and are cut there; the longest has {longest[1]} tokens",
    ]
    whole = Sentences(pairs, tokenizer, 100)
    assert whole.cut == {} and list(whole.cuts("odd")) == []
    (cut,) = Sentences((Pair("xyz xyz", "xyz xyz"),), tokenizer, 1).cuts("same")
    assert cut.startswith("1 of 1 same sentences are longer")


def test_a_batch_holds_the_asked_for_sentences_cut_and_marked(tokenizer):
    pairs = (Pair("x", "xyz"), Pair("xyz xyz xyz", "y"))
    sentences = Sentences(pairs, tokenizer, 5)
    (x,), (xyz,), (long,), (y,) = (tokenizer.encode([text]) for text in ("x", "xyz", "xyz xyz xyz", "y"))
    source, begun, ended = sentences.batch([1, 0], CPU)
    assert source.tolist() == [long[:5], x + [PAD] * (5 - len(x))]
    filler = [PAD] * (len(xyz) - len(y))
    assert begun.tolist() == [[BEGIN, *y, *filler], [BEGIN, *xyz]]
    assert ended.tolist() == [[*y, END, *filler], [*xyz, END]]


def test_a_target_that_was_cut_has_no_end(tokenizer):
    """Its end was never reached: END there would teach the decoder to stop in mid-sentence."""
    sentences = Sentences((Pair("x", "xyz xyz xyz"), Pair("x", "y")), tokenizer, 5)
    _, begun, ended = sentences.batch([0, 1], CPU)
    assert begun.shape == ended.shape
    assert (ended == END).sum(1).tolist() == [0, 1]


# The schedule


def steps(schedule: Schedule, count: int) -> list[list[int]]:
    return [schedule.rows(step) for step in range(count)]


def flat_steps(schedule: Schedule, count: int) -> list[int]:
    return [row for rows in steps(schedule, count) for row in rows]


def test_rows_depend_on_seed_stage_and_step_alone_whatever_was_asked_before():
    in_order = steps(Schedule(50, 1.0, 8, seed=3, stage=1), 20)
    fresh = Schedule(50, 1.0, 8, seed=3, stage=1)
    backward = [fresh.rows(step) for step in reversed(range(20))]
    assert backward[::-1] == in_order
    assert Schedule(50, 1.0, 8, seed=3, stage=1).rows(13) == in_order[13]


@pytest.mark.parametrize("other", [{"seed": 4}, {"stage": 2}], ids=str)
def test_another_seed_or_stage_gives_other_rows(other):
    asked = {"seed": 3, "stage": 1}
    assert steps(Schedule(50, 1.0, 8, **asked), 5) != steps(Schedule(50, 1.0, 8, **(asked | other)), 5)


def test_the_global_random_state_has_no_say_and_is_left_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = steps(Schedule(50, 0.5, 8, seed=3, stage=1), 10)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert steps(Schedule(50, 0.5, 8, seed=3, stage=1), 10) == first


def test_every_sentence_comes_once_a_pass_though_batches_straddle_passes():
    flat = flat_steps(Schedule(50, 1.0, 8, seed=0, stage=0), 25)
    passes = [flat[start : start + 50] for start in range(0, 200, 50)]
    assert all(sorted(one) == list(range(50)) for one in passes)
    assert len({tuple(one) for one in passes}) == 4, "each pass has an order of its own"


def test_a_batch_larger_than_the_corpus_goes_round():
    rows = Schedule(3, 1.0, 7, seed=0, stage=0).rows(0)
    assert sorted(rows[:3]) == sorted(rows[3:6]) == [0, 1, 2]


@pytest.mark.parametrize(("share", "size"), [(0.3, 30), (0.004, 1)])
def test_data_share_selects_a_fixed_subset_of_the_stage(share, size):
    flat = flat_steps(Schedule(100, share, 10, seed=0, stage=0), 30)
    chosen = set(flat)
    assert len(chosen) == size
    assert all(sorted(flat[start : start + size]) == sorted(chosen) for start in range(0, 300 - size, size))


def test_another_stage_takes_another_share():
    first, second = (set(flat_steps(Schedule(100, 0.3, 10, seed=0, stage=stage), 3)) for stage in (0, 1))
    assert first != second
