"""Denoise and continue: the pairs they make of text, and that held-out sentences stay held out."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import presets.layers
from lattice.data import text_tasks
from lattice.data.corpus import load_corpus, pairs_to_score
from lattice.data.grammar import generate
from lattice.data.pair import DataError, Pair
from lattice.data.text_tasks import clean, continuation, denoise

SENTENCES = generate(400, seed=4)


def config_of(path: Path | None, *assignments: str):
    data = [] if path is None else [f"data.train={path}"]
    return presets.layers.load("tiny", None, [*data, *assignments]).config


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def edits(one: str, other: str) -> int:
    """Fewest characters dropped, added, replaced or swapped with a neighbour that make one text of the other."""
    table = [list(range(len(other) + 1))]
    for i, a in enumerate(one, 1):
        row = [i]
        for j, b in enumerate(other, 1):
            best = min(row[-1] + 1, table[-1][j] + 1, table[-1][j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                best = min(best, table[-2][j - 2] + 1)
            row.append(best)
        table.append(row)
    return table[-1][-1]


# Denoise


def test_the_target_is_the_clean_sentence_and_the_source_is_close_to_it():
    pairs = [denoise(sentence, 0.1, seed=0) for sentence in SENTENCES]
    assert [pair.target for pair in pairs] == SENTENCES
    assert sum(pair.source != pair.target for pair in pairs) > 350


@pytest.mark.parametrize("noise", [0.05, 0.1, 0.3])
def test_noise_is_the_share_of_characters_that_are_damaged(noise):
    damaged = sum(edits(*pair) for s in SENTENCES if (pair := (denoise(s, noise, 1).source, s)))
    letters = sum(len(sentence.replace(" ", "")) for sentence in SENTENCES)
    assert 0.8 * noise < damaged / letters < 1.05 * noise


def test_each_of_the_four_kinds_of_damage_occurs():
    one = {denoise("abcde fghij", 0.1, seed).source for seed in range(400)}
    assert {"acde fghij", "aabcde fghij", "bacde fghij", "abcd efghij", "abcde fghji"} <= one
    assert any(len(source) == 11 and set(source) < set("abcde fghij") for source in one)


def test_noise_is_the_same_in_every_pass_and_another_for_another_seed():
    first = [denoise(sentence, 0.2, 0) for sentence in SENTENCES]
    assert first == [denoise(sentence, 0.2, 0) for sentence in reversed(SENTENCES)][::-1]
    assert sum(a != b for a, b in zip(first, (denoise(s, 0.2, 1) for s in SENTENCES), strict=True)) > 390
    assert denoise("The cat sat on the mat near the door.", 0.2, 0).source == "The cat st on thhe mat ennr the door."


def test_noise_stays_within_the_characters_of_the_sentence_in_any_language():
    sentence = "Съешь же ещё этих мягких французских булок"
    assert all(set(denoise(sentence, 0.5, seed).source) <= set(sentence) for seed in range(50))


@pytest.mark.parametrize("sentence", ["a", "aaaa", "a b", "é"])
def test_something_is_left_whatever_the_noise(sentence):
    for seed in range(60):
        source = denoise(sentence, 1.0, seed).source
        assert source and source == " ".join(source.split())


def test_noise_draws_by_the_stable_random_method_alone(monkeypatch):
    class OnlyRandom:
        def __init__(self, seed: str) -> None:
            self.random = random.Random(seed).random

    expected = [denoise(sentence, 0.2, 0) for sentence in SENTENCES]
    monkeypatch.setattr(text_tasks, "Random", OnlyRandom)
    assert [denoise(sentence, 0.2, 0) for sentence in SENTENCES] == expected


# Continue


@pytest.mark.parametrize(
    ("sentence", "halves"),
    [
        ("one two three four", Pair("one two", "three four")),
        ("one two three four five", Pair("one two three", "four five")),
        ("one two three", None),
    ],
)
def test_the_first_half_of_the_words_is_continued_by_the_second(sentence, halves):
    assert continuation(sentence) == halves


def test_short_sentences_are_left_out_and_counted(tmp_path):
    lines = [f"this is sentence number {i}" for i in range(40)] + ["too short", "short as well", "no"]
    corpus = load_corpus(config_of(write(tmp_path / "a.txt", *lines), "data.task=continue", "data.held_out=0.25"))
    assert len(corpus.train) + len(corpus.valid) == 40
    assert corpus.left_out == {"fewer than 4 words": 3}


def test_text_without_a_sentence_long_enough_is_refused(tmp_path):
    path = write(tmp_path / "a.txt", "too short", "short as well")
    with pytest.raises(DataError, match="no training sentence has the 4 words that the task continue needs"):
        load_corpus(config_of(path, "data.task=continue"))
    with pytest.raises(DataError, match="no sentence has the 4 words"):
        pairs_to_score(path, config_of(None, "data.task=continue"), {})


# As corpora


@pytest.mark.parametrize("task", ["denoise", "continue"])
def test_the_same_sentences_are_held_out_as_without_the_task(task, tmp_path):
    path = write(tmp_path / "a.txt", *SENTENCES)
    plain, made = load_corpus(config_of(path)), load_corpus(config_of(path, f"data.task={task}"))
    assert [clean(pair, task) for pair in made.valid] == [pair.source for pair in plain.valid]
    assert [clean(pair, task) for pair in made.train] == [pair.source for pair in plain.train]
    assert made.fingerprint() == load_corpus(config_of(path, f"data.task={task}")).fingerprint() != plain.fingerprint()


def test_sentences_that_differ_in_case_alone_are_not_parted_by_their_noise(tmp_path):
    path = write(tmp_path / "a.txt", *SENTENCES, *map(str.upper, SENTENCES))
    corpus = load_corpus(config_of(path, "data.task=denoise"))
    assert corpus.left_out == {"repeated": 400}
    assert not {pair.target.casefold() for pair in corpus.train} & {pair.target.casefold() for pair in corpus.valid}


@pytest.mark.parametrize("task", ["denoise", "continue"])
def test_the_bundled_corpus_and_sources_of_pairs_can_be_used(task, tmp_path):
    assert load_corpus(config_of(None, f"data.task={task}")).valid[0].source
    path = write(tmp_path / "a.tsv", *(f"{sentence}\tignored" for sentence in SENTENCES))
    pairs = load_corpus(config_of(path, f"data.task={task}")).train
    assert {clean(pair, task) for pair in pairs} <= set(SENTENCES)


def test_a_file_is_scored_as_the_task_says(tmp_path):
    path, left_out = write(tmp_path / "a.txt", "one two three four", "one two"), {}
    assert pairs_to_score(path, config_of(None, "data.task=continue"), left_out) == (Pair("one two", "three four"),)
    assert left_out == {"fewer than 4 words": 1}
    noisy = pairs_to_score(path, config_of(None, "data.task=denoise", "data.noise=0.9"), {})
    assert [pair.target for pair in noisy] == ["one two three four", "one two"]
    assert noisy[0] == denoise("one two three four", 0.9, 0) != denoise("one two three four", 0.1, 0)
