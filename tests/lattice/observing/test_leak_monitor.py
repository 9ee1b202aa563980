"""Tests of the leak monitor: leaks planted in training are found and named in time; clean training raises no alarm."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path

import pytest

from lattice.observing.leak_monitor import LeakMonitor
from monitors.events import LeaksJudged, Warned
from monitors.leak_detector import SITES_LAST, SMALL_BYTES, Buffer, Detector
from monitors.leaks import WARM_UP, WINDOW

ROOT = Path(__file__).resolve().parents[3]
EVERY = 10
FOUND = WARM_UP + WINDOW
NAMED = FOUND + SITES_LAST
"""Samples within which a leak must be found and named, as docs/reliability.md says."""

STEPS = EVERY * NAMED

TRAIN = """
import gc, os, sys, threading
import torch
torch.set_num_threads(1)
from lattice.data.batches import TokenizedCorpus
from lattice.training.callbacks import Callback
from lattice.data.corpus import Pair
from lattice.observing.decode_monitor import DecodeMonitor
from lattice.data.grammar import generate
from lattice.data.corpus import Corpus
from lattice.observing.leak_monitor import LeakMonitor
from lattice.training.build import build_trainer
from monitors.leak_detector import Detector
from presets.layers import load

STEPS, EVERY = int(sys.argv[1]), int(sys.argv[2])

class Planted(Callback):
    kept, cache, end = [], None, threading.Event()
    def after_step(self, state):
        step = state.progress.step
        PLANT
class Heard(Callback):
    def on_event(self, event):
        if event.kind == "leaks_judged":
            print(event.model_dump_json(), flush=True)

pairs = tuple(Pair(text, text) for text in generate(364, seed=1))
corpus = Corpus("generated", pairs[:300], pairs[300:], {})
settings = [f"stages.0.steps={STEPS}", "stages.1.steps=1", "optimizer.warmup_steps=2", f"decode.every={EVERY}"]
config = load("tiny", None, settings).config
text = TokenizedCorpus.of(corpus, config)
gc.collect()
gc.freeze()
callbacks = [Heard(), DecodeMonitor(), Planted(), LeakMonitor(Detector(), EVERY)]
trainer = build_trainer(config, text, torch.device("cpu"), callbacks)
while trainer.state.progress.stage_step < STEPS and not trainer.state.progress.stage_over:
    trainer._run_stage()
Planted.end.set()
"""


def judged(plant: str) -> list[dict[str, dict]]:
    """Verdicts by meter, sample by sample, of a tiny run in a process of its own, at each step of which `plant` is done."""
    program = TRAIN.replace("PLANT", plant)
    command = [sys.executable, "-c", program, str(STEPS), str(EVERY)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=1200)
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(told) == NAMED
    return [{meter["name"]: meter for meter in each["meters"]} | {"all": each} for each in told]


PLANTED = {
    "a tensor of 1 KiB": ("self.kept.append(torch.zeros(256))", "tensors", "float32 [256]"),
    "a list that grows by 1 KiB": ("self.kept.append(bytes(1024))", "python objects", "<string>:22"),
    "a descriptor": ("self.kept.append(os.open('/dev/null', os.O_RDONLY))", "descriptors", "/dev/null"),
    "a thread": ("threading.Thread(target=self.end.wait, name=f'lost {step}').start()", "threads", "lost #"),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", PLANTED)
def test_a_planted_leak_each_step_is_found_and_named_within_the_stated_window(what):
    plant, meter, suspect = PLANTED[what]
    history = judged(plant)
    found = [sample for sample, by_name in enumerate(history, 1) if meter in by_name and by_name[meter]["verdict"] == "leak"]
    named = [sample for sample in found if suspect in history[sample - 1][meter]["suspect"].split(",")[0]]
    print(f"{what}: found with sample {found[:1]} and named with sample {named[:1]}, a sample every {EVERY} steps")
    assert found and found[0] <= FOUND and named and named[0] <= NAMED
    assert history[-1]["all"]["verdict"] == "leak" and found[-1] == named[-1] == NAMED
    assert history[-1][meter]["slope"] == pytest.approx(1, abs=0.2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "plant",
    [
        "pass",
        "self.cache = bytes(100 * 2**20) if step == STEPS // 2 else self.cache",
        "self.kept = [] if step % 17 == 0 else [*self.kept, bytes(2**20)]",
    ],
    ids=["nothing", "one cache of 100 MiB", "a saw-tooth"],
)
def test_training_that_keeps_nothing_for_good_is_flat_on_every_meter(plant):
    found = judged(plant)[-1]
    assert {name: meter["verdict"] for name, meter in found.items()} == dict.fromkeys(found, "flat")
    assert {"rss", "uss", "heap", "python objects", "tensors", "descriptors", "threads"} < set(found)


# What is cheap enough for every day


@pytest.fixture(autouse=True)
def _frozen():
    """As in the program: what was there before is passed over when garbage is collected, which is most of a sample's time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def test_samples_are_taken_after_looks_at_least_so_many_steps_apart(bench):
    detector = Detector(warm_up=0)
    trainer, heard = bench("decode.every=2", callbacks=(*looking(), LeakMonitor(detector, 3)))
    trainer.run()
    assert [event.step for event in heard.of(LeaksJudged)] == [4, 8, 12]  # of the looks at 2, 4, ..., 12
    assert [event.samples for event in heard.of(LeaksJudged)] == [1, 2, 3]
    assert detector.step == 12


