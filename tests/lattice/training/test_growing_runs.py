"""Tests of growing in a run: whenever the run dies, it resumes bit for bit.  Also tests what becomes of the moments."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lattice.model import growth
from lattice.observing.decode_monitor import DecodeMonitor
from lattice.training import changes, checkpoint, micro_batch
from lattice.training.callbacks import Callback
from lattice.training.checkpointer import Checkpointer
from lattice.training.inbox import Order
from lattice.training.state import TrainingState
from monitors.events import AnyEvent, Edited, StageStarted, Trained
from presets.control_commands import StageArguments

RICH = (
    "optimizer.name=adam8bit", "stages.0.sparsity=0.4", "stages.1.sparsity=0.3", "stages.0.clustering.clusters=4",
    "stages.1.clustering.clusters=4", "stages.0.clustering.every=3", "connections.learning=hybrid", "stages.1.waves=2",
)  # fmt: skip
"""Everything that a stage may leave behind: 8-bit moments, a pattern, clusters, plasticity's state."""


class Died(BaseException):
    """Stands for the death of the process: nothing may run after it."""


class Die(Callback):
    def __init__(self, moment: str) -> None:
        self._moment = moment

    def at_stage_end(self, state: TrainingState) -> None:
        if self._moment == "at the end of the stage" and state.progress.stage == 0:
            raise Died

    def on_event(self, event: AnyEvent) -> None:
        if self._moment == "right after growing" and isinstance(event, StageStarted) and event.stage == 1:
            raise Died
        if self._moment == "in the first step after" and isinstance(event, Trained) and event.stage == 1:
            raise Died

    def after_waves(self, state: TrainingState) -> None:
        if self._moment == "after the waves" and state.progress.stage == 1:
            raise Died

    def after_step(self, state: TrainingState) -> None:
        if self._moment == "after the first step" and state.progress.stage == 1:
            raise Died


class SaysNext(Callback):
    """An operator who orders the next stage after step 4."""

    def after_step(self, state: TrainingState) -> None:
        if state.progress.step == 4:
            state.inbox.put(Order("stage", "test", lambda step, error: None, StageArguments(action="next")))


def dying(function):
    """Runs the function, and dies once it is done."""

    def call(*arguments):
        function(*arguments)
        raise Died

    return call


DURING = {
    "before growing": ("carry_over", lambda _: dying(lambda *_: None)),
    "with the lattice carried over in part": ("_carry_lattice", dying),
    "before the moments follow": ("grown", dying),
    "before the stage chooses its micro-batch": ("choose", lambda _: dying(lambda *_: None)),
}
MOMENTS = [*DURING, "at the end of the stage", "right after growing", "after the waves", "in the first step after",
           "after the first step"]  # fmt: skip


def build(bench, folder: Path, *more: Callback, sent_on: bool):
    operator = [SaysNext()] if sent_on else []
    # Whoever dies at the end of a stage does so before it is saved.
    callbacks = (*more, DecodeMonitor(), Checkpointer(folder, "data"), *operator)
    return bench(*RICH, callbacks=callbacks)


@pytest.fixture(scope="module")
def uninterrupted(bench, tmp_path_factory):
    runs = {}
    for sent_on in (False, True):
        run = build(bench, tmp_path_factory.mktemp("whole"), sent_on=sent_on)
        assert run.trainer.run() == "finished"
        runs[sent_on] = run
    return runs


@pytest.mark.parametrize("sent_on", [False, True], ids=["by its steps", "by the operator"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_killed_around_its_growth_resumes_to_the_uninterrupted_one(
    bench, uninterrupted, tmp_path, monkeypatch, moment, sent_on
):
    with monkeypatch.context() as planted:
        if moment in DURING:
            name, plant = DURING[moment]
            place = {"carry_over": changes, "_carry_lattice": growth, "grown": changes.moments, "choose": micro_batch}[name]
            honest = getattr(place, name)
            deadly = plant(honest)

            def once_grown(*arguments):
                # The first stage chooses, too.
                return deadly(*arguments) if name != "choose" or arguments[0].progress.stage else honest(*arguments)

            planted.setattr(place, name, once_grown)
        first = build(bench, tmp_path, Die(moment), sent_on=sent_on)
        with pytest.raises(Died):
            first.trainer.run()

    saved, _ = checkpoint.load_newest(tmp_path)
    at = saved.state["progress"]["step"]
    assert at == (3 if moment == "at the end of the stage" else 4 if sent_on else 6)
    second = build(bench, tmp_path, sent_on=sent_on)
    changes.resume(second.trainer.state, saved.model, saved.optimizer, saved.state)
    assert second.trainer.run() == "finished"

    whole = uninterrupted[sent_on]
    losses = {event.step: (event.loss, event.grad_norm) for event in whole.heard.of(Trained) if event.step > at}
    assert {event.step: (event.loss, event.grad_norm) for event in second.heard.of(Trained)} == losses
    assert bool(whole.heard.of(Edited)) == sent_on
    for ours, theirs in zip(second.trainer.state.tensors(), whole.trainer.state.tensors(), strict=True):
        assert ours.keys() == theirs.keys() and all(tensor.equal(theirs[name]) for name, tensor in ours.items())


def test_moments_of_parts_without_a_shape_go_on_and_those_of_a_grown_lattice_start_anew(bench):
    run = bench(*RICH)
    before: dict[str, torch.Tensor] = {}

    class Keep(Callback):
        def at_stage_end(self, state) -> None:
            before.update({name: tensor.clone() for name, tensor in state.tensors()[1].items()} if not before else {})

        def on_event(self, event: AnyEvent) -> None:
            if isinstance(event, StageStarted) and event.stage == 1:
                after.update(run.trainer.state.tensors()[1])
                raise Died

    after: dict[str, torch.Tensor] = {}
    run.trainer.callbacks.append(Keep())
    with pytest.raises(Died):
        run.trainer.run()
    parts = {name.partition(".")[0] for name in before}
    assert parts == {"encoder", "decoder", "input_port", "output_port", "lattice"}
    assert after.keys() == {name for name in before if not name.startswith("lattice.")}
    assert all(tensor.equal(before[name]) for name, tensor in after.items())


def test_a_stage_that_is_skipped_is_never_built_and_the_next_grows_from_the_one_before(bench, config_of):
    stage = '{{name="{}", shape={}, ticks=6, steps=4, strides={{z=[2]}}}}'
    stages = ", ".join(stage.format(*of) for of in (("a", "[4,4,6]"), ("b", "[5,5,7]"), ("c", "[6,6,8]")))
    run = bench(f"stages=[{stages}]", "optimizer.warmup_steps=0")

    class Goto(Callback):
        def after_step(self, state) -> None:
            if state.progress.step == 2:
                state.inbox.put(Order("stage", "test", lambda step, error: None, StageArguments(action="goto", stage=2)))

    run.trainer.callbacks.append(Goto())
    assert run.trainer.run() == "finished"
    assert [(event.stage, event.step, event.shape) for event in run.heard.of(StageStarted)] == [
        (0, 0, (4, 4, 6)), (2, 2, (6, 6, 8))
    ]  # fmt: skip
