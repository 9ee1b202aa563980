"""Tests of evaluation: controls do what they should, and the number of sentences decoded at once changes nothing."""

from __future__ import annotations

import torch

from lattice.observing.scoring import evaluate, say


def test_shuffled_embeddings_make_every_sentence_say_what_its_neighbour_said(bench):
    run = bench()
    sentences, model = run.trainer.state.valid_sentences, run.trainer.state.model
    rows = list(range(16))
    said = {name: say(model, sentences, rows, run.trainer.state.tokenizer, 16, name) for name in ("none", "shuffled")}
    assert len(set(said["none"])) > 1
    assert said["shuffled"] == said["none"][-1:] + said["none"][:-1]


def test_bypassed_messages_make_every_sentence_say_the_same(bench):
    run = bench()
    sentences, model = run.trainer.state.valid_sentences, run.trainer.state.model
    _, freely = evaluate(model, sentences, run.trainer.state.tokenizer, 16)
    quality, bypassed = evaluate(model, sentences, run.trainer.state.tokenizer, 16, "bypass")
    assert len(set(freely)) > 1
    assert len(set(bypassed)) == 1 and len(bypassed) == quality.count == len(sentences)


def test_a_chunk_passes_the_lattice_once_and_the_decoder_a_token_at_a_time(bench):
    run = bench()
    sentences, model = run.trainer.state.valid_sentences, run.trainer.state.model
    chunks = list(range(7)), list(range(7, 14)), list(range(14, 20))
    longest = [model.say(sentences.batch(chunk, torch.device("cpu"))[0]).shape[1] for chunk in chunks]
    passed, read = [], []
    model.lattice.register_forward_pre_hook(lambda _, given: passed.append(len(given[0])))
    for layer in model.decoder.layers:
        layer.register_forward_pre_hook(lambda _, given: read.append(given[0].shape[1]))
    say(model, sentences, list(range(20)), run.trainer.state.tokenizer, 7)
    assert passed == [7, 7, 6]
    assert read == [1] * len(model.decoder.layers) * sum(longest)


def test_what_is_said_does_not_depend_on_how_many_sentences_are_decoded_at_once(bench):
    run = bench()
    rows = list(range(20))
    by_chunk = [
        say(run.trainer.state.model, run.trainer.state.valid_sentences, rows, run.trainer.state.tokenizer, chunk)
        for chunk in (20, 7)
    ]
    assert by_chunk[0] == by_chunk[1]
