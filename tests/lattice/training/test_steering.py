"""Tests of steering: what each order does, what is refused and why, and that a resumed run has all orders."""

from __future__ import annotations

import threading

import pytest
import torch

from lattice.observing.decode_monitor import DecodeMonitor
from lattice.plasticity.products import present
from lattice.training import changes, checkpoint, steering
from lattice.training.callbacks import Callback
from lattice.training.checkpointer import Checkpointer
from lattice.training.inbox import Order
from lattice.training.learning_rate import learning_rate
from lattice.training.state import TrainingState
from monitors.event_log import EventLog, read_events
from monitors.events import Decoded, Edited, Plastic, Rewired, Saved, StageEnded, StageStarted, Trained
from presets.control_commands import Arguments, HealArguments, SetArguments, StageArguments, WoundArguments


def arguments(command: str, key: str, value: object) -> tuple[str, Arguments]:
    """Turns ("stage goto", "", 2) into the name of a command and its arguments."""
    name, _, action = command.partition(" ")
    if name == "wound":
        return name, WoundArguments(wound=action)
    if name == "heal":
        healing = HealArguments.from_words(action.split())
        assert healing is not None
        return name, healing
    if name == "set":
        return name, SetArguments.model_construct(key=key, value=value)
    return name, StageArguments.model_construct(action=action, stage=value) if name == "stage" else Arguments()


class Operator(Callback):
    """Gives orders: `plan` maps a step to the orders that come in while it is trained.  Keeps the answers."""

    def __init__(self, plan: dict[int, list[tuple]]) -> None:
        self._plan = plan
        self.answers: list[tuple[int | None, str]] = []

    def after_step(self, state: TrainingState) -> None:
        for command, *rest in self._plan.pop(state.progress.step, []):
            self.give(state, command, *rest)

    def give(self, state: TrainingState, command: str, key: str = "", value=None) -> None:
        name, given = arguments(command, key, value)
        state.inbox.put(Order(name, "ann", lambda step, error: self.answers.append((step, error)), given))


class Died(Exception):
    pass


class DieAfter(Callback):
    def __init__(self, step: int) -> None:
        self._step = step

    def after_step(self, state: TrainingState) -> None:
        if state.progress.step == self._step:
            raise Died


class Log(Callback):
    def __init__(self, path) -> None:
        self.log = EventLog(path, clock=lambda: 0.0)

    def on_event(self, event) -> None:
        self.log.append(event)


@pytest.fixture
def steer(bench):
    """`steer({step: [order, ...]}, "a.b=c", ..., callbacks=[...])` -> (bench, operator, how the run ended)."""

    def call(plan, *assignments, callbacks=()):
        operator = Operator(plan)
        run = bench(*assignments, callbacks=(operator, *callbacks))
        return run, operator, run.trainer.run()

    return call


def losses(heard) -> list[tuple]:
    return [(e.step, e.stage, e.loss, e.grad_norm, e.learning_rate) for e in heard.of(Trained)]


def edits(heard) -> list[tuple]:
    return [(e.step, e.command, e.key, e.old, e.new) for e in heard.of(Edited)]


# Settings


def test_a_setting_holds_from_the_step_after_the_answer_on_and_is_logged(steer):
    run, operator, end = steer({4: [("set", "optimizer.learning_rate", 1e-3)]})
    before, after = run.trainer.state.config, run.trainer.state.config
    assert end == "finished" and operator.answers == [(4, "")]
    assert edits(run.heard) == [(4, "set", "optimizer.learning_rate", 3e-3, 1e-3)]
    assert run.heard.of(Edited)[0].who == "ann"
    rates = [e.learning_rate for e in run.heard.of(Trained)]
    assert rates[4:] == [learning_rate(after, step) for step in range(4, 12)]
    assert rates[3] == pytest.approx(3 * learning_rate(before, 3))
    assert run.trainer.state.progress.edits == 1


