"""Tests of `compare`: its numbers are those that the logs were written with, and folders need hold nothing else."""

from __future__ import annotations

import shutil

import pytest

from monitors.events import Decoded, Edited, Sample, StageStarted, Trained

SAMPLE = Sample(source="a", reference="a", said="b")


def trained(step: int, loss: float | None, step_s: float) -> Trained:
    return Trained(step=step, loss=loss, grad_norm=1.0, learning_rate=0.1, step_s=step_s)


def decoded(step: int, bleu: float, valid_loss: float | None, count: int = 64) -> Decoded:
    return Decoded(
        step=step,
        bleu=bleu,
        chrf=bleu + 1,
        exact=bleu / 100,
        valid_loss=valid_loss,
        count=count,
        signature="s",
        samples=(SAMPLE,),
        seconds=1.0,
        peak_bytes=0,
        active_share=1.0,
        gradient_share=None,
        best=False,
    )


def course(step_s: float, looks: dict[int, tuple[float, float | None]], loss: float) -> list:
    """Ten steps of one length, with a look after some."""
    sizes = {"shape": (4, 4, 6), "cells": 96, "ticks": 6, "plan_bytes": 1, "micro_batch": 16, "accumulation": 1}
    events = [StageStarted(name="sprout", kernel="native", carried=False, **sizes)]
    for step in range(1, 11):
        events.append(trained(step, loss, step_s))
        if step in looks:
            events.append(decoded(step, *looks[step]))
    return events


@pytest.fixture
def runs(tmp_path, written):
    """Two runs: `slow` reaches BLEU 50 late and loses some, `quick` early; the log of `quick` has a line from elsewhere."""
    slow = course(0.5, {4: (12.0, 3.5), 8: (55.0, 0.9), 10: (52.0, None)}, loss=2.0)
    quick = course(0.125, {2: (31.0, 1.9), 4: (72.0, 0.8)}, loss=1.0)
    quick.append(Edited(step=10, who="ada", command="set", key="decode.every", old=10, new=2))
    place = tmp_path / "runs"
    written(place, "slow", ("optimizer.learning_rate=0.1",), slow, step=10, elapsed_s=7.0, cpu_s=6.0, peak_bytes=10**9)
    written(place, "quick", ("training.batch=8",), quick, step=10, elapsed_s=2.0, cpu_s=1.0, peak_bytes=2 * 10**9)
    with (place / "quick" / "events.jsonl").open("a") as log:
        log.write('{"kind": "of another version", "step": 3}\n{"torn')
    return place


def test_the_numbers_are_those_of_the_logs(cli, runs):
    slow, quick = cli("compare", "slow", "quick", "--runs-dir", runs, "--json").json["runs"]
    assert (slow["run"], slow["bleu"], slow["best_bleu"], slow["best_bleu_step"]) == ("slow", 52.0, 55.0, 8)
    assert (slow["chrf"], slow["exact"], slow["scored_sentences"]) == (53.0, 0.52, 64)
    assert (slow["valid_loss"], slow["best_valid_loss"], slow["best_valid_loss_step"]) == (None, 0.9, 8)
    assert (slow["loss"], slow["step_s"], slow["train_s"]) == (2.0, 0.5, 5.0)
    assert (quick["loss"], quick["step_s"], quick["train_s"]) == (1.0, 0.125, 1.25)
    assert (quick["elapsed_s"], quick["cpu_s"], quick["peak_bytes"]) == (2.0, 1.0, 2 * 10**9)
    assert slow["edits"] == [] and [edit["key"] for edit in quick["edits"]] == ["decode.every"]


def test_only_what_was_set_otherwise_is_told(cli, runs):
    settings = cli("compare", "slow", "quick", "--runs-dir", runs, "--json").json["settings"]
    assert settings == [
        {"setting": "optimizer.learning_rate", "values": [0.1, 0.003]},
        {"setting": "training.batch", "values": [16, 8]},
    ]


def test_marks_are_those_that_both_reached_with_the_first_step_and_the_training_time(cli, runs):
    marks = cli("compare", "slow", "quick", "--runs-dir", runs, "--json").json["marks"]
    bleu = {mark["level"]: [tuple(at.values()) for at in mark["reached"]] for mark in marks if mark["measure"] == "bleu"}
    assert bleu == {
        10: [(4, 2.0), (2, 0.25)],
        20: [(8, 4.0), (2, 0.25)],
        30: [(8, 4.0), (2, 0.25)],
        40: [(8, 4.0), (4, 0.5)],
        50: [(8, 4.0), (4, 0.5)],
    }
    losses = {mark["level"]: [at["step"] for at in mark["reached"]] for mark in marks if mark["measure"] == "valid_loss"}
    assert losses == {6: [4, 2], 5: [4, 2], 4: [4, 2], 3: [8, 2], 2: [8, 2], 1.5: [8, 4], 1: [8, 4]}


