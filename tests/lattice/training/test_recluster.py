"""Tests of re-clustering: clusters form anew when they are due, resume exactly, and carry over into a grown lattice."""

from __future__ import annotations

import itertools

import pytest
import torch

from lattice.model.growth import carry_over, nearest, resample
from lattice.model.text_lattice import TextLattice
from lattice.observing.decode_monitor import DecodeMonitor
from lattice.random_streams import generator
from lattice.structure.clusters import assign
from lattice.training import changes, checkpoint
from lattice.training.callbacks import Callback
from lattice.training.checkpointer import Checkpointer
from lattice.training.state import TrainingState
from monitors.events import Clustered, Trained, Warned
from presets.live import edit
from tests.lattice.conftest import StopAt

CLUSTERED = ("stages.0.clustering.clusters=4", "stages.1.clustering.clusters=4")
OFTEN = ("stages.0.clustering.every=2", "stages.1.clustering.every=3")


class Lattices(Callback):
    """The lattice's labels, running mean and centroids after every step."""

    def __init__(self) -> None:
        self.after: list[dict[str, torch.Tensor]] = []

    def after_step(self, state: TrainingState) -> None:
        lattice = state.model.lattice
        self.after.append({name: getattr(lattice, name).clone() for name in ("labels", "mean_state", "centroids")})


def test_clusters_are_formed_anew_in_their_rhythm_and_cover_all_cells(bench):
    run = bench(*CLUSTERED, *OFTEN)
    assert run.trainer.run() == "finished"
    seen = run.heard.of(Clustered)
    assert [(event.step, event.stage) for event in seen] == [(2, 0), (4, 0), (6, 0), (9, 1), (12, 1)]
    assert [sum(event.sizes) for event in seen] == [96] * 3 + [288] * 2
    assert seen[0].stability is None and all(0 <= event.stability <= 1 for event in seen[1:])
    assert all(1 < len(event.sizes) == event.count <= 4 and min(event.sizes) >= 8 for event in seen)
    assert all(-1 <= event.silhouette <= 1 and event.seconds > 0 for event in seen)
    lattice = run.trainer.state.model.lattice
    assert sorted(torch.bincount(lattice.labels.flatten()).tolist(), reverse=True) == list(seen[-1].sizes)


def test_the_first_clusters_replace_the_blocks_and_are_those_of_the_running_mean(bench):
    lattices = Lattices()
    run = bench(*CLUSTERED, "stages.0.clustering.every=5", "stages.0.clustering.min_size=1", callbacks=[lattices])
    blocks, mean = run.trainer.state.model.lattice.labels.clone(), run.trainer.state.model.lattice.mean_state.clone()
    run.trainer.run()
    assert not mean.any() and lattices.after[0]["mean_state"].any()
    assert torch.equal(lattices.after[3]["labels"], blocks)
    formed = lattices.after[4]
    assert not torch.equal(formed["labels"], blocks)
    labels, _, _ = assign(formed["mean_state"].view(-1, 12), formed["centroids"])
    assert torch.equal(labels.view_as(blocks), formed["labels"])


def test_the_running_mean_takes_in_the_mean_state_at_some_training_sentences(bench):
    run = bench(*CLUSTERED, "stages.0.clustering.every=4", callbacks=[StopAt(1)])
    assert run.trainer.run() == "stopped"  # the weights are still those that the look was taken with
    model, sentences = run.trainer.state.model, run.trainer.state.train_sentences
    rows = torch.randint(300, (8,), generator=generator(0, "cluster sentences", 0, 1)).tolist()
    source, _, _ = sentences.batch(rows, torch.device("cpu"))
    with torch.no_grad():
        state = model.lattice.state(model.input_port.drive(model.encoder(source)))  # [B, X, Y, C, Z]
    wanted = 0.25 * sum(s.permute(0, 1, 3, 2) for s in state) / 8
    assert wanted.abs().max() > 0.01
    assert torch.allclose(model.lattice.mean_state, wanted, atol=1e-6)


def test_the_running_mean_is_the_same_but_for_rounding_whatever_the_micro_batch(bench):
    means = []
    for size in (16, 4):
        run = bench(*CLUSTERED, *OFTEN, f"training.micro_batch={size}", "stages.1.steps=1")
        run.trainer.run()
        means.append(run.trainer.state.model.lattice.mean_state)
    assert torch.allclose(*means, atol=1e-4)


def test_without_clusters_or_with_every_0_nothing_is_looked_at(bench, monkeypatch):
    monkeypatch.setattr(TextLattice, "mean_state", lambda *_: pytest.fail("looked"))
    off = bench()
    assert off.trainer.run() == "finished"
    assert not {"lattice.labels", "lattice.mean_state", "lattice.centroids"} & set(off.trainer.state.model.state_dict())
    still = bench(*CLUSTERED, "stages.0.clustering.every=0", "stages.1.clustering.every=0")
    assert still.trainer.run() == "finished"
    identity = bench(*CLUSTERED, *OFTEN, "lattice.arm=identity")
    assert identity.trainer.run() == "finished"
    assert [run.heard.of(Clustered) for run in (off, still, identity)] == [[], [], []]


def test_the_rhythm_can_be_changed_while_the_run_trains(bench):
    class Edit(Callback):
        def after_step(self, state: TrainingState) -> None:
            if state.progress.step == 3:
                changes.reconfigure(state, edit(state.config, "stages.0.clustering.every", 5))

    run = bench(*CLUSTERED, *OFTEN, callbacks=[Edit()])
    run.trainer.run()
    assert [event.step for event in run.heard.of(Clustered) if event.stage == 0] == [2, 5]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, bench):
    folder = tmp_path_factory.mktemp("whole")
    run = bench(*CLUSTERED, *OFTEN, callbacks=[DecodeMonitor(), Checkpointer(folder, "data")])
    assert run.trainer.run() == "finished"
    return folder, run.heard


