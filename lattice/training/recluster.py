"""Re-clustering: forms the functional clusters anew every `clustering.every` steps, by what the cells do.

What a cell does is a running mean of its state over training sentences.  It is updated a few times between two clusterings, by
forward passes of its own.  Spherical k-means then clusters these means.  It starts from the last centroids and keeps the last
names, so that a cluster stays the same cluster.  Labels change only between two steps.

The running mean and the centroids are buffers of the lattice.  Sentences are drawn by (seed, stage, step), and the sample of
cells by (seed, stage).  So a resumed run clusters like an uninterrupted one.
"""

from __future__ import annotations

import time

import torch

from lattice.random_streams import generator
from lattice.structure.clusters import continued, mutual_information, overlap, silhouette, spherical_kmeans
from lattice.training.callbacks import Callback
from lattice.training.state import TrainingState
from monitors.events import Clustered

LOOKS = 4
"""Updates of the running mean per clustering (more or fewer if `clustering.every` is no multiple of this)."""

SENTENCES = 8
"""Training sentences per update of the running mean."""

NEW_SHARE = 0.25
"""Weight of the newest update in the running mean.  The mean starts from zero, which is harmless: only directions count."""

SIZES_SHOWN = 256


class Reclusterer(Callback):
    """The callback that re-clusters every `clustering.every` steps of a stage.  Emits Clustered.

    Also emits Warned if all cells end up in one cluster.
    """

    def after_step(self, state: TrainingState) -> None:
        lattice, every, step = state.model.lattice, state.stage.clustering.every, state.progress.stage_step
        if lattice is None or not lattice.clusters or not every:
            return
        due = step % every == 0
        if due or step % every % max(1, every // LOOKS) == 0:
            look(state)
        if due:
            recluster(state)


@torch.no_grad()
def look(state: TrainingState) -> None:
    """Updates the running mean with the cells' states for SENTENCES training sentences.

    If the state of any cell is not finite, the mean stays as it is and Warned is emitted.
    """
    progress, model, sentences = state.progress, state.model, state.train_sentences
    stream = generator(state.config.run.seed, "cluster sentences", progress.stage, progress.stage_step)
    rows = torch.randint(len(sentences), (SENTENCES,), generator=stream).tolist()
    size = min(SENTENCES, state.micro_batch)
    seen = torch.zeros_like(state.lattice.mean_state)
    for start in range(0, SENTENCES, size):
        part = rows[start : start + size]
        source, _, _ = sentences.batch(part, state.device)
        with model.drawn(first=start):
            seen += model.mean_state(source) * (len(part) / SENTENCES)
    if seen.isfinite().all():
        state.lattice.mean_state.lerp_(seen, NEW_SHARE)
    else:
        bad = int((~seen.isfinite().all(dim=-1)).sum())
        state.warn(f"the states of {bad} cells are not finite; the clusters' running mean leaves this look out")


@torch.no_grad()
def recluster(state: TrainingState) -> Clustered:
    """Sets the lattice's labels and centroids from its running mean.  Emits the event and returns it."""
    clock, progress, settings = time.perf_counter(), state.progress, state.stage.clustering
    lattice = state.lattice
    rows, before = lattice.mean_state.view(-1, lattice.channels), lattice.labels.flatten()
    first = not lattice.centroids.any()
    # One stream per stage: with the same sample every time, cells that did not change keep their cluster.
    seed = (state.config.run.seed, "clusters", progress.stage)
    clustering = spherical_kmeans(
        rows, lattice.clusters, generator(*seed), lattice.centroids, settings.sample, settings.min_size
    )
    stability = None if first else mutual_information(overlap(clustering.labels, before, lattice.clusters))
    clustering = continued(clustering, before)
    lattice.labels.copy_(clustering.labels.view_as(lattice.labels))
    lattice.centroids.copy_(clustering.centroids)
    sizes = sorted((size for size in clustering.sizes.tolist() if size), reverse=True)
    event = Clustered(
        step=progress.step,
        stage=progress.stage,
        count=len(sizes),
        sizes=tuple(sizes[:SIZES_SHOWN]),
        silhouette=silhouette(rows, clustering.labels, generator(*seed, "silhouette")),
        stability=stability,
        merged=clustering.merged,
        seconds=time.perf_counter() - clock,
    )
    state.tell(event)
    if len(sizes) < min(2, lattice.clusters):
        state.warn(f"all {len(rows)} cells are in one cluster of {lattice.clusters}: their mean states do not differ")
    return event
