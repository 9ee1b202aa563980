"""The bundled corpus: distinct, repeatable, well-formed English sentences."""

from __future__ import annotations

import os
import random
import re
import string
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from lattice.data import grammar
from lattice.data.grammar import CORPUS_SIZE, generate

ROOT = Path(grammar.__file__).parents[2]


def _words(sentence: str) -> list[str]:
    """The lower-cased words of a sentence, without their punctuation."""
    return [word.strip(string.punctuation) for word in sentence.lower().split()]


@pytest.fixture(scope="module")
def corpus() -> list[str]:
    return generate(CORPUS_SIZE)


@pytest.fixture(scope="module")
def word_counts(corpus: list[str]) -> Counter[str]:
    return Counter(word for sentence in corpus for word in _words(sentence))


def test_the_default_corpus_has_as_many_sentences_as_asked_for(corpus):
    assert len(corpus) == CORPUS_SIZE == 60_000


def test_sentences_stay_distinct_without_case_and_punctuation(corpus):
    keys = {re.sub(r"[^a-z ]", "", sentence.lower()) for sentence in corpus}
    assert len(keys) == len(corpus)


def test_the_corpus_has_at_least_1500_word_types(word_counts):
    assert len(word_counts) >= 1_500


def test_every_word_type_occurs_often_enough_to_be_learned(word_counts):
    rare = {word: n for word, n in word_counts.items() if n < 10}
    assert rare == {}


def test_the_same_arguments_give_the_same_sentences():
    assert generate(500, seed=7) == generate(500, seed=7)


def test_a_smaller_count_gives_the_beginning_of_a_larger_one(corpus):
    assert generate(1) == corpus[:1]
    assert generate(2_000) == corpus[:2_000]


def test_different_seeds_give_different_sentences():
    first, second = set(generate(500, seed=1)), set(generate(500, seed=2))
    assert len(first & second) < 50


def test_sentences_do_not_depend_on_the_hash_seed_of_the_process():
    code = "from lattice.data.grammar import generate; print('\\n'.join(generate(300, 5)))"
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1]
    assert outputs[0].splitlines() == generate(300, 5)


def test_only_the_stable_random_method_is_used(monkeypatch):
    class OnlyRandom:
        """A generator with no method but random(), whose stream Python keeps."""

        def __init__(self, seed: int) -> None:
            self.random = random.Random(seed).random

    expected = generate(200, seed=3)
    monkeypatch.setattr(grammar, "Random", OnlyRandom)
    assert generate(200, seed=3) == expected


def test_the_global_random_state_is_neither_used_nor_changed():
    random.seed(1)
    state = random.getstate()
    expected = generate(50)
    assert random.getstate() == state
    random.seed(2)
    assert generate(50) == expected


def test_sentences_have_4_to_14_words_and_about_8_on_average(corpus):
    lengths = [len(sentence.split()) for sentence in corpus]
    assert min(lengths) >= 4
    assert max(lengths) <= 14
    assert 7 <= sum(lengths) / len(lengths) <= 10


def test_sentences_are_ascii_and_start_with_a_capital_and_end_with_a_mark(corpus):
    shape = re.compile(r"[A-Z][A-Za-z',]*( [A-Za-z',]+)*[.?!]")
    assert [s for s in corpus if not (s.isascii() and shape.fullmatch(s))] == []


def test_statements_questions_and_exclamations_all_occur(corpus):
    ends = Counter(sentence[-1] for sentence in corpus)
    assert set(ends) == {".", "?", "!"}
    assert ends["."] > ends["?"] > ends["!"] > len(corpus) // 100


def test_names_days_and_months_are_capitalised_everywhere(corpus):
    lowered = re.compile(r"\b(emma|omar|monday|january|london|english|i)\b")
    assert [s for s in corpus if lowered.search(s)] == []


