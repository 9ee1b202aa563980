"""Tests of the training loop: it repeats and resumes bit for bit, applies only finite numbers, and ends by its rules."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lattice.observing import decode_monitor
from lattice.observing.decode_monitor import DecodeMonitor
from lattice.training import changes, checkpoint
from lattice.training.callbacks import Callback
from lattice.training.checkpointer import Checkpointer
from lattice.training.state import TrainingState
from lattice.training.trainer import Trainer, TrainingFailed
from monitors.events import BadStep, Decoded, Saved, StageEnded, StageStarted, Trained, Warned
from tests.lattice.conftest import StopAt

CLOCKS = {"elapsed_s", "cpu_s", "saving_s"}


class Died(Exception):
    pass


class DieAtStageEnd(Callback):
    """Comes after the checkpointer: the process dies when the stage's checkpoint is on disk and nothing else is done."""

    def at_stage_end(self, state: TrainingState) -> None:
        raise Died


class Weights(Callback):
    """Copies of the model's and the optimizer's tensors after every step."""

    def __init__(self) -> None:
        self.after: list[dict[str, torch.Tensor]] = []
        self.moments_after: list[dict[str, torch.Tensor]] = []

    def after_step(self, state: TrainingState) -> None:
        model, optimizer = map(copied, state.tensors())
        self.after.append(model)
        self.moments_after.append(optimizer)