def test_the_order_in_which_orders_come_is_the_one_in_which_they_are_applied(steer):
    plan = {2: [("set", "decode.every", 3), ("set", "decode.every", 5), ("set", "checkpoint.every", 4)]}
    run, operator, _ = steer(plan, callbacks=[DecodeMonitor()])
    assert [old for *_, old, _ in edits(run.heard)] == [4, 3, 3]
    assert operator.answers == [(2, "")] * 3
    assert [e.step for e in run.heard.of(Decoded)] == [5, 6, 10, 12]  # stage ends included


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("decode.every", 0, "decode.every: input should be greater than or equal to 1 (got 0)"),
        ("decode.every", "often", "decode.every: input should be a valid integer"),
        ("decode.evry", 5, "decode.evry: is no setting that can be changed while the run trains; did you mean 'decode.every'?"),
        ("lattice.channels", 6, "lattice.channels: is fixed when the run starts; what can change: stages.0.profile"),
        ("stages.2.steps", 9, "stages.2.steps: there is no such stage; the last one is 1"),
        ("stages.0.sparsity", 0.99, "stages.0.sparsity: input should be less than or equal to 0.95"),
        ("stages.0.steps", None, "stages.0.steps: input should be a valid integer"),
        ("stages.0", 1, "stages.0: is fixed"),
        ("optimizer", 1, "optimizer: is fixed"),
        ("", 1, ": is no setting"),
    ],
)
def test_a_setting_that_can_not_be_is_refused_with_the_reason_and_changes_nothing(steer, key, value, reason):
    run, operator, _ = steer({3: [("set", key, value)]})
    [(step, error)] = operator.answers
    assert step is None and reason.lstrip(": ") in error and "\n" not in error
    assert edits(run.heard) == [] and run.trainer.state.progress.edits == 0


def test_a_setting_of_a_stage_that_is_over_is_refused_and_of_a_later_one_waits(steer):
    run, operator, _ = steer({2: [("set", "stages.1.steps", 3)], 8: [("set", "stages.0.steps", 9)]})
    assert operator.answers == [(2, ""), (None, "stages.0.steps: that stage is over; stage 1 is being trained")]
    assert [e.step for e in run.heard.of(StageEnded)] == [6, 9]


def test_sparsity_of_the_current_stage_prunes_at_once_and_regrows_when_it_is_lowered(steer):
    class Kept(Callback):
        def __init__(self) -> None:
            self.at: dict[int, int] = {}

        def after_step(self, state) -> None:
            self.at[state.progress.step] = len(state.model.lattice.weights)

    kept = Kept()
    orders = {2: [("set", "stages.0.sparsity", 0.5)], 3: [("set", "stages.0.sparsity", 0.25)]}
    run, _, _ = steer(orders | {4: [("set", "stages.0.sparsity", 0.0)]}, callbacks=[kept])
    assert [kept.at[step] for step in (2, 3, 4, 5)] == [28, 14, 21, 28]
    events = run.heard.of(Rewired)
    assert [event.sparsity for event in events] == [0.5, 0.25, 0.0]
    assert [(event.pruned > 0, event.regrown > 0) for event in events] == [(True, False), (False, True), (False, True)]
    assert events[0].pruned == events[1].regrown + events[2].regrown


def test_a_setting_beyond_the_memory_budget_is_refused(steer, monkeypatch):
    class TooMuch:
        fits = False

    class Shorter(Callback):
        def after_step(self, state) -> None:
            state.planning = lambda config: [TooMuch()] * 2

    monkeypatch.setattr(steering, "explain", lambda planned: "too much memory")
    run, operator, _ = steer({2: [("set", "stages.0.sparsity", 0.5)]}, callbacks=[Shorter()])
    assert operator.answers == [(None, "too much memory")] and edits(run.heard) == []


def test_the_profile_freeze_stops_the_connections_at_once_and_another_lets_them_go_on(steer):
    class Weights(Callback):
        def __init__(self) -> None:
            self.at: dict[int, torch.Tensor] = {}

        def after_step(self, state) -> None:
            self.at[state.progress.step] = state.model.lattice.weights.detach().clone()

    weights = Weights()
    steer({2: [("set", "stages.0.profile", "freeze")], 4: [("set", "stages.0.profile", "learning")]}, callbacks=[weights])
    assert not weights.at[1].equal(weights.at[2])
    assert weights.at[2].equal(weights.at[4])
    assert not weights.at[4].equal(weights.at[5])


# Stages


def test_fewer_steps_than_are_done_end_the_stage(steer):
    run, _, _ = steer({4: [("set", "stages.0.steps", 2)]})
    assert [(e.step, e.reason) for e in run.heard.of(StageEnded)] == [(4, "steps"), (10, "steps")]