def test_articles_agree_with_the_sound_that_follows(corpus):
    def wants_an(word: str) -> bool:
        if word.startswith(("hour", "honest")):
            return True
        return word[0] in "aeiou" and not word.startswith(("use", "uni", "one", "euro"))

    seen: Counter[str] = Counter()
    for sentence in corpus:
        words = _words(sentence)
        for article, word in pairwise(words):
            if article in ("a", "an"):
                seen[article] += 1
                assert (article == "an") == wants_an(word), sentence
    assert min(seen["a"], seen["an"]) > 500


def test_pronoun_subjects_agree_with_to_be_to_have_and_to_do(corpus):
    wrong = re.compile(
        r"^(I (is|are|has|does|were)|(He|She) (am|are|have|do|were)"
        r"|(We|They|You) (am|is|has|does|was))\b"
    )
    right = re.compile(r"^(I am|(He|She) (is|has)|(We|They) (are|have))\b")
    assert [s for s in corpus if wrong.search(s)] == []
    assert sum(bool(right.search(s)) for s in corpus) > 500


def test_the_owner_is_the_subject_of_the_sentence(corpus):
    owners = {
        "I brushed": "my teeth",
        "He brushed": "his teeth",
        "She brushed": "her teeth",
        "They brushed": "their teeth",
        "We brushed": "our teeth",
    }
    checked = 0
    for sentence in corpus:
        start = " ".join(sentence.split()[:2])
        if start in owners and "teeth" in sentence:
            checked += 1
            assert owners[start] in sentence
    assert checked >= 3


def test_no_sentence_repeats_a_name(corpus):
    for sentence in corpus:
        names = re.findall(r"\b(?:Emma|Tom|Ben|Leo|Zoe|Mei|Omar)\b", sentence)
        assert len(names) == len(set(names)), sentence


@pytest.mark.parametrize(
    ("action", "forms"),
    [
        ("water the roses", ["water", "waters", "watered", "watering", "watered"]),
        ("stop here", ["stop", "stops", "stopped", "stopping", "stopped"]),
        ("carry it", ["carry", "carries", "carried", "carrying", "carried"]),
        ("wash it", ["wash", "washes", "washed", "washing", "washed"]),
        ("write it", ["write", "writes", "wrote", "writing", "written"]),
        ("have it", ["have", "has", "had", "having", "had"]),
        ("play it", ["play", "plays", "played", "playing", "played"]),
        ("see it", ["see", "sees", "saw", "seeing", "seen"]),
    ],
)
def test_a_verb_phrase_is_inflected_in_its_first_word_only(action, forms):
    rest = action.partition(" ")[2]
    assert list(grammar._verb_forms(action).values()) == [f"{f} {rest}" for f in forms]


@pytest.mark.parametrize(
    ("noun", "plural"),
    [
        ("apple", "apples"),
        ("bus", "buses"),
        ("daisy", "daisies"),
        ("toy", "toys"),
        ("potato", "potatoes"),
        ("sheep", "sheep"),
        ("rose bush", "rose bushes"),
    ],
)
def test_nouns_get_their_english_plural(noun, plural):
    assert grammar._plural(noun) == plural


def test_a_template_with_an_unknown_slot_is_refused_by_name():
    with pytest.raises(KeyError, match="vegetabel"):
        grammar._compile("peel the {vegetabel}")


@pytest.mark.parametrize("count", [0, -1])
def test_a_count_below_one_is_refused_by_name(count):
    with pytest.raises(ValueError, match=rf"count must be at least 1, not {count}"):
        generate(count)


def test_a_grammar_that_runs_out_is_an_error_that_names_the_count(monkeypatch):
    three = [("One two three four.", "a"), ("Five six seven.", "b"), ("Eight.", "c")]
    monkeypatch.setattr(grammar, "_draw", lambda rng: rng.choice(three))
    assert len(generate(3)) == 3
    with pytest.raises(ValueError, match=r"count is 4, but .* only 3 distinct"):
        generate(4)


def test_a_grammar_with_no_usable_sentence_is_an_error_too(monkeypatch):
    monkeypatch.setattr(grammar, "_draw", lambda rng: None)
    with pytest.raises(ValueError, match=r"count is 1, but .* only 0 distinct"):
        generate(1)