def test_the_window_of_a_detector_goes_on_in_the_next_run(bench):
    detector = Detector(warm_up=0)
    for _ in range(2):
        trainer, _ = bench("decode.every=3", callbacks=(*looking(), LeakMonitor(detector, 3)))
        trainer.run()
    steps, _, works = detector.window.series("rss")
    assert steps == [3, 6, 9, 12, 15, 18, 21, 24]
    assert works == [0, 0, 1, 1, 0, 0, 1, 1]  # both runs' first stages are of equal work


def test_a_leak_is_warned_of_once_and_named(bench):
    kept = []
    detector = Detector(warm_up=0)
    for step in range(WINDOW + 6):  # what training would do, without training
        kept += [open("/dev/null", "rb") for _ in range(2)]  # noqa: SIM115
        found = detector.sample(step, "same", {}, {})
    assert {m.name: m.verdict for m in found.meters}["descriptors"] == "leak"
    assert {m.name: m.suspect for m in found.meters}["descriptors"].startswith("/dev/null (+")
    trainer, heard = bench("decode.every=3", callbacks=(*looking(), LeakMonitor(detector, 3)))
    for each in kept:
        each.close()
    trainer.run()
    assert len([event for event in heard.of(Warned) if "descriptors" in event.message]) <= 1
    detector.close()


@pytest.mark.parametrize("most, verdict", [(10**6, "flat"), (10, "leak")])
def test_a_buffer_is_no_leak_up_to_its_bound_and_one_beyond_it(most, verdict):
    items: list[int] = []
    detector = Detector({"own": Buffer(lambda: [8] * len(items), most)}, warm_up=0)
    for step in range(WINDOW + 6):
        items += [step] * 3
        found = detector.sample(step, "same", {}, {})
    detector.close()
    assert {m.name: m.verdict for m in found.meters}["buffer own"] == verdict


def test_what_tracing_itself_takes_is_no_growth(monkeypatch):
    traced = 0
    monkeypatch.setattr("monitors.leak_detector.tracemalloc.get_tracemalloc_memory", lambda: traced)
    monkeypatch.setattr("monitors.leak_detector.meters.readings", lambda *_: {"heap": 1e6 + traced, "python objects": 0.0})
    detector = Detector(warm_up=0)
    for step in range(WINDOW + 6):
        found = detector.sample(step, "same", {}, {})
        traced += 100_000
    detector.close()
    assert {m.name: (m.value, m.verdict) for m in found.meters}["heap"] == (1e6, "flat")


def test_small_items_of_a_buffer_are_python_objects_and_large_ones_are_in_the_heap(monkeypatch):
    sizes: list[int] = []
    taken = {"heap": lambda size: size > SMALL_BYTES, "python objects": lambda size: size <= SMALL_BYTES}

    def readings(*_: object) -> dict[str, float]:
        large = sum(filter(taken["heap"], sizes))
        return {
            "rss": 1e6 + sum(sizes),
            "heap": 1e6 + large,
            "python objects": 1000.0 + sum(map(taken["python objects"], sizes)),
        }

    monkeypatch.setattr("monitors.leak_detector.meters.readings", readings)
    detector = Detector({"own": Buffer(lambda: sizes, 10**6)}, warm_up=0)
    for step in range(3):
        sizes += [SMALL_BYTES] * 100 + [SMALL_BYTES + 1] * 100
        detector.sample(step, "same", {}, {})
    detector.close()
    for name in ("rss", "heap"):
        assert len(set(detector.window.series(name)[1])) == 1
    assert detector.window.series("python objects")[1] == [1000.0] * 3


def looking() -> tuple:
    from lattice.observing.decode_monitor import DecodeMonitor

    return (DecodeMonitor(),)