def test_next_ends_the_stage_and_in_the_last_one_the_run(steer):
    run, operator, end = steer({2: [("stage next",)], 5: [("stage next",)]})
    assert end == "finished" and operator.answers == [(2, ""), (5, "")]
    assert [(e.step, e.reason) for e in run.heard.of(StageEnded)] == [(2, "operator"), (5, "operator")]
    assert edits(run.heard) == [(2, "stage next", "stage", 0, 1), (5, "stage next", "stage", 1, 2)]


def test_a_held_stage_trains_past_its_end_until_it_is_released_and_saves_on(steer, tmp_path):
    plan = {2: [("stage hold",), ("stage hold",)], 9: [("stage release",), ("stage release",)]}
    run, operator, _ = steer(plan, callbacks=[Checkpointer(tmp_path, "")])
    assert operator.answers == [(2, ""), (None, "stage 0 is held already"), (9, ""), (None, "stage 0 is not held")]
    assert [e.step for e in run.heard.of(StageEnded)] == [9, 15]
    assert 6 in [e.step for e in run.heard.of(Saved)]
    position = [e.learning_rate for e in run.heard.of(Trained)]
    assert position[6] == position[7] == position[8] == position[9]  # the schedule waits for the next stage


def test_goto_goes_on_with_a_later_stage_and_never_back(steer):
    three = 'stages=[{name="a", shape=[4,4,6], ticks=6, steps=3}, {name="b", shape=[4,4,6], ticks=6, steps=3}, '
    three += '{name="c", shape=[6,6,6], ticks=6, steps=3}]'
    run, operator, end = steer({2: [("stage goto", "", 3), ("stage goto", "", 2)], 4: [("stage goto", "", 1)]}, three)
    assert end == "finished"
    assert [e.stage for e in run.heard.of(StageStarted)] == [0, 2]
    assert operator.answers == [
        (None, "stage 3 does not come after stage 0, and a lattice only grows; stages 1 to 2 can be gone to"),
        (2, ""),
        (None, "stage 1 does not come after stage 2, and a lattice only grows; this is the last one"),
    ]


# Wounds


class Lattices(Callback):
    """Copies of the weights after each step, and which connections are lost."""

    def __init__(self) -> None:
        self.weights: dict[int, torch.Tensor] = {}
        self.lost: dict[int, torch.Tensor | None] = {}

    def after_step(self, state) -> None:
        step, lattice = state.progress.step, state.model.lattice
        self.weights[step] = lattice.weights.detach().clone()
        self.lost[step] = None if lattice.lost is None else lattice.lost.clone()


FROZEN = ("connections.learning=frozen", "decode.every=100")


def test_a_wound_lasts_until_it_is_healed_and_both_are_decoded_and_logged(steer):
    seen = Lattices()
    plan = {2: [("wound connections:0.5",)], 4: [("heal stdp 5000",)]}
    run, operator, end = steer(plan, *FROZEN, callbacks=[DecodeMonitor(), seen])
    assert end == "finished" and operator.answers == [(2, ""), (4, "")]
    assert edits(run.heard) == [(2, "wound connections:0.5", "", None, None), (4, "heal stdp 5000", "", None, None)]
    lost = seen.lost[3]
    assert lost is not None and seen.lost[2] is None and seen.lost[5] is None
    assert not seen.weights[3][lost].any() and not seen.weights[4][lost].any()
    assert torch.equal(seen.weights[4][~lost], seen.weights[2][~lost])
    assert torch.equal(seen.weights[5][~lost], seen.weights[2][~lost])
    assert seen.weights[5][lost].sum() > 1
    looks = [event.step for event in run.heard.of(Plastic)]
    assert set(looks) == {4} and len(looks) >= 4  # after waves 1, 4, 16, 64
    assert [event.step for event in run.heard.of(Decoded)] == [2, *looks, 4, 6, 12]  # the end of healing, ends of stages
    assert run.trainer.state.progress.wounds == ()


