"""Signals to a run: one or two save, a third ends at once and says what is lost, and schedulers' warnings never kill."""

from __future__ import annotations

import signal
from types import SimpleNamespace

import pytest

from app.exit_codes import ExitCode
from app.run_process.signals import GRACE_S, STOPS, WARNINGS, SignalHandlers, handled
from lattice.training import checkpoint
from lattice.training.inbox import Inbox
from monitors.runs import RunFolder


class Signalled:
    """Handlers of a run that has done 17 steps, with a clock that the test sets and a process that only notes its end."""

    def __init__(self, folder: RunFolder, on_warning: str = "save") -> None:
        self.now, self.ends, self.reasons, self.inbox = 100.0, [], [], Inbox()
        state = SimpleNamespace(
            progress=SimpleNamespace(step=17),
            config=SimpleNamespace(checkpoint=SimpleNamespace(on_warning=on_warning)),
            inbox=self.inbox,
            request_stop=self.reasons.append,
        )
        self.handlers = SignalHandlers(folder, state, lambda: self.now, self.ends.append)

    def get(self, *numbers: signal.Signals, after_s: float = 0.0) -> None:
        self.now += after_s
        for number in numbers:
            handle = self.handlers.stop if number in STOPS else self.handlers.warn
            handle(number, None)


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "20261122-051530-tiny")


def saved(folder: RunFolder, step: int) -> None:
    place = folder.checkpoints / f"step-{step:08d}"
    place.mkdir(parents=True)
    (place / checkpoint.MANIFEST).write_text("{}")


def test_the_first_signal_says_at_once_that_the_step_is_being_finished(folder, capfd):
    run = Signalled(folder)
    run.get(signal.SIGINT)
    assert run.reasons == ["stopped by SIGINT"] and run.ends == []
    assert "SIGINT: step 18 is finished and saved, then the run ends" in capfd.readouterr().err


@pytest.mark.parametrize("second", STOPS)
def test_a_second_signal_within_the_grace_time_loses_nothing(folder, second, capfd):
    run = Signalled(folder)
    run.get(signal.SIGTERM)
    run.get(second, after_s=GRACE_S - 0.1)
    assert run.ends == [] and run.reasons == ["stopped by SIGTERM"] and run.handlers.code == ExitCode.TERMINATED
    assert f"{second.name} again: the run is saving" in capfd.readouterr().err


@pytest.mark.parametrize(("signals", "pause_s"), [(2, GRACE_S + 0.1), (3, 0.0)])
def test_a_late_second_or_a_third_signal_ends_at_once_unsaved_and_says_what_is_lost(folder, signals, pause_s, capfd):
    saved(folder, 5)
    saved(folder, 10)
    run = Signalled(folder)
    run.get(*[signal.SIGINT] * (signals - 1))
    assert run.ends == []
    run.get(signal.SIGTERM, after_s=pause_s)
    assert run.ends == [ExitCode.FAILED]
    said = capfd.readouterr().err
    assert "the last checkpoint is of step 10, and the 7 steps since then are lost" in said
    assert f"train --resume {folder.name}" in said


@pytest.mark.parametrize(("step", "said"), [(None, "all 17 steps are lost"), (17, "of step 17, and nothing is lost")])
def test_what_is_lost_is_what_no_checkpoint_holds(folder, step, said, capfd):
    if step is not None:
        saved(folder, step)
    run = Signalled(folder)
    run.get(signal.SIGINT, signal.SIGINT, signal.SIGINT)
    assert said in capfd.readouterr().err


@pytest.mark.parametrize("number", WARNINGS)
def test_a_warning_asks_for_one_checkpoint_at_a_time_and_the_run_goes_on(folder, number, capfd):
    run = Signalled(folder)
    run.get(number, number)
    (order,) = run.inbox.waiting()
    assert (order.command, order.who, run.reasons, run.handlers.code) == ("checkpoint", number.name, [], ExitCode.OK)
    assert f"{number.name}: a checkpoint is saved after this step" in capfd.readouterr().err
    order.answer(18, "")
    run.get(number)
    assert len(list(run.inbox.waiting())) == 1


@pytest.mark.parametrize(("number", "code"), WARNINGS.items())
def test_with_stop_a_warning_ends_the_run_saved_with_a_code_of_its_own_however_often_it_comes(folder, number, code):
    run = Signalled(folder, on_warning="stop")
    run.get(number, number, number)
    assert (run.ends, run.reasons, run.handlers.code) == ([], [f"stopped by {number.name}"], code)
    assert code == 128 + number


def test_a_term_after_a_warning_that_stops_is_a_first_signal(folder):
    run = Signalled(folder, on_warning="stop")
    run.get(signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM)
    assert run.ends == [] and run.handlers.code == ExitCode.USER_SIGNAL_1


def test_the_handlers_of_before_come_back(folder):
    before = {number: signal.getsignal(number) for number in (*STOPS, *WARNINGS, signal.SIGHUP)}
    with handled(folder, SimpleNamespace()) as handlers:
        assert signal.getsignal(signal.SIGUSR1) == handlers.warn
    assert {number: signal.getsignal(number) for number in before} == before
