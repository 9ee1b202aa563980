"""Tests of the micro-batch: chosen once per stage, tried out if memory may get short, lowered if it does, kept if resumed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lattice.model.text_lattice import TextLattice
from lattice.training import changes, micro_batch
from lattice.training.checkpointer import Checkpointer
from monitors import gauges
from monitors.events import StageStarted, Trained, Warned
from presets.live import edit
from presets.plan import on_device, plan
from tests.lattice.conftest import Bench, StopAt

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def scarce(monkeypatch) -> Callable[..., list[int]]:
    """`scarce(n, m)` lets memory run out with more than n sentences at once, or n + m with segments.  Returns sizes tried."""
    honest = TextLattice.loss

    def begin(most: int, more_in_segments: int = 0) -> list[int]:
        tried: list[int] = []

        def loss(model: TextLattice, source: torch.Tensor, *rest: torch.Tensor):
            tried.append(len(source))
            if len(source) > most + more_in_segments * bool(model.lattice.segment):
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return honest(model, source, *rest)

        monkeypatch.setattr(TextLattice, "loss", loss)
        return tried

    return begin


def told(run: Bench) -> list[str]:
    return [event.message for event in run.heard.of(Warned)]


def weights(run: Bench) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in run.trainer.state.model.state_dict().items()}


def tight(config, stage: int = 0) -> str:
    """A budget so small that the plan of the whole batch comes close to it."""
    needed = plan(on_device(config, "cpu"))[stage].total_bytes
    return f"run.memory_budget_gb={needed / 1e9 / 0.9}"


def test_close_to_the_budget_the_longest_sentences_are_tried_before_the_first_step(bench, config_of, scarce, monkeypatch):
    tried = scarce(4)
    monkeypatch.setattr(gauges, "peak_rss_bytes", lambda: 10**8)  # only running out counts here
    run = bench(tight(config_of()), "training.checkpoint_ticks=0", callbacks=(StopAt(1),))
    run.trainer.run()
    assert tried[:3] == [16, 8, 4] and len(told(run)) == 2  # tried before anything was trained
    assert run.heard.of(StageStarted)[0].micro_batch == 4
    assert all(size <= 4 for size in tried[2:]) and len(run.heard.of(Trained)) == 1


def test_a_trial_leaves_the_run_as_it_would_be_without(bench, config_of, monkeypatch):
    monkeypatch.setattr(gauges, "peak_rss_bytes", lambda: 10**8)
    budget = tight(config_of())
    tried = bench(budget)
    tried.trainer.run()
    monkeypatch.setattr(micro_batch, "_probe", lambda trainer: None)
    plain = bench(budget)
    plain.trainer.run()
    assert all(torch.equal(tensor, weights(plain)[name]) for name, tensor in weights(tried).items())


def test_far_from_the_budget_nothing_is_tried(bench, monkeypatch):
    monkeypatch.setattr(micro_batch, "_probe", lambda trainer: pytest.fail("tried"))
    run = bench("stages.0.steps=1", "stages.1.steps=1", "optimizer.warmup_steps=0")
    assert run.trainer.run() == "finished"


def test_a_micro_batch_that_was_set_is_not_tried(bench, config_of, monkeypatch):
    monkeypatch.setattr(micro_batch, "_probe", lambda trainer: pytest.fail("tried"))
    run = bench(tight(config_of()), "training.micro_batch=16", callbacks=(StopAt(1),))
    run.trainer.run()
    assert run.trainer.state.micro_batch == 16


def test_a_trial_that_takes_more_than_the_budget_takes_less(bench, config_of, monkeypatch):
    peaks = iter([10**8, 9 * 10**9, 10**8, 10**8 + 1])
    monkeypatch.setattr(gauges, "peak_rss_bytes", lambda: next(peaks))
    run = bench(tight(config_of()), "training.checkpoint_ticks=0")
    micro_batch.choose(run.trainer.state)
    assert run.trainer.state.micro_batch == 8
    assert "GB are more than the budget of" in told(run)[0] and "going on with 8" in told(run)[0]


def test_where_one_sentence_is_too_much_segments_are_the_last_resort(bench, scarce):
    scarce(0, more_in_segments=1)
    run = bench(callbacks=(StopAt(2),))
    assert run.trainer.run() == "stopped"
    assert (run.trainer.state.micro_batch, run.trainer.state.checkpoint_ticks) == (1, 3)
    assert told(run)[-1] == "out of memory with 1 sentence at once; going on with segments of 3 ticks, which run twice"
    assert len(run.heard.of(Trained)) == 2


def test_segments_that_were_set_are_not_changed(bench, scarce):
    scarce(0, more_in_segments=1)
    run = bench("training.checkpoint_ticks=0")
    with pytest.raises(torch.OutOfMemoryError):
        run.trainer.run()


def test_a_resumed_run_keeps_its_micro_batch_whatever_is_planned_now_and_equals_one_that_never_stopped(
    bench, config_of, monkeypatch
):
    monkeypatch.setattr(gauges, "peak_rss_bytes", lambda: 10**8)
    whole = bench("training.micro_batch=4")
    assert whole.trainer.run() == "finished"

    # Chosen by a plan for little memory, and resumed where there is plenty.
    config = config_of("training.micro_batch=4", "training.checkpoint_ticks=0")
    budget = max(stage.total_bytes for stage in plan(on_device(config, "cpu"))) / 1e9
    first = bench(f"run.memory_budget_gb={budget}", "training.checkpoint_ticks=0", callbacks=(StopAt(4),))
    assert first.trainer.state.plan.micro_batch == 4 and first.trainer.run() == "stopped"
    model, optimizer = ({name: t.clone() for name, t in tensors.items()} for tensors in first.trainer.state.tensors())
    state = json.loads(json.dumps(first.trainer.state.as_json()))
    second = bench("stages.1.steps=1")
    changes.resume(second.trainer.state, model, optimizer, state)
    assert second.trainer.state.plan.micro_batch == 16 and second.trainer.state.micro_batch == 4
    second.trainer.state.stop_request = None
    second.trainer.callbacks.append(StopAt(6))
    second.trainer.run()
    losses = {event.step: event.loss for event in whole.heard.of(Trained)}
    assert [losses[event.step] for event in second.heard.of(Trained)] == [event.loss for event in second.heard.of(Trained)]
    assert [event.step for event in second.heard.of(Trained)][:2] == [5, 6]


def test_the_next_stage_chooses_anew(bench, scarce):
    scarce(4)
    run = bench("stages.0.steps=2", "stages.1.steps=2", "optimizer.warmup_steps=0")
    run.trainer.run()
    assert [event.micro_batch for event in run.heard.of(StageStarted)] == [16, 16]  # planned; both then find out
    assert len(told(run)) == 4


def test_an_edit_that_needs_more_memory_lowers_the_micro_batch_at_once(bench, config_of, monkeypatch):
    monkeypatch.setattr(micro_batch, "_probe", lambda trainer: None)  # this process may hold more than the budget by now
    pruned = ("stages.0.shape=[20,20,10]", "stages.0.strides.z=[3]", "training.checkpoint_ticks=0")
    total = plan(on_device(config_of(*pruned, "stages.0.sparsity=0.9"), "cpu"))[0].total_bytes
    run = bench(*pruned, "stages.0.sparsity=0.9", f"run.memory_budget_gb={total / 1e9}", "stages.1.shape=[4,4,6]")
    trainer = run.trainer
    micro_batch.choose(trainer.state)
    before = trainer.state.micro_batch
    changes.reconfigure(trainer.state, edit(trainer.state.config, "stages.0.sparsity", 0.0))
    assert trainer.state.micro_batch == trainer.state.plan.micro_batch < before


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("can not"), False),
    ],
)
def test_what_counts_as_no_memory_left(error, is_memory):
    assert micro_batch.ran_out(error) == is_memory


def test_other_errors_of_a_step_are_not_taken_for_a_lack_of_memory(bench, monkeypatch):
    def broken(*_: object):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(TextLattice, "loss", broken)
    run = bench()
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        run.trainer.run()
    assert told(run) == []


LIMITED = """
import json, resource, sys
import torch
from lattice.data.batches import TokenizedCorpus
from lattice.training.callbacks import Callback
from lattice.data.corpus import Corpus, Pair
from lattice.data.grammar import generate
from lattice.training.build import build_trainer
from monitors.events import Warned
from presets.layers import load