@pytest.mark.parametrize("kind", ["connections:0.5", "cells:0.3", "shuffle:0.5"])
def test_neighbours_heal_at_once_and_without_a_wave(steer, kind):
    seen = Lattices()
    run, operator, _ = steer({2: [("wound " + kind,)], 4: [("heal",)]}, *FROZEN, callbacks=[DecodeMonitor(), seen])
    assert operator.answers == [(2, ""), (4, "")]
    assert edits(run.heard)[1] == (4, "heal neighbours", "", None, None)
    assert run.heard.of(Plastic) == [] and [event.step for event in run.heard.of(Decoded)][:2] == [2, 4]
    assert seen.lost[5] is None and run.trainer.state.progress.wounds == ()
    whole, hurt, healed = (seen.weights[step] for step in (2, 3, 5))
    assert (healed - whole).square().mean() < 0.8 * (hurt - whole).square().mean()


def test_a_second_wound_falls_elsewhere_and_both_heal_together(steer):
    seen = Lattices()
    plan = {2: [("wound connections:0.2",), ("wound connections:0.2",)], 3: [("heal stdp 5000",)]}
    run, _, _ = steer(plan, *FROZEN, "stages.1.steps=1", callbacks=[seen])
    first = run.trainer.state.config.stages[0].topology("walls")
    share = int(seen.lost[3].sum()) / int(present(first, slice(None)).sum())
    assert share == pytest.approx(1 - 0.8**2, abs=0.05)
    assert seen.lost[4] is None


def test_a_paused_run_is_wounded_and_healed_too(steer):
    plan = {3: [("pause",), ("wound shuffle:0.5",), ("heal stdp 3",), ("resume",)]}
    _, operator, end = steer(plan)
    assert end == "finished" and operator.answers == [(3, "")] * 4


def test_a_healing_that_was_too_short_can_go_on(steer):
    seen = Lattices()
    plan = {2: [("wound connections:0.5",)], 3: [("heal stdp 2",)], 4: [("heal stdp 2",)]}
    run, operator, _ = steer(plan, *FROZEN, callbacks=[seen])
    assert operator.answers == [(2, ""), (3, ""), (4, "")]
    assert torch.equal(seen.lost[5], seen.lost[3]) and not torch.equal(seen.weights[5], seen.weights[4])
    assert run.trainer.state.progress.wounds == ()  # the next stage begins with a whole lattice


def test_a_stop_ends_a_healing_and_leaves_what_is_lost_marked(bench):
    operator = Operator({2: [("wound connections:0.5",), ("heal stdp 10000",)]})
    run = bench(*FROZEN, callbacks=(operator,))

    class StopWhileHealing(Callback):
        def on_event(self, event) -> None:
            if isinstance(event, Plastic):
                run.trainer.state.request_stop("test")

    run.trainer.callbacks.append(StopWhileHealing())
    assert run.trainer.run() == "stopped" and operator.answers == [(2, "")] * 2
    assert len(run.heard.of(Plastic)) == 1 and run.trainer.state.progress.step == 2
    assert run.trainer.state.lattice.lost is not None


@pytest.mark.parametrize(
    ("order", "settings", "reason"),
    [
        ("heal stdp 3", (), "the lattice has no wound"),
        ("wound block:99", (), "does not fit"),
        ("wound connections:0.5", ("lattice.arm=identity",), "there is no lattice to wound"),
    ],
)
def test_what_can_not_be_wounded_or_healed_is_refused_and_changes_nothing(steer, order, settings, reason):
    run, operator, _ = steer({2: [(order,)]}, *settings)
    [(step, error)] = operator.answers
    assert step is None and reason in error and "\n" not in error
    assert edits(run.heard) == [] and run.trainer.state.progress.wounds == ()


def test_a_healing_that_does_not_fit_is_refused_and_the_run_goes_on(steer, monkeypatch):
    def heal(*_args):
        raise torch.OutOfMemoryError("of 3 GB, none is free")
        yield

    monkeypatch.setattr(changes.waves, "heal", heal)
    run, operator, end = steer({2: [("wound connections:0.5",)], 4: [("heal stdp 5",)]}, *FROZEN)
    assert end == "finished" and operator.answers[0] == (2, "")
    step, error = operator.answers[1]
    assert step is None and "too little memory" in error and "none is free" in error
    assert [command for _, command, *_ in edits(run.heard)] == ["wound connections:0.5"]