def told(heard, since: int) -> list[dict]:
    return [event.model_dump(exclude={"time", "seconds"}) for event in heard.of(Clustered) if event.step > since]


@pytest.mark.parametrize("at", [1, 4, 6, 8], ids=["before the first", "between two", "where the stage ends", "in stage 2"])
def test_a_resumed_run_clusters_and_learns_like_the_uninterrupted_one_bit_for_bit(bench, whole, tmp_path, at):
    saver = Checkpointer(tmp_path, "data")
    first = bench(*CLUSTERED, *OFTEN, callbacks=[DecodeMonitor(), saver, StopAt(at)])
    assert first.trainer.run() == "stopped"
    saver.save(first.trainer.state)
    saved, _ = checkpoint.load_newest(tmp_path)
    second = bench(*CLUSTERED, *OFTEN, callbacks=[DecodeMonitor(), Checkpointer(tmp_path, "data")])
    changes.resume(second.trainer.state, saved.model, saved.optimizer, saved.state)
    assert second.trainer.run() == "finished"
    reference, heard = whole
    assert told(second.heard, at) == told(heard, at) != []
    losses = [{event.step: event.loss for event in who.of(Trained) if event.step > at} for who in (second.heard, heard)]
    assert losses[0] == losses[1]
    (mine, _), (theirs, _) = checkpoint.load_newest(tmp_path), checkpoint.load_newest(reference)
    assert {"lattice.labels", "lattice.mean_state", "lattice.centroids"} <= set(mine.model)
    assert [name for name in theirs.model if not torch.equal(mine.model[name], theirs.model[name])] == []
    assert [name for name in theirs.optimizer if not torch.equal(mine.optimizer[name], theirs.optimizer[name])] == []


def test_states_that_are_not_finite_are_warned_of_and_left_out(bench, monkeypatch):
    honest, calls = TextLattice.mean_state, itertools.count()

    def poisoned(model: TextLattice, source: torch.Tensor) -> torch.Tensor:
        state = honest(model, source).clone()
        if next(calls) == 1:
            state[0, 0, :2] = torch.nan
        return state

    monkeypatch.setattr(TextLattice, "mean_state", poisoned)
    run = bench(*CLUSTERED, *OFTEN)
    assert run.trainer.run() == "finished"
    (warned,) = run.heard.of(Warned)
    assert warned.message.startswith("the states of 2 cells are not finite")
    assert len(run.heard.of(Clustered)) == 5
    assert run.trainer.state.model.lattice.mean_state.isfinite().all()


def test_silent_cells_are_one_cluster_and_that_is_warned_of(bench, monkeypatch):
    monkeypatch.setattr(TextLattice, "mean_state", lambda model, _: torch.zeros_like(model.lattice.mean_state))
    run = bench(*CLUSTERED, "stages.0.clustering.every=6")
    assert run.trainer.run() == "finished"
    (event,) = run.heard.of(Clustered)
    assert (event.count, event.sizes, event.silhouette) == (1, (96,), None)
    (warned,) = run.heard.of(Warned)
    assert warned.message == "all 96 cells are in one cluster of 4: their mean states do not differ"


# Growing


@pytest.mark.parametrize(("old", "new"), [((4, 5, 6), (7, 9, 12)), ((6, 6, 8), (4, 4, 5)), ((1, 4, 6), (3, 1, 6))])
def test_every_cell_takes_the_label_of_the_old_cell_nearest_to_it(old, new):
    labels = torch.arange(old[0] * old[1] * old[2]).view(old)
    grown = nearest(labels, new)
    assert grown.shape == new
    for cell in itertools.product(*map(range, new)):
        from_cell = [int(i) for i in torch.tensor(torch.unravel_index(grown[cell], old))]
        for at, origin, here, there in zip(cell, from_cell, old, new, strict=True):
            exact = at * (here - 1) / max(1, there - 1)
            assert abs(origin - exact) <= 0.5


def test_labels_and_centroids_carry_over_where_the_number_of_clusters_is_the_same(config_of):
    config = config_of(*CLUSTERED)
    old, new = (TextLattice(config, stage, 512, torch.device("cpu")) for stage in (0, 1))
    found = torch.Generator().manual_seed(1)
    old.lattice.labels = torch.randint(4, (4, 4, 6), generator=found)
    old.lattice.mean_state = torch.randn(4, 4, 6, 12, generator=found)
    old.lattice.centroids = torch.randn(4, 12, generator=found)
    carry_over(old, new)
    assert torch.equal(new.lattice.labels, nearest(old.lattice.labels, (6, 6, 8)))
    assert torch.equal(new.lattice.centroids, old.lattice.centroids)
    interpolated = resample(old.lattice.mean_state[None, ..., 3], (6, 6, 8))[0]
    assert torch.allclose(new.lattice.mean_state[..., 3], interpolated, atol=1e-5)
    other = TextLattice(config_of(*CLUSTERED, "stages.1.clustering.clusters=3"), 1, 512, torch.device("cpu"))
    blocks = other.lattice.labels.clone()
    carry_over(old, other)
    assert torch.equal(other.lattice.labels, blocks) and not other.lattice.centroids.any()
    assert other.lattice.mean_state.any()
