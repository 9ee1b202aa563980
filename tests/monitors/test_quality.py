"""Scores are sacrebleu's, on the corpus, with one reference a sentence."""

from __future__ import annotations

import logging

import pytest
import sacrebleu

from monitors.quality import score, sentence_bleu

REFERENCES = ["a brown dog runs through the grass .", "two men stand near a red car .", "the child plays with a small ball ."]
SAID = ["a brown dog runs in the grass .", "two men stand near a red car .", "a child holds the ball ."]


def test_perfect_text_scores_100_and_is_all_exact():
    quality = score(REFERENCES, REFERENCES)
    assert quality.bleu == pytest.approx(100)
    assert quality.chrf == pytest.approx(100)
    assert quality.exact == 1.0
    assert quality.count == 3


def test_text_with_no_word_right_scores_near_0():
    quality = score(["xxx yyy zzz qqq www"] * 3, REFERENCES)
    assert quality.bleu < 1
    assert quality.exact == 0.0


def test_bleu_and_chrf_are_those_of_sacrebleu_called_directly():
    quality = score(SAID, REFERENCES)
    assert quality.bleu == sacrebleu.corpus_bleu(SAID, [REFERENCES]).score
    assert quality.chrf == sacrebleu.corpus_chrf(SAID, [REFERENCES]).score
    assert 30 < quality.bleu < 80  # a real score, not one of the ends


def test_bleu_is_the_one_worked_out_by_hand():
    # 5 of 6 words, 3 of 5 pairs, 1 of 4 triples; no 4-gram of 3, which exponential smoothing counts as 1/2.  Same length.
    by_hand = 100 * (5 / 6 * 3 / 5 * 1 / 4 * (1 / 2) / 3) ** 0.25
    assert score(["a b c x e f"], ["a b c d e f"]).bleu == pytest.approx(by_hand)


def test_each_sentence_is_scored_against_its_own_reference():
    assert score(REFERENCES[::-1], REFERENCES).bleu < 50


def test_exact_counts_identical_strings_only():
    assert score(["a b", "A c", "d ", "e"], ["a b", "a c", "d", "e"]).exact == 0.5


def test_the_signature_names_reference_count_tokenizer_and_smoothing():
    parts = score(SAID, REFERENCES).signature.split("|")
    assert {"nrefs:1", "tok:13a", "smooth:exp", f"version:{sacrebleu.__version__}"} <= set(parts)


@pytest.mark.parametrize("tokenize", ["13a", "zh", "char"])
def test_the_signature_tells_the_tokenization_and_no_tokenized_sentence_is_kept(tokenize):
    quality = score(["今天天气很好"], ["今天天气很好"], tokenize)
    assert f"tok:{tokenize}" in quality.signature.split("|")
    assert quality.bleu == pytest.approx(0 if tokenize == "13a" else 100)
    assert sentence_bleu(["今天下雨"], ["今天天气很好"], tokenize)[0] == pytest.approx(
        sacrebleu.metrics.BLEU(effective_order=True, tokenize=tokenize).sentence_score("今天下雨", ["今天天气很好"]).score
    )
    score(["今天天气很好"], ["今天天气很好"], tokenize)
    tokenizer = sacrebleu.metrics.BLEU(tokenize=tokenize).tokenizer
    assert type(tokenizer).__call__.cache_info().currsize == 0


def test_scoring_many_tokenized_sentences_says_nothing(caplog):
    with caplog.at_level(logging.DEBUG):
        score(REFERENCES * 40, REFERENCES * 40)
    assert caplog.records == []


def test_nothing_to_score_is_an_error():
    with pytest.raises(ValueError, match="no sentences"):
        score([], [])


def test_lists_of_different_length_are_an_error_with_both_lengths():
    with pytest.raises(ValueError, match=r"2 sentences .* 3 references"):
        score(SAID[:2], REFERENCES)


def test_bleu_of_a_sentence_is_that_of_sacrebleu_and_a_short_perfect_one_has_100():
    assert sentence_bleu(SAID, REFERENCES) == [
        sacrebleu.sentence_bleu(a, [b]).score for a, b in zip(SAID, REFERENCES, strict=True)
    ]
    assert sentence_bleu(["a dog", ""], ["a dog", "a dog"]) == [pytest.approx(100), 0.0]


def test_sentences_without_a_reference_each_are_an_error():
    with pytest.raises(ValueError, match="zip"):
        sentence_bleu(SAID, REFERENCES[:2])
