"""Tests of the decode monitor: what it reports, and that training goes on as if it were not there."""

from __future__ import annotations

import pytest

from lattice.data.pair import Pair
from lattice.observing.decode_monitor import DecodeMonitor
from lattice.training.checkpoint import best_path
from lattice.training.checkpointer import Checkpointer
from lattice.training.progress import Progress
from monitors.events import Decoded, Saved, Trained
from monitors.quality import Quality


def test_decode_events_say_what_was_scored_and_what_it_cost(bench, corpus):
    run = bench(callbacks=[DecodeMonitor()])
    run.trainer.run()
    looks = run.heard.of(Decoded)
    assert [(e.step, e.stage) for e in looks] == [(4, 0), (6, 0), (8, 1), (12, 1)]  # every 4, and where a stage ends
    best = -1.0
    for look in looks:
        assert look.count == 64 and 0 <= look.bleu <= 100 and 0 <= look.chrf <= 100 and 0 <= look.exact <= 1
        assert "version:" in look.signature
        assert [sample.reference for sample in look.samples] == [pair.target for pair in corpus.valid[:6]]
        assert [sample.source for sample in look.samples] == [pair.source for pair in corpus.valid[:6]]
        assert look.seconds > 0 and look.peak_bytes >= 0
        assert 0 <= look.active_share <= 1
        assert look.best == (look.bleu > best)
        best = max(best, look.bleu)
    assert looks[-1].valid_loss == run.trainer.state.progress.valid_loss < looks[0].valid_loss


@pytest.mark.parametrize(("task", "best"), [(False, [True, False, True, False]), (True, [True, True, False, True])])
def test_the_best_look_and_checkpoint_are_those_with_most_exact_answers_on_a_bundled_task(
    bench, tmp_path, monkeypatch, task, best
):
    scores = [(20.0, 0.1), (10.0, 0.2), (30.0, 0.15), (5.0, 0.3)]
    qualities = iter([Quality(bleu, 0.0, exact, 64, "") for bleu, exact in scores])
    monkeypatch.setattr("lattice.observing.decode_monitor.score", lambda said, references, tokenize: next(qualities))
    settings = ("data.train=task:lift", "data.task=pairs") if task else ()
    run = bench(*settings, "checkpoint.every=4", callbacks=[DecodeMonitor(), Checkpointer(tmp_path, "")])
    run.trainer.run()
    looks, saved = run.heard.of(Decoded), run.heard.of(Saved)
    assert [look.score for look in looks] == [100 * exact if task else bleu for bleu, exact in scores]
    assert [look.best for look in looks] == [save.best for save in saved] == best
    assert best_path(tmp_path) == tmp_path / f"step-{looks[3 if task else 2].step:08d}"


def test_every_cell_of_the_tiny_preset_has_a_gradient(bench):
    run = bench(callbacks=[DecodeMonitor()])
    run.trainer.run()
    assert {(event.stage, event.gradient_share) for event in run.heard.of(Decoded)} == {(0, 1.0), (1, 1.0)}


def test_looking_does_not_change_what_is_learned(bench):
    watched, alone = bench("decode.every=1", callbacks=[DecodeMonitor()]), bench()
    for run in (watched, alone):
        run.trainer.run()
    first, second = ([event.loss for event in run.heard.of(Trained)] for run in (watched, alone))
    assert len(first) == 12 and first == second


def test_a_look_whose_score_stands_still_is_better_if_more_of_the_text_is_right(bench, tmp_path, monkeypatch):
    """Chinese scored by words: BLEU 0 from the first look to the last, though three in four sentences come back."""
    chrf = [(1.0, 0.0), (60.0, 0.5), (90.0, 0.75), (80.0, 0.75)]
    qualities = iter([Quality(0.0, chrf, exact, 64, "") for chrf, exact in chrf])
    monkeypatch.setattr("lattice.observing.decode_monitor.score", lambda said, references, tokenize: next(qualities))
    run = bench("checkpoint.every=4", callbacks=[DecodeMonitor(), Checkpointer(tmp_path, "")])
    run.trainer.run()
    looks, saved = run.heard.of(Decoded), run.heard.of(Saved)
    assert [look.best for look in looks] == [save.best for save in saved] == [True, True, True, False]
    assert best_path(tmp_path) == tmp_path / f"step-{looks[2].step:08d}"


@pytest.mark.parametrize(("older", "tok"), [(False, "tok:zh"), (True, "tok:13a")])
def test_a_run_keeps_the_tokenization_of_its_first_look_and_one_of_an_older_version_keeps_13a(bench, older, tok):
    run = bench("decode.every=12", callbacks=[DecodeMonitor()])
    state = run.trainer.state
    if older:  # what its checkpoint says: scores, but no tokenization
        state.use_progress(Progress.from_json({"bleu": 0.0, "best_bleu": 0.0}))
    sentences = state.valid_sentences
    chinese = ["four words of English", *["今天天气很好我们去公园散步"] * (len(sentences) - 1)]
    sentences.pairs = tuple(Pair(pair.source, text) for pair, text in zip(sentences.pairs, chinese, strict=True))
    monitor = DecodeMonitor()
    for count in (64, 1):  # the first sentence alone would be scored by words
        assert tok in monitor.look(state, count).signature.split("|")
    resumed = Progress.from_json(state.progress.as_json())
    assert resumed.settle_tokenization("char") == tok.removeprefix("tok:")


def test_of_a_very_long_sentence_the_log_keeps_the_beginning(bench):
    run = bench(callbacks=[DecodeMonitor()])
    state = run.trainer.state
    long, *others = state.valid_sentences.pairs
    state.valid_sentences.pairs = (Pair("-" * 5000, "+" * 1000), *others)
    sample, after = DecodeMonitor().look(state, 2).samples
    assert (sample.source, sample.reference) == ("-" * 1000 + "…", "+" * 1000)
    assert after.source == others[0].source != long.source
