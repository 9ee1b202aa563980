"""What a run needs of the machine is checked before it begins."""

from __future__ import annotations

import threading

import pytest
import torch

from app.exit_codes import ExitCode, Stop
from app.run_process.prepare import prepare_device
from presets.layers import load


@pytest.fixture(autouse=True)
def threads_of_torch():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def tiny(*settings: str):
    return load("tiny", None, ("run.device=cpu", *settings)).config


def test_threads_that_can_not_be_started_are_refused_with_the_number_that_can(monkeypatch):
    start, started = threading.Thread.start, []

    def limited(thread):
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    with pytest.raises(Stop, match=r"only 2 of 5 threads can be started here .*; --set run.threads=2 does with fewer") as stop:
        prepare_device(tiny("run.threads=5"))
    assert stop.value.code == ExitCode.NO_DEVICE
    assert not any(thread.is_alive() for thread in started)
    started.clear()
    prepare_device(tiny("run.threads=2"))
    assert torch.get_num_threads() == 2


def test_a_run_takes_as_many_threads_as_omp_num_threads_says_unless_it_says_itself(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    prepare_device(tiny())
    assert torch.get_num_threads() == 3
    prepare_device(tiny("run.threads=2"))
    assert torch.get_num_threads() == 2