def test_a_wounded_run_resumes_wounded_and_heals_alike(bench, tmp_path):
    def healed(*callbacks) -> dict[str, torch.Tensor]:
        run = bench(callbacks=(*callbacks, Operator({2: [("wound connections:0.5",)], 5: [("heal stdp 5",)]})))
        run.trainer.run()
        return run.trainer.state.model.state_dict()

    whole = healed()
    with pytest.raises(Died):
        healed(Checkpointer(tmp_path, ""), DieAfter(4))
    saved, _ = checkpoint.load_newest(tmp_path)
    assert saved.state["progress"]["step"] == 3 and "lattice.lost" in saved.model
    again = bench(callbacks=(Operator({5: [("heal stdp 5",)]}),))
    changes.resume(again.trainer.state, saved.model, saved.optimizer, saved.state)
    assert again.trainer.state.progress.wounds == ("connections:0.5",)
    again.trainer.run()
    found = again.trainer.state.model.state_dict()
    assert found.keys() == whole.keys() and [name for name in whole if not torch.equal(found[name], whole[name])] == []


# Now


def test_decode_and_checkpoint_happen_at_once(steer, tmp_path):
    run, operator, _ = steer({2: [("decode",), ("checkpoint",)]}, callbacks=[DecodeMonitor(), Checkpointer(tmp_path, "")])
    assert operator.answers == [(2, ""), (2, "")]
    assert run.heard.of(Decoded)[0].step == run.heard.of(Saved)[0].step == 2


def test_a_checkpoint_that_can_not_be_saved_is_answered_with_the_reason(steer, tmp_path):
    (tmp_path / "file").write_text("")
    _, operator, end = steer({2: [("checkpoint",)]}, callbacks=[Checkpointer(tmp_path / "file", "")])
    [(step, error)] = operator.answers
    assert end == "finished" and step is None and error.startswith("checkpoint not saved: ")


# Pause


def test_a_paused_run_waits_obeys_and_goes_on_when_resumed(steer):
    plan = {3: [("pause",), ("pause",), ("set", "decode.every", 9), ("resume",), ("resume",)]}
    run, operator, end = steer(plan)
    assert end == "finished"
    assert operator.answers == [(3, ""), (None, "the run is paused already"), (3, ""), (3, ""), (None, "the run is not paused")]
    assert edits(run.heard)[0] == (3, "pause", "paused", False, True)


@pytest.mark.parametrize("order", ["stop", "stage next", "wake"])
def test_what_else_ends_a_pause(bench, order):
    operator = Operator({3: [("pause",)]})
    run = bench(callbacks=(operator,))
    paused = threading.Event()

    class Notice(Callback):
        def on_event(self, event) -> None:
            if isinstance(event, Edited) and event.command == "pause":
                paused.set()

    run.trainer.callbacks.append(Notice())
    ends: list[str] = []
    thread = threading.Thread(target=lambda: ends.append(run.trainer.run()))
    thread.start()
    assert paused.wait(60)
    if order == "wake":  # a signal handler's way
        run.trainer.state.request_stop("test")
    else:
        operator.give(run.trainer.state, order)
    thread.join(60)
    assert ends == ["finished" if order == "stage next" else "stopped"]
    assert len(run.heard.of(Trained)) == (9 if order == "stage next" else 3)


def test_a_pause_changes_no_loss_and_counts_as_no_training_time(steer, bench):
    plain = bench()
    plain.trainer.run()
    run, _, _ = steer({3: [("pause",), ("resume",)]})
    assert losses(run.heard) == losses(plain.heard)


# Resuming

LONG = ("stages.0.steps=40", "stages.1.steps=12", "decode.every=10", "checkpoint.every=8")

PLAN = {
    7: [("set", "stages.1.profile", "freeze"), ("set", "optimizer.clip", 0.5)],
    20: [
        ("set", "optimizer.learning_rate", 1e-3),
        ("set", "stages.0.sparsity", 0.4),
        ("set", "stages.0.profile", "discovery"),
        ("set", "stages.0.steps", 36),
        ("set", "optimizer.cell_rate", 0.6),
    ],
    25: [("set", "stages.1.sparsity", 0.2), ("set", "decode.every", 5), ("decode",)],
}