torch.set_num_threads(1)
pairs = tuple(Pair(text, text) for text in generate(200, seed=1))
corpus = Corpus("generated", pairs[:160], pairs[160:], {})
settings = ["stages.0.shape=[32,32,24]", "stages.0.strides.z=[5]", "stages.0.ticks=10", "training.batch=64",
            "stages.0.steps=2", "optimizer.warmup_steps=0", "training.checkpoint_ticks=0", "run.kernel=native"]
config = load("tiny", None, settings).config
heard, took = [], []

class Listener(Callback):
    def on_event(self, event):
        if isinstance(event, Warned):
            heard.append(event.message)
    def after_step(self, state):
        took.append(state.micro_batch)
        if state.progress.step == 2:
            state.request_stop("test")

trainer = build_trainer(config, TokenizedCorpus.of(corpus, config), torch.device("cpu"), [Listener()])
with open("/proc/self/statm") as file:
    taken = int(file.read().split()[0]) * resource.getpagesize()
limit = taken + int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
trainer.run()
print(json.dumps({"planned": trainer.state.plan.micro_batch, "took": took, "heard": heard}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of the address space are Linux's")
def test_under_a_memory_limit_of_the_system_the_same_batch_goes_through_in_parts(tmp_path):
    # 64 sentences x 10 states of 24 576 cells x 12 numbers are 755 MB; a limit of 400 MB takes a part of them.
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(400_000_000)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["planned"] == 64 and found["took"] in ([8, 8], [16, 16], [32, 32])
    assert found["heard"][0] == "out of memory with 64 sentences at once; going on with 32, and the same batch a step"


def test_the_choice_is_in_the_checkpoint(bench, tmp_path):
    from lattice.training import checkpoint

    run = bench("training.micro_batch=8", "training.checkpoint_ticks=2", callbacks=(StopAt(2),))
    run.trainer.run()
    Checkpointer(tmp_path, "data").save(run.trainer.state)
    progress = checkpoint.load_newest(tmp_path)[0].state["progress"]
    assert (progress["micro_batch"], progress["checkpoint_ticks"]) == (8, 2)