def test_runs_on_a_bundled_task_are_compared_by_exact_answers(cli, tmp_path, written):
    task, place = ("data.train=task:lift",), tmp_path / "runs"
    for name, shares in (("a", {4: 0.25, 8: 0.75, 10: 0.7}), ("b", {2: 0.5, 4: 0.8})):
        events = course(0.5, {step: (100 * share, 1.0) for step, share in shares.items()}, loss=1.0)
        silent = [event.model_copy(update={"bleu": 0.0}) if isinstance(event, Decoded) else event for event in events]
        written(place, name, task, silent, step=10)
    told = cli("compare", "a", "b", "--runs-dir", place, "--json").json
    first = told["runs"][0]
    assert (first["measure"], first["exact"], first["best_exact"], first["best_exact_step"]) == ("exact", 0.7, 0.75, 8)
    marks = {mark["level"]: [at["step"] for at in mark["reached"]] for mark in told["marks"] if mark["measure"] == "exact"}
    assert marks == {10: [4, 2], 20: [4, 2], 30: [8, 2], 40: [8, 2], 50: [8, 2], 60: [8, 4], 70: [8, 4]}
    assert {mark["measure"] for mark in told["marks"]} == {"exact", "valid_loss"}
    table = " ".join(cli("compare", "a", "b", "--runs-dir", place).out.split())
    assert "BLEU - - " in table and "exact 70.0% (best 75.0% at 8) 80.0% (best 80.0% at 4) sentences scored 64 64" in table
    assert "exact 50% 8, 4.0 s 2, 1.0 s" in table


def test_a_run_on_a_bundled_task_and_one_on_text_share_no_marks_of_a_score(cli, runs, written):
    written(runs, "task", ("data.train=task:lift",), course(0.5, {4: (80.0, 1.0)}, loss=1.0), step=10)
    told = cli("compare", "slow", "task", "--runs-dir", runs, "--json").json
    assert [run["measure"] for run in told["runs"]] == ["bleu", "exact"]
    assert {mark["measure"] for mark in told["marks"]} == {"valid_loss"}


def test_what_can_not_be_read_of_a_log_is_said(cli, runs):
    notes = cli("compare", "slow", "quick", "--runs-dir", runs, "--json").json["notes"]
    assert notes == ["1 lines of quick's log can't be read and are left out"]


def test_scores_of_other_sentences_are_not_compared_without_a_word(cli, runs, written):
    events = [trained(1, 2.0, 0.5), decoded(1, 30.0, 2.0, count=100)]
    written(runs, "other", ("run.seed=4",), events, step=1)
    notes = cli("compare", "slow", "other", "--runs-dir", runs, "--json").json["notes"]
    assert "the runs differ in run.seed: their scores may be of different held-out sentences" in notes
    assert "the last scores are of 64 and of 100 sentences" in notes


def test_copied_folders_do_and_the_table_fits_80_columns(cli, runs, tmp_path):
    copies = [shutil.copytree(runs / name, tmp_path / "elsewhere" / name) for name in ("slow", "quick")]
    told = cli("compare", *copies, "--runs-dir", tmp_path / "none")
    assert told.code == 0, told.err
    assert max(map(len, told.out.splitlines())) <= 80
    for part in ("52.0 (best 55.0 at 8)", "500.0 ms", "125.0 ms", "optimizer.learning_rate", "BLEU 50", "8, 4.0 s", "2 GB"):
        assert part in told.out
    assert "step 10: set decode.every: 10 -> 2 (by ada)" in told.out


def test_a_run_compared_with_itself_differs_in_nothing(cli, runs):
    told = cli("compare", "slow", "slow", "--runs-dir", runs, "--json").json
    assert told["settings"] == [] and told["runs"][0] == told["runs"][1]


def test_a_run_that_has_just_begun_has_dashes_for_numbers(cli, runs, written):
    written(runs, "fresh", (), [], state="failed")
    told = cli("compare", "fresh", "slow", "--runs-dir", runs)
    assert told.code == 0 and "steps and training time" not in told.out
    row = cli("compare", "fresh", "slow", "--runs-dir", runs, "--json").json["runs"][0]
    assert (row["bleu"], row["loss"], row["step_s"]) == (None, None, None)


def test_a_run_that_is_not_there_or_broken_is_named(cli, runs):
    assert cli("compare", "slow", "nope", "--runs-dir", runs).code == 5
    (runs / "quick" / "config.toml").write_text("stages = 3")
    told = cli("compare", "slow", "quick", "--runs-dir", runs)
    assert told.code == 2 and "quick/config.toml" in told.err and told.out == ""