@pytest.mark.parametrize("dies_at", [12, 24, 35, 45])
def test_a_killed_run_with_edits_resumes_to_the_uninterrupted_one_bit_for_bit(bench, tmp_path, dies_at):
    def build(name: str, plan: dict, *more: Callback):
        log = Log(tmp_path / f"{name}.jsonl")
        callbacks = (log, Operator(plan), DecodeMonitor(), Checkpointer(tmp_path / name, ""), *more)
        return bench(*LONG, callbacks=callbacks), log

    whole, log = build("whole", {step: list(orders) for step, orders in PLAN.items()})
    assert whole.trainer.run() == "finished"
    log.log.close()

    first, log = build("killed", {step: list(orders) for step, orders in PLAN.items()}, DieAfter(dies_at))
    with pytest.raises(Died):
        first.trainer.run()
    log.log.close()
    saved, _ = checkpoint.load_newest(tmp_path / "killed")
    at = saved.state["progress"]["step"]
    assert at == {12: 8, 24: 24, 35: 32, 45: 40}[dies_at]
    # What was ordered after the checkpoint is forgotten with the steps it steered; the operator gives it again.
    again, log = build("killed", {step: list(orders) for step, orders in PLAN.items() if step > at})
    changes.resume(again.trainer.state, saved.model, saved.optimizer, saved.state)
    log.log.rewind(again.trainer.state.progress.step, again.trainer.state.progress.edits)
    known = [event for event in read_events(tmp_path / "killed.jsonl").events if isinstance(event, Edited)]
    assert len(known) == again.trainer.state.progress.edits
    assert again.trainer.run() == "finished"
    log.log.close()

    def story(name: str) -> list[tuple]:
        events = read_events(tmp_path / f"{name}.jsonl").events
        told = [(e.step, e.stage, e.loss, e.grad_norm, e.learning_rate) for e in events if isinstance(e, Trained)]
        told += [(e.step, e.bleu, e.valid_loss, e.active_share) for e in events if isinstance(e, Decoded)]
        return told + [(e.step, e.command, e.key, e.old, e.new) for e in events if isinstance(e, Edited)]

    assert story("killed") == story("whole")
    assert again.trainer.state.config == whole.trainer.state.config
    ours, theirs = (run.trainer.state.tensors() for run in (again, whole))
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.keys() == other.keys() and all(mine[name].equal(other[name]) for name in mine)


def test_an_order_made_after_the_checkpoint_of_its_step_is_not_in_it(bench, tmp_path):
    """The run is paused, saved, steered, and killed before the next save."""
    log = Log(tmp_path / "events.jsonl")
    plan = {5: [("pause",), ("checkpoint",), ("set", "optimizer.clip", 0.5), ("decode",), ("resume",)]}
    run = bench("checkpoint.every=100", callbacks=(log, Operator(plan), Checkpointer(tmp_path / "c", ""), DieAfter(6)))
    with pytest.raises(Died):
        run.trainer.run()
    saved, _ = checkpoint.load_newest(tmp_path / "c")
    again = bench("checkpoint.every=100")
    changes.resume(again.trainer.state, saved.model, saved.optimizer, saved.state)
    assert again.trainer.state.config.optimizer.clip == 1.0
    log.log.rewind(again.trainer.state.progress.step, again.trainer.state.progress.edits)
    log.log.close()
    told = [e.command for e in read_events(tmp_path / "events.jsonl").events if isinstance(e, Edited)]
    assert told == ["pause", "checkpoint"]


@pytest.mark.parametrize("at", ["hold", "goto"])
def test_a_hold_and_a_goto_survive_a_resume(bench, tmp_path, at):
    order = ("stage hold",) if at == "hold" else ("stage next",)
    run = bench(callbacks=(Operator({2: [order, ("checkpoint",), ("stop",)]}), Checkpointer(tmp_path, "")))
    run.trainer.run()
    path = next(path for step, path in checkpoint.steps(tmp_path) if step == 2)
    saved = checkpoint.load(path)
    operator = Operator({9: [("stage release",)]} if at == "hold" else {})
    again = bench(callbacks=(operator,))
    changes.resume(again.trainer.state, saved.model, saved.optimizer, saved.state)
    assert again.trainer.run() == "finished"
    assert [e.step for e in again.heard.of(StageEnded)][-1] == (15 if at == "hold" else 8)
