"""Tests of training's health: numbers that are not finite and spikes are never applied or saved, and the run goes back once.

Also tests what happens if memory runs out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from lattice.model.text_lattice import TextLattice
from lattice.observing.decode_monitor import DecodeMonitor
from lattice.training import changes, checkpoint
from lattice.training.callbacks import Callback
from lattice.training.checkpointer import Checkpointer
from lattice.training.health import FEWEST, Recovery, not_finite, why_bad
from lattice.training.progress import Progress
from lattice.training.state import TrainingState
from lattice.training.trainer import Trainer, TrainingFailed
from monitors.events import BadStep, RolledBack, Saved, StageStarted, Trained, Warned

CLOCKS = {"elapsed_s", "cpu_s", "saving_s"}
LONG = ("stages.0.steps=12", "stages.1.steps=12")


class After(Callback):
    """Does something to the state after a given step."""

    def __init__(self, step: int, act: Callable[[TrainingState], None]) -> None:
        self._step, self._act = step, act

    def after_step(self, state: TrainingState) -> None:
        if state.progress.step == self._step:
            self._act(state)


class Weights(Callback):
    """The model's tensors after every step."""

    def __init__(self) -> None:
        self.after: dict[int, dict[str, torch.Tensor]] = {}

    def after_step(self, state: TrainingState) -> None:
        self.after[state.progress.step] = {name: value.clone() for name, value in state.tensors()[0].items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def guarded(bench, tmp_path):
    """`guarded("a.b=c", callbacks=[...])`: a trainer as the engine builds it, with checkpoints that it can go back to."""

    def build(*assignments: str, callbacks: tuple[Callback, ...] = (), folder: Path = tmp_path):
        recovery = Recovery(folder)
        every = [*callbacks, DecodeMonitor(), recovery, Checkpointer(folder, "data")]
        return bench(*LONG, *assignments, callbacks=every, recovery=recovery)

    return build


@pytest.fixture
def poison(monkeypatch) -> Iterator[Callable]:
    """`poison(trainer, steps, factor)` multiplies the loss of these steps, also if the trainer has another model by then."""
    honest = TextLattice.loss

    def begin(trainer: Trainer, steps: range, factor: float = math.nan) -> None:
        def loss(model: TextLattice, *batch):
            total, count = honest(model, *batch)
            return (total * factor if model.training and trainer.state.progress.step + 1 in steps else total), count

        monkeypatch.setattr(TextLattice, "loss", loss)

    return begin


# Going back


def test_too_many_bad_steps_send_the_run_back_to_its_last_good_weights_and_its_steps_go_on(guarded, poison):
    weights = Weights()
    run = guarded(callbacks=(weights,))
    poison(run.trainer, range(5, 10))
    assert run.trainer.run() == "finished"
    assert [event.in_a_row for event in run.heard.of(BadStep)] == [1, 2, 3, 4, 5]
    (back,) = run.heard.of(RolledBack)
    # The checkpoint of step 6 was saved in the midst of it and holds weights of step 4; the one of step 3 is trusted.
    assert (back.step, back.stage, back.to_step) == (9, 0, 3)
    assert back.reason == "5 steps in a row were bad (the loss is nan at step 9)"
    assert same(weights.after[9], weights.after[3]) and not same(weights.after[9], weights.after[4])
    assert [event.step for event in run.heard.of(Trained)] == list(range(1, 25))
    assert not same(weights.after[10], weights.after[9])


def test_a_second_time_ends_the_run_with_both_steps_named(guarded, poison, tmp_path):
    run = guarded()
    poison(run.trainer, range(5, 100))
    with pytest.raises(TrainingFailed) as failure:
        run.trainer.run()
    assert len(run.heard.of(RolledBack)) == 1 and len(run.heard.of(BadStep)) == 10
    told = "5 steps in a row were bad (the loss is nan at step 14), though the run went back to an earlier checkpoint at step 9"
    assert str(failure.value) == f"{told}; try a lower optimizer.learning_rate, or fp32"
    assert not_finite(checkpoint.load_newest(tmp_path)[0].model) == ""


def test_without_a_checkpoint_to_go_back_to_the_run_ends(guarded, poison):
    run = guarded("checkpoint.every=100")
    poison(run.trainer, range(2, 100))
    with pytest.raises(TrainingFailed, match="at step 6"):
        run.trainer.run()
    assert run.heard.of(RolledBack) == []


def test_a_stage_that_is_bad_from_its_start_grows_anew_from_the_last_one(guarded, poison):
    weights = Weights()
    run = guarded("checkpoint.every=12", "stages.1.waves=2", "connections.learning=hybrid", callbacks=(weights,))
    poison(run.trainer, range(13, 18))
    assert run.trainer.run() == "finished"
    (back,) = run.heard.of(RolledBack)
    assert (back.step, back.stage, back.to_step) == (17, 1, 12)
    # No step of the stage was applied, so what it grows into again is what it began with, discovery waves included.
    assert same(weights.after[17], weights.after[13])
    assert run.trainer.state.progress.waves == 2
    assert not same(weights.after[18], weights.after[17])


def test_a_damaged_checkpoint_is_passed_over_with_its_reason_when_the_run_goes_back(guarded, poison, tmp_path):
    def damage(_: Trainer) -> None:
        (tmp_path / "step-00000006" / "model.safetensors").write_bytes(b"")

    run = guarded("checkpoint.keep=5", callbacks=(After(7, damage),))
    poison(run.trainer, range(8, 13))
    run.trainer.run()
    assert [event.to_step for event in run.heard.of(RolledBack)] == [3]
    assert any(
        "can't go back" in event.message and "does not match its manifest" in event.message for event in run.heard.of(Warned)
    )


@pytest.mark.parametrize("at", [4, 7, 10], ids=["before", "in the bad steps", "after the run went back"])
def test_a_run_that_goes_back_and_is_interrupted_ends_like_the_one_that_is_not(guarded, poison, tmp_path, at):
    def stop(state: TrainingState) -> None:
        state.request_stop("test")

    whole = guarded(folder=tmp_path / "whole")
    poison(whole.trainer, range(5, 10))
    assert whole.trainer.run() == "finished"
    place = tmp_path / "parts"
    first = guarded(folder=place, callbacks=(After(at, stop),))
    poison(first.trainer, range(5, 10))
    assert first.trainer.run() == "stopped"  # killed after its last checkpoint: none is saved here
    saved, _ = checkpoint.load_newest(place)
    second = guarded(folder=place)
    changes.resume(second.trainer.state, saved.model, saved.optimizer, saved.state)
    poison(second.trainer, range(5, 10))
    assert second.trainer.run() == "finished"
    (mine, _), (theirs, _) = checkpoint.load_newest(place), checkpoint.load_newest(tmp_path / "whole")
    assert same(mine.model, theirs.model) and same(mine.optimizer, theirs.optimizer)
    here, there = ({k: v for k, v in s.state["progress"].items() if k not in CLOCKS} for s in (mine, theirs))
    assert here == there and here["rolled_back_at"] == 9


# Weights and moments


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_one_number_that_is_not_finite_is_found_and_its_tensor_named(value, dtype):
    tensors = {"whole": torch.arange(5), "mask": torch.tensor([True]), "none": torch.empty(0), "good": torch.randn(50)}
    assert not_finite(tensors) == ""
    bad = torch.ones(7, 11, dtype=dtype)
    bad[3, 4] = value
    assert not_finite(tensors | {"lattice.cells": bad}) == f"lattice.cells is not finite (it reaches {value})"


def spoil_weight(state: TrainingState) -> None:
    with torch.no_grad():
        state.model.decoder.embedding.weight[-1, 0] = math.nan  # a token that no sentence here may use


def spoil_moment(state: TrainingState) -> None:
    next(iter(state.optimizer.state.values()))["exp_avg"].view(-1)[0] = math.inf


@pytest.mark.parametrize("spoil", [spoil_weight, spoil_moment])
def test_broken_weights_or_moments_are_found_at_a_look_and_gone_back_from(guarded, spoil):
    run = guarded("checkpoint.every=2", callbacks=(After(8, spoil),))  # the monitor looks after step 8, too
    assert run.trainer.run() == "finished"
    (back,) = run.heard.of(RolledBack)
    assert (back.step, back.to_step) == (9, 6) and "is not finite" in back.reason
    assert not_finite(run.trainer.state.tensors()[0]) == not_finite(run.trainer.state.tensors()[1]) == ""


@pytest.mark.parametrize("spoil", [spoil_weight, spoil_moment])
def test_broken_weights_or_moments_are_never_saved(guarded, spoil, tmp_path):
    run = guarded("decode.every=100", callbacks=(After(6, spoil),))
    assert run.trainer.run() == "finished"
    assert 6 not in [event.step for event in run.heard.of(Saved)]
    assert any(event.step == 6 and event.message.startswith("checkpoint not saved: ") for event in run.heard.of(Warned))
    assert [event.to_step for event in run.heard.of(RolledBack)] == [3]
    for _, path in checkpoint.steps(tmp_path):
        saved = checkpoint.load(path)
        assert not_finite(saved.model) == not_finite(saved.optimizer) == ""


def test_a_run_whose_last_weights_are_broken_says_so_instead_of_saving_them(guarded, tmp_path):
    run = guarded(callbacks=(After(24, spoil_weight),))
    run.trainer.run()
    (said,) = [event.message for event in run.heard.of(Warned) if event.step == 24 and "not saved" in event.message]
    assert "is not finite" in said
    assert checkpoint.load_newest(tmp_path)[0].state["progress"]["step"] == 21


# Spikes


def test_the_running_mean_and_variance_are_exact_until_they_begin_to_forget():
    losses, progress = torch.rand(50, generator=torch.Generator().manual_seed(1), dtype=torch.float64), Progress()
    for loss in losses.tolist():
        progress.note_good(loss)
    assert progress.loss_mean == pytest.approx(float(losses.mean()), rel=1e-9)
    assert progress.loss_variance == pytest.approx(float(losses.var(correction=0)), rel=1e-9)


def test_no_loss_of_a_noisy_falling_curve_counts_as_a_spike_and_a_jump_does():
    noise = torch.randn(20_000, generator=torch.Generator().manual_seed(2)).tolist()
    progress = Progress()
    for step, away in enumerate(noise):
        loss = 6.0 * math.exp(-step / 500) + 0.3 + 0.25 * abs(away)
        assert why_bad(progress, loss, 1.0, 6.0) == "", step
        progress.note_good(loss)
    assert why_bad(progress, 6.2, 1.0, 6.0) == f"the loss is 6.2, far above its mean of {progress.loss_mean:.3g}"
    assert why_bad(progress, 6.2, 1.0, 0.0) == ""


def test_a_stage_has_no_spikes_before_its_losses_are_known():
    progress = Progress()
    for _ in range(FEWEST - 1):
        progress.note_good(1.0)
    assert why_bad(progress, 50.0, 1.0, 6.0) == ""
    progress.note_good(1.0)
    assert why_bad(progress, 50.0, 1.0, 6.0) != ""


def test_a_spike_is_not_applied_and_an_edit_forgets_what_the_loss_was(guarded, poison):
    weights = Weights()
    settings = ("stages.0.steps=30", "checkpoint.every=100", "decode.every=100")
    edit = After(26, lambda state: changes.reconfigure(state, state.config))
    run = guarded(*settings, callbacks=(weights, edit))
    poison(run.trainer, range(25, 29, 2), 10.0)  # of steps 25 and 27, the second after the edit
    run.trainer.run()
    (bad,) = run.heard.of(BadStep)
    assert bad.step == 25 and "far above its mean" in bad.reason
    assert same(weights.after[25], weights.after[24]) and not same(weights.after[27], weights.after[26])


# Memory


@pytest.fixture
def scarce(monkeypatch) -> Callable[[int], None]:
    """`scarce(n)`: memory takes n sentences at once, and not one more."""
    honest = TextLattice.loss

    def begin(most: int) -> None:
        def loss(model: TextLattice, source: torch.Tensor, *rest: torch.Tensor):
            if len(source) > most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nGPU 0 has ...")
            return honest(model, source, *rest)

        monkeypatch.setattr(TextLattice, "loss", loss)

    return begin


def losses(run) -> list[tuple[int, float | None]]:
    return [(event.step, event.loss) for event in run.heard.of(Trained)]


def test_where_memory_runs_out_the_same_batch_goes_through_in_smaller_parts(bench, scarce):
    planned = bench("training.micro_batch=4")
    planned.trainer.run()
    scarce(4)
    run = bench()
    assert run.trainer.state.plan.micro_batch == 16
    assert run.trainer.run() == "finished"
    assert losses(run) == losses(planned)
    told = [event.message for event in run.heard.of(Warned)]
    assert told[:2] == [
        "out of memory with 16 sentences at once; going on with 8, and the same batch a step",
        "out of memory with 8 sentences at once; going on with 4, and the same batch a step",
    ]
    assert len(told) == 4  # the second stage has a plan of its own


def test_a_resumed_run_keeps_the_smaller_parts_without_trying_the_larger_ones_again(bench, scarce, tmp_path):
    def stop(state: TrainingState) -> None:
        state.request_stop("test")

    scarce(4)
    saver = Checkpointer(tmp_path, "data")
    first = bench("stages.1.steps=1", callbacks=[After(4, stop)])
    assert first.trainer.run() == "stopped"
    saver.save(first.trainer.state)
    saved, _ = checkpoint.load_newest(tmp_path)
    second = bench("stages.1.steps=1")
    changes.resume(second.trainer.state, saved.model, saved.optimizer, saved.state)
    second.trainer.run()
    assert second.heard.of(StageStarted)[0].micro_batch == 4
    assert [event.stage for event in second.heard.of(Warned)] == [1, 1]


def test_memory_that_does_not_take_one_sentence_ends_the_run(bench, scarce):
    scarce(0)
    run = bench()
    with pytest.raises(torch.OutOfMemoryError):
        run.trainer.run()
    told = [event.message for event in run.heard.of(Warned)]
    assert run.trainer.state.micro_batch == 1 and len(told) == 5
    assert told[-1] == "out of memory with 1 sentence at once; going on with segments of 3 ticks, which run twice"