def copied(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def losses(heard) -> dict[int, float]:
    return {event.step: event.loss for event in heard.of(Trained)}


def poison(monkeypatch, trainer: Trainer, is_bad: Callable[[int], bool]) -> None:
    """Makes the training loss NaN at the steps (counted from 1) for which `is_bad`."""
    honest = trainer.state.model.loss

    def loss(*batch):
        total, count = honest(*batch)
        return (total * math.nan if is_bad(trainer.state.progress.step + 1) else total), count

    monkeypatch.setattr(trainer.state.model, "loss", loss)


# The same run again


def test_same_seed_gives_same_losses_and_weights_bit_for_bit(bench):
    runs = [bench() for _ in range(2)]
    assert [run.trainer.run() for run in runs] == ["finished", "finished"]
    first, second = (losses(run.heard) for run in runs)
    assert list(first) == list(range(1, 13))
    assert first == second
    assert_same(*(run.trainer.state.model.state_dict() for run in runs))


def test_another_seed_gives_other_losses_from_the_first_step_on(bench):
    first, second = bench("stages.1.steps=1"), bench("stages.1.steps=1", "run.seed=1")
    for run in (first, second):
        run.trainer.run()
    here, there = losses(first.heard), losses(second.heard)
    assert all(here[step] != there[step] for step in here)


def test_accumulated_micro_batches_give_the_losses_of_one_batch(bench):
    whole, parts = bench("training.micro_batch=16"), bench("training.micro_batch=4")
    for run in (whole, parts):
        run.trainer.run()
    assert parts.heard.of(StageStarted)[0].accumulation == 4
    assert whole.heard.of(StageStarted)[0].accumulation == 1
    assert list(losses(parts.heard).values()) == pytest.approx(list(losses(whole.heard).values()), rel=1e-4)


def test_training_lowers_the_loss_and_growing_hardly_raises_it(bench):
    run = bench("stages.0.steps=60", "stages.1.steps=3")
    run.trainer.run()
    seen = list(losses(run.heard).values())
    before, after = sum(seen[57:60]) / 3, sum(seen[60:]) / 3
    assert before < sum(seen[:3]) / 3 - 1
    assert after <= 1.2 * before


def test_growing_keeps_the_moments_of_the_parts_that_keep_their_shape(bench):
    run = bench()
    run.trainer.run()
    steps = {name: int(tensor) for name, tensor in run.trainer.state.tensors()[1].items() if name.endswith("/step")}
    assert {name: count for name, count in steps.items() if count != 12} == {"lattice.cells/step": 6, "lattice.weights/step": 6}


# Interrupted and resumed


@pytest.fixture(scope="module")
def whole(tmp_path_factory, bench):
    """The run that nothing interrupts, and its folder of checkpoints."""
    folder = tmp_path_factory.mktemp("whole")
    run = bench(callbacks=[DecodeMonitor(), Checkpointer(folder, "data")])
    assert run.trainer.run() == "finished"
    return folder, run.heard


def resumed_from(bench, folder: Path):
    saved, passed_over = checkpoint.load_newest(folder)
    assert passed_over == []
    run = bench(callbacks=[DecodeMonitor(), Checkpointer(folder, "data")])
    changes.resume(run.trainer.state, saved.model, saved.optimizer, saved.state)
    return run, saved.state["progress"]


def assert_ends_like(whole, folder: Path, heard, since: int) -> None:
    """Losses after step `since`, decodes, and the last checkpoint equal those of the uninterrupted run."""
    reference, expected = whole
    wanted = {step: loss for step, loss in losses(expected).items() if step > since}
    assert wanted and losses(heard) == wanted
    looks = [
        [(e.step, e.bleu, e.valid_loss, e.samples, e.best) for e in who.of(Decoded) if e.step > since]
        for who in (heard, expected)
    ]
    assert looks[0] and looks[0] == looks[1]
    (mine, _), (theirs, _) = checkpoint.load_newest(folder), checkpoint.load_newest(reference)
    assert mine.path.name == theirs.path.name == "step-00000012"
    assert_same(mine.model, theirs.model)
    assert_same(mine.optimizer, theirs.optimizer)
    here, there = (
        saved.state | {"progress": {k: v for k, v in saved.state["progress"].items() if k not in CLOCKS}}
        for saved in (mine, theirs)
    )
    assert here == there


@pytest.mark.parametrize("at", [2, 6, 8], ids=["inside stage 1", "at the boundary", "inside stage 2"])
def test_a_stopped_and_resumed_run_equals_the_uninterrupted_one(bench, whole, tmp_path, at):
    saver = Checkpointer(tmp_path, "data")
    first = bench(callbacks=[DecodeMonitor(), saver, StopAt(at)])
    assert first.trainer.run() == "stopped"
    assert first.heard.of(StageEnded)[-1].reason == "stopped"
    saver.save(first.trainer.state)  # what the engine does on a signal
    second, progress = resumed_from(bench, tmp_path)
    assert progress["step"] == at
    assert second.trainer.run() == "finished"
    assert second.heard.of(StageStarted)[0].carried
    assert_ends_like(whole, tmp_path, second.heard, since=at)


def test_a_run_that_died_between_two_stages_resumes_into_the_next_one(bench, whole, tmp_path):
    first = bench(callbacks=[DecodeMonitor(), Checkpointer(tmp_path, "data"), DieAtStageEnd()])
    with pytest.raises(Died):
        first.trainer.run()
    second, progress = resumed_from(bench, tmp_path)
    assert (progress["step"], progress["stage"], progress["stage_over"]) == (6, 0, "steps")
    assert second.trainer.run() == "finished"
    assert [event.stage for event in second.heard.of(StageStarted)] == [1]
    assert_ends_like(whole, tmp_path, second.heard, since=6)


def test_a_finished_run_that_is_resumed_trains_no_further(bench, whole):
    second, _ = resumed_from(bench, whole[0])
    assert second.trainer.run() == "finished"
    assert second.heard.of(Trained) == []


def test_a_checkpoint_of_another_config_is_refused_with_the_tensor_that_does_not_fit(bench, whole):
    saved, _ = checkpoint.load_newest(whole[0])
    other = bench("lattice.channels=6")
    with pytest.raises(ValueError, match=r"input_port\.weight is .* in it and .* here; lattice\.arm, lattice\.channels,"):
        changes.resume(other.trainer.state, saved.model, saved.optimizer, saved.state)


# What is not finite


def test_a_step_with_a_nan_loss_leaves_weights_and_moments_alone_and_training_goes_on(bench, monkeypatch):
    weights = Weights()
    run = bench(callbacks=[weights])
    poison(monkeypatch, run.trainer, lambda step: step == 3)
    run.trainer.run()
    (bad,) = run.heard.of(BadStep)
    assert (bad.step, bad.stage, bad.in_a_row, bad.reason) == (3, 0, 1, "the loss is nan")
    assert_same(weights.after[1], weights.after[2])
    assert_same(weights.moments_after[1], weights.moments_after[2])
    assert not torch.equal(weights.after[2]["lattice.cells"], weights.after[3]["lattice.cells"])
    assert losses(run.heard)[3] is None
    assert all(math.isfinite(loss) for step, loss in losses(run.heard).items() if step != 3)
    assert run.trainer.state.progress.step == 12 and run.trainer.state.progress.bad_in_a_row == 0


def test_a_step_with_an_infinite_gradient_is_skipped_and_counted(bench):
    weights = Weights()
    run = bench(callbacks=[weights])
    hook = run.trainer.state.model.lattice.cells.register_hook(
        lambda grad: grad * math.inf if run.trainer.state.progress.step == 2 else grad
    )
    run.trainer.run()
    hook.remove()
    (bad,) = run.heard.of(BadStep)
    assert bad.step == 3 and bad.reason.startswith("the gradient norm is")
    assert math.isfinite(losses(run.heard)[3])
    assert_same(weights.after[1], weights.after[2])


def test_five_bad_steps_in_a_row_end_the_run_and_checkpoints_stay_whole(bench, monkeypatch, tmp_path):
    weights = Weights()
    run = bench(callbacks=[weights, Checkpointer(tmp_path, "data")])
    poison(monkeypatch, run.trainer, lambda step: step > 1)
    with pytest.raises(TrainingFailed, match=r"5 steps in a row were bad \(the loss is nan at step 6\)"):
        run.trainer.run()
    assert [event.in_a_row for event in run.heard.of(BadStep)] == [1, 2, 3, 4, 5]
    saved, passed_over = checkpoint.load_newest(tmp_path)
    assert saved.path.name == "step-00000003" and passed_over == []
    assert_same(saved.model, weights.after[0])


def test_bad_steps_that_are_not_in_a_row_do_not_end_the_run(bench, monkeypatch):
    run = bench("training.bad_steps=2")
    poison(monkeypatch, run.trainer, lambda step: step in (1, 3, 5))
    assert run.trainer.run() == "finished"
    assert [event.in_a_row for event in run.heard.of(BadStep)] == [1, 1, 1]


# How a stage ends


def test_a_stage_ends_after_its_steps_and_hands_over_to_the_next(bench):
    run = bench("stages.1.steps=3")
    run.trainer.run()
    assert [(e.step, e.stage, e.reason) for e in run.heard.of(StageEnded)] == [(6, 0, "steps"), (9, 1, "steps")]
    assert [(e.step, e.stage, e.carried) for e in run.heard.of(StageStarted)] == [(0, 0, False), (6, 1, True)]


def test_a_stage_ends_early_at_its_held_out_loss(bench):
    run = bench("stages.0.until_loss=100", callbacks=[DecodeMonitor()])
    run.trainer.run()
    assert [(e.step, e.reason) for e in run.heard.of(StageEnded)] == [(4, "loss"), (10, "steps")]


def test_a_stage_does_not_end_at_a_held_out_loss_that_is_not_reached(bench):
    run = bench("stages.0.until_loss=0.001", callbacks=[DecodeMonitor()])
    run.trainer.run()
    assert run.heard.of(StageEnded)[0].reason == "steps"


def test_a_stage_ends_after_so_many_decodes_without_a_better_loss(bench, monkeypatch):
    seen = iter([5.0, 4.0, 4.0, 4.5, 3.0, 3.0, 3.0, 3.0, 3.0])
    monkeypatch.setattr(decode_monitor, "held_out_loss", lambda *_: next(seen))
    settings = ("stages.0.steps=20", "stages.0.until_plateau=2", "stages.1.steps=2", "decode.every=2")
    run = bench(*settings, callbacks=[DecodeMonitor()])
    run.trainer.run()
    # Looks at 2, 4, 6, 8: the second is better, the next two are not.
    assert [(e.step, e.reason) for e in run.heard.of(StageEnded)] == [(8, "plateau"), (10, "steps")]


# What learns and what does not


def moved(run) -> set[str]:
    """Names of the tensors that differ between now and the end of the run."""
    start = copied(run.trainer.state.model.state_dict())
    run.trainer.run()
    end = run.trainer.state.model.state_dict()
    return {name for name in start if not torch.equal(start[name], end[name])}


ONE_STAGE = 'stages=[{name="only", shape=[4,4,6], ticks=6, steps=3, strides={z=[2]}%s}]'


@pytest.mark.parametrize(
    ("setting", "still"),
    [
        ("connections.learning=frozen", {"lattice.weights"}),
        ("lattice.cells=frozen", {"lattice.cells"}),
        ("run.seed=0", set()),
    ],
    ids=["connections frozen", "cells frozen", "all learn"],
)
def test_frozen_tensors_keep_their_values_and_everything_else_learns(bench, setting, still):
    run = bench(ONE_STAGE % "", setting)
    names = set(run.trainer.state.model.state_dict())
    assert {"lattice.weights", "lattice.cells", "input_port.weight", "output_port.weight"} <= names
    assert names - moved(run) == still


def test_the_frozen_arm_of_cells_with_clusters_freezes_their_gain_too(bench):
    run = bench(ONE_STAGE % ", clustering={clusters=3}", "lattice.cells=frozen")
    # Labels, mean states and centroids change only for a re-clustering, and none is due in these few steps.
    buffers = {"lattice.labels", "lattice.mean_state", "lattice.centroids"}
    assert set(run.trainer.state.model.state_dict()) - moved(run) == {"lattice.cells", "lattice.gain"} | buffers


def test_the_profile_freeze_leaves_connections_as_they_are_while_cells_learn(bench):
    run = bench(ONE_STAGE % ', profile="freeze"')
    assert set(run.trainer.state.model.state_dict()) - moved(run) == {"lattice.weights"}


def test_the_identity_arm_has_no_lattice_and_trains_its_text_parts(bench):
    run = bench("lattice.arm=identity", callbacks=[DecodeMonitor()])
    assert run.trainer.state.model.lattice is None
    assert {name.partition(".")[0] for name in run.trainer.state.model.state_dict()} == {"encoder", "decoder"}
    assert moved(run) == set(run.trainer.state.model.state_dict())
    look = run.heard.of(Decoded)[0]
    assert look.gradient_share is None and look.active_share == 0.0


def test_every_tile_keeps_its_share_of_connections_through_training_growth_and_resume(bench, tmp_path):
    stage = '{name="%s", shape=%s, ticks=8, steps=3, strides={z=[5]}, sparsity=%s}'
    stages = "stages=[{}, {}]".format(stage % ("a", "[2,3,20]", 0.5), stage % ("b", "[3,3,21]", 0.75))

    class Check(Callback):
        def after_step(self, state: TrainingState) -> None:
            lattice, kept = state.model.lattice, (14, 7)[state.progress.stage]  # of 28 offsets
            assert len(lattice.weights) == len(lattice.index) == kept
            assert set(lattice.pattern.tiles.sum(0).flatten().tolist()) == {kept}  # all different
            assert all(m.shape == lattice.weights.shape for n, m in state.tensors()[1].items() if "weights/exp_avg" in n)

    run = bench(stages, callbacks=[Check(), Checkpointer(tmp_path, "data")])
    start = run.trainer.state.model.lattice.weights.detach().clone()
    assert run.trainer.run() == "finished"
    assert run.trainer.state.model.lattice.weights.shape != start.shape
    saved, _ = checkpoint.load_newest(tmp_path)
    again = bench(stages)
    changes.resume(again.trainer.state, saved.model, saved.optimizer, saved.state)
    assert torch.equal(again.trainer.state.model.lattice.index, run.trainer.state.model.lattice.index)
    assert torch.equal(again.trainer.state.model.lattice.weights, run.trainer.state.model.lattice.weights)


@pytest.mark.parametrize(("precision", "kernel"), [("fp16", "reference"), ("bf16", "reference"), ("bf16", "native")])
def test_half_precision_trains_with_finite_losses_close_to_fp32(bench, precision, kernel):
    half, full = bench(f"run.precision={precision}", f"run.kernel={kernel}"), bench("run.kernel=reference")
    for run in (half, full):
        run.trainer.run()
    assert all(tensor.dtype == torch.float32 for tensor in half.trainer.state.model.parameters())
    here, there = list(losses(half.heard).values()), list(losses(full.heard).values())
    assert here != there
    assert here[:3] == pytest.approx(there[:3], rel=0.05)
    assert here[-1] < here[0]


def test_the_gradient_scale_of_fp16_is_part_of_a_checkpoint(bench, tmp_path):
    settings = ("run.precision=fp16", "run.kernel=reference", "stages.1.steps=1")
    first = bench(*settings, callbacks=[StopAt(2), Checkpointer(tmp_path, "data")])
    fresh = first.trainer.state.scaler.get_scale()
    # An infinite gradient makes the scaler halve its scale.
    first.trainer.state.model.lattice.cells.register_hook(
        lambda grad: grad * math.inf if first.trainer.state.progress.step == 1 else grad
    )
    first.trainer.run()
    assert first.heard.of(BadStep) == []
    Checkpointer(tmp_path, "data").save(first.trainer.state)
    saved, _ = checkpoint.load_newest(tmp_path)
    second = bench(*settings)
    changes.resume(second.trainer.state, saved.model, saved.optimizer, saved.state)
    assert second.trainer.state.scaler.get_scale() == first.trainer.state.scaler.get_scale() == fresh / 2


# Checkpoints, as they are saved on the loop


def test_checkpoints_are_saved_in_their_rhythm_and_at_stage_ends(bench, tmp_path):
    run = bench("stages.0.steps=7", callbacks=[DecodeMonitor(), Checkpointer(tmp_path, "data")])
    run.trainer.run()
    assert [event.step for event in run.heard.of(Saved)] == [3, 6, 7, 9, 12, 13]
    best = checkpoint.best_path(tmp_path)
    standing = {path for _, path in checkpoint.steps(tmp_path)}
    assert standing == {tmp_path / "step-00000012", tmp_path / "step-00000013", best}
    marked = [event.step for event in run.heard.of(Saved) if event.best]
    assert marked and best.name == f"step-{marked[-1]:08d}"


def test_a_checkpoint_that_can_not_be_saved_is_a_warning_and_training_goes_on(bench, tmp_path):
    (tmp_path / "file").write_text("")
    saver = Checkpointer(tmp_path / "file" / "below", "data")
    run = bench(callbacks=[saver])
    assert run.trainer.run() == "finished"
    assert len(losses(run.heard)) == 12
    told = run.heard.of(Warned)
    assert told and all(event.message.startswith("checkpoint not saved: ") for event in told)
    assert "Not a directory" in saver.failure
