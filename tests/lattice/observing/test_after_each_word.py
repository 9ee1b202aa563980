"""What would be answered after each word: each beginning is answered as it is alone, and events say which answers are right."""

from __future__ import annotations

import pytest
import torch

from lattice.data.pair import Pair
from lattice.data.tasks.lift import Lift
from lattice.data.tokenizer import pad
from lattice.observing.after_each_word import MOST_WORDS, SoFar, after_each_word, as_event, most_to_tell
from lattice.observing.decode_monitor import DecodeMonitor
from monitors.events import AfterWord, Decoded

IN_TIME = (
    "text.reading=time", "text.lag=4", "lattice.channels=6", "lattice.port_channels=4", "lattice.memory_ticks=4",
    "lattice.norm_epsilon=1.0", "stages.0.ticks=8", "stages.1.ticks=8", "stages.0.strides.z=[3]", "stages.1.strides.z=[3]",
)  # fmt: skip
WORDS = ["the", "old", "dog", "sleeps", "near", "the", "warm", "red", "house"]


def unknown(beginning: str) -> None:
    return None


@pytest.fixture(scope="module")
def state(bench):
    """A model that has learned for twelve steps, so that it does not say the same to all sentences."""
    run = bench(*IN_TIME, "optimizer.learning_rate=0.02")
    run.trainer.run()
    return run.trainer.state


def test_a_beginning_is_answered_as_the_same_words_are_alone(state):
    told = after_each_word(state.model, state.tokenizer, WORDS, unknown, 32, 32)
    alone = []
    for count in range(1, len(WORDS) + 1):
        tokens = pad(state.tokenizer.encode([" ".join(WORDS[:count])]))
        alone += state.tokenizer.decode(state.model.say(tokens))
    assert [answer.said for answer in told] == alone and len(set(alone)) > 1
    assert [answer.word for answer in told] == WORDS and {answer.right for answer in told} == {None}


@pytest.mark.parametrize("chunk", [1, 4, 9])
def test_how_many_beginnings_are_decoded_at_once_changes_no_answer(state, chunk):
    whole = after_each_word(state.model, state.tokenizer, WORDS, unknown, 32, 32)
    assert after_each_word(state.model, state.tokenizer, WORDS, unknown, 32, chunk) == whole


def test_beginnings_that_the_model_can_not_read_whole_are_left_out(state):
    lengths = [len(row) for row in state.tokenizer.encode([" ".join(WORDS[:count]) for count in range(1, len(WORDS) + 1)])]
    limit = lengths[4]
    assert limit < lengths[5]
    told = after_each_word(state.model, state.tokenizer, WORDS, str.upper, limit, 32)
    assert [answer.right for answer in told] == [" ".join(WORDS[:count]).upper() for count in range(1, 6)]


def test_the_sentence_with_most_words_is_told_unless_it_has_too_many():
    lengths = (3, MOST_WORDS, MOST_WORDS, 5, MOST_WORDS + 1)
    pairs = [Pair(" ".join(["word"] * length), str(i)) for i, length in enumerate(lengths)]
    assert most_to_tell(pairs) is pairs[1]
    assert most_to_tell(pairs[4:]) is pairs[4]
    assert most_to_tell([Pair("word " * 90, ""), Pair("word " * 80, "")]).source == "word " * 80


def test_an_event_keeps_whether_an_answer_is_right_and_cuts_it_only_then():
    long = "x" * 100
    assert as_event(SoFar("up", "floor 3", "floor 3")) == AfterWord(word="up", said="floor 3", right=True)
    assert as_event(SoFar("up", "", "floor 3")) == AfterWord(word="up", said="", right=False)
    cut = as_event(SoFar(long, long, long + "y"))
    assert (cut.word, cut.said, cut.right) == ("x" * 79 + "…", "x" * 79 + "…", False)
    assert as_event(SoFar("up", long, None)).right is None


def looked(bench, pairs: list[Pair], *settings: str) -> Decoded:
    run = bench(*IN_TIME, *settings)
    state = run.trainer.state
    state.valid_sentences = type(state.valid_sentences)(tuple(pairs), state.tokenizer, state.config.text.max_tokens)
    return DecodeMonitor().look(state, len(pairs))


def test_a_look_in_time_marks_the_answers_that_the_task_knows(bench):
    task = Lift(floors=3)
    pairs = [Pair(text, task.answer(text)) for text in ("up", "down up up down up", "down down")]
    look = looked(bench, pairs, "data.train=task:lift,floors=3", "data.task=pairs")
    assert [answer.word for answer in look.after_each_word] == ["down", "up", "up", "down", "up"]
    beginnings = ["down", "down up", "down up up", "down up up down", "down up up down up"]
    assert [answer.right for answer in look.after_each_word] == [
        answer.said == task.answer(beginning) for answer, beginning in zip(look.after_each_word, beginnings, strict=True)
    ]


def test_of_text_only_the_whole_sentence_has_a_right_answer(bench):
    look = looked(bench, [Pair("the dog sleeps", "the dog sleeps")])
    assert [answer.right for answer in look.after_each_word] == [None, None, look.after_each_word[-1].said == "the dog sleeps"]


def test_a_long_sentence_is_told_up_to_a_word(bench):
    text = " ".join(["a"] * (MOST_WORDS + 8))
    look = looked(bench, [Pair(text, text)], "text.max_tokens=128")
    assert len(look.after_each_word) == MOST_WORDS and {answer.right for answer in look.after_each_word} == {None}


def test_a_run_that_reads_a_sentence_at_once_tells_nothing_after_each_word(bench):
    run = bench()
    assert DecodeMonitor().look(run.trainer.state, 64).after_each_word == ()


def test_telling_takes_no_random_numbers_and_changes_no_weight(state):
    before = [tensor.clone() for tensor in state.tensors()[0].values()]
    stream = torch.get_rng_state()
    after_each_word(state.model, state.tokenizer, WORDS, unknown, 32, 32)
    assert torch.equal(stream, torch.get_rng_state())
    assert all(torch.equal(one, other) for one, other in zip(before, state.tensors()[0].values(), strict=True))
