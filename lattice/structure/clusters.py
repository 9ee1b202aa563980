"""Functional clusters: spherical k-means on one row of features per cell, and measures of how good and how stable they are.

Rows are compared by their direction alone (Dhillon & Modha 2001: cluster by cosine, scale centroids back to length 1).
Centroids are fitted on a sample.  Then all rows are assigned, chunk by chunk, so that 13.5 million cells take 8 bytes each for
their labels, and CHUNK_BYTES in all besides.  All randomness comes from the generator that is passed in, and sums are taken in
a fixed order: the same input gives the same labels.  These are pure functions; lattice.training.recluster calls them during
training.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

CHUNK_BYTES = 64_000_000
"""Most memory that a pass over all rows takes at once, not counting its result."""

SILENT = 1e-6
"""A row shorter than this is silent: it has no direction, moves no centroid, and joins the largest cluster."""

RESTARTS = 4
"""Number of fits from scratch; the one with the highest mean cosine is taken."""

ITERATIONS = 100
"""Most rounds of assigning and averaging in one fit."""

COPY = 1e-6
"""A row within this cosine distance of a centroid counts as a copy of it, and no other centroid starts there."""


@dataclass(frozen=True)
class Partition:
    """A division of N rows into clusters.

    labels [N] (int64, 0 <= label < K), centroids [K, C] of length 1 (zero if empty), sizes [K] in rows.

    `merged` counts the clusters that were too small and went into their nearest one.
    """

    labels: torch.Tensor
    centroids: torch.Tensor
    sizes: torch.Tensor
    merged: int


def spherical_kmeans(
    rows: torch.Tensor,
    count: int,
    generator: torch.Generator,
    start: torch.Tensor | None = None,
    sample: int = 16384,
    min_size: int = 1,
) -> Partition:
    """Divides rows [N, C] into at most `count` clusters of at least `min_size` rows, largest first.

    `start` [count, C] are centroids of an earlier clustering to go on from; those that are zero are drawn anew.  There are
    fewer than `count` clusters if the sample has fewer different directions, or if smaller ones had to be merged.  If all rows
    are silent, they are in cluster 0, whose centroid is zero.  Raises ValueError for rows that are not finite and for counts
    below 1.
    """
    if count < 1 or sample < 1:
        raise ValueError(f"{count} clusters from a sample of {sample} rows: both must be at least 1")
    parts = rows.split(_chunk(rows.shape[1], 0))
    if bad := sum(int((~part.isfinite().all(dim=1)).sum()) for part in parts):
        raise ValueError(f"{bad} of {len(rows)} rows to cluster are not finite")
    chosen = rows[spread_sample(len(rows), sample, generator).to(rows.device)].float().cpu()
    units = F.normalize(chosen[chosen.norm(dim=1) > SILENT])
    known = units[:0] if start is None else start[start.norm(dim=1) > SILENT].float().cpu()
    fits = [_fit(units, _seed(units, known, count, generator)) for _ in range(1 if len(known) else RESTARTS)]
    fitted = max(fits, key=lambda fit: fit[1])[0].to(rows.device)
    labels, sums, sizes = assign(rows, fitted)
    groups = _merge(sums, sizes, min_size)
    # Silent rows have label -1: the table's last entry, which stays 0, the largest cluster.
    table = torch.zeros(len(fitted) + 1, dtype=torch.int64, device=rows.device)
    centroids = torch.zeros(count, rows.shape[1], device=rows.device)
    for label, group in enumerate(groups):
        table[group] = label
        centroids[label] = fitted[group[0]] if len(group) == 1 else F.normalize(sums[group].sum(0), dim=0)
    _rename(labels, table)
    return Partition(labels, centroids, _sizes(labels, count), int((sizes > 0).sum()) - len(groups))


def spread_sample(total: int, size: int, generator: torch.Generator) -> torch.Tensor:
    """Sorted indices below `total`: one drawn from each of `size` runs of equal length, or all if there are at most `size`."""
    if total <= size:
        return torch.arange(total)
    within = torch.rand(size, generator=generator, dtype=torch.float64)
    return ((torch.arange(size) + within) * (total / size)).long().clamp(max=total - 1)


def assign(rows: torch.Tensor, centroids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(labels [N], sums [K, C] of the unit rows, sizes [K]): each row goes to the centroid with the highest cosine.

    Of equal ones it takes the lower label.  Silent rows get label -1.
    """
    count, channels = centroids.shape
    labels = torch.full((len(rows),), -1, dtype=torch.int64, device=rows.device)
    sums = torch.zeros(count, channels, dtype=torch.float64, device=rows.device)
    sizes = torch.zeros(count, dtype=torch.int64, device=rows.device)
    size = _chunk(channels, count)
    for part, label in zip(rows.split(size), labels.split(size), strict=True) if count else ():
        active = part.norm(dim=1, dtype=torch.float32) > SILENT
        units = F.normalize(part.float()) * active[:, None]
        nearest = (units @ centroids.T).argmax(dim=1)
        # A product with the one-hot labels adds up in the same order every time, also on a GPU, where index_add_ does not.
        members = units.new_zeros(len(units), count).scatter_(1, nearest[:, None], active[:, None].float())
        sums += members.T @ units
        sizes += members.sum(0).long()
        label.copy_(nearest.where(active, -1))
    return labels, sums.float(), sizes


def _chunk(channels: int, count: int) -> int:
    """Rows per chunk when each is compared to `count` centroids: as many as fit in CHUNK_BYTES, with a few copies of each."""
    return max(1, CHUNK_BYTES // (4 * (4 * channels + 2 * count + 8)))


def _seed(units: torch.Tensor, centroids: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Centroids [<= count, C]: the given ones, and more by greedy k-means++ (Arthur & Vassilvitskii 2007).

    scikit-learn's `kmeans_plusplus` draws in the same way, since on unit rows the squared distance is twice the cosine
    distance.  But it can't add to given centroids, as a warm start with empty clusters needs.
    """
    centroids = centroids[:count]
    if not len(units):
        return centroids
    if not len(centroids):
        centroids = units[torch.randint(len(units), (1,), generator=generator)]
    trials = 2 + int(math.log(count))
    distance = torch.cat([(1 - part @ centroids.T).amin(dim=1) for part in units.split(_chunk(0, count))])
    while len(centroids) < count:
        distance = distance.where(distance > COPY, 0.0)
        if not distance.sum() > 0:
            break
        picks = units[torch.multinomial(distance, trials, replacement=True, generator=generator)]
        remaining = torch.minimum(distance[:, None], 1 - units @ picks.T)
        best = int(remaining.clamp(min=0).sum(0).argmin())
        centroids, distance = torch.cat([centroids, picks[best : best + 1]]), remaining[:, best]
    return centroids


def _fit(units: torch.Tensor, centroids: torch.Tensor) -> tuple[torch.Tensor, float]:
    """(centroids [K, C], sum of the rows' cosines to their centroid) after Lloyd's rounds until no label changes."""
    before = None
    # scikit-learn's KMeans would average without scaling back to length 1, and so drift off the sphere.
    for _ in range(ITERATIONS):
        labels, sums, _ = assign(units, centroids)
        if before is not None and torch.equal(labels, before):
            break
        lengths = sums.norm(dim=1, keepdim=True)
        centroids, before = torch.where(lengths > SILENT, sums / lengths.clamp(min=SILENT), centroids), labels
    return centroids, float(sums.norm(dim=1).sum())


def _merge(sums: torch.Tensor, sizes: torch.Tensor, min_size: int) -> list[list[int]]:
    """Groups of old labels, one for each new cluster, largest first.

    The smallest cluster joins its nearest one until all have at least `min_size` rows.  Empty clusters are left out.
    """
    held = {label: size for label, size in enumerate(sizes.tolist()) if size}
    groups, sums = {label: [label] for label in held}, sums.clone()
    while len(held) > 1 and min(held.values()) < min_size:
        small = min(held, key=held.__getitem__)
        others = [label for label in held if label != small]
        near = others[int(F.cosine_similarity(sums[others], sums[small][None]).argmax())]
        sums[near] += sums[small]
        held[near] += held.pop(small)
        groups[near] += groups.pop(small)
    return [groups[label] for label in sorted(held, key=lambda label: -held[label])]


def _rename(labels: torch.Tensor, table: torch.Tensor) -> None:
    """labels = table[labels], in place and chunk by chunk."""
    for part in labels.split(_chunk(0, 0)):
        part.copy_(table[part])


def _sizes(labels: torch.Tensor, count: int) -> torch.Tensor:
    return _counts(labels.split(_chunk(0, 0)), count)


def _counts(parts: Iterable[torch.Tensor], count: int) -> torch.Tensor:
    """How often each number below `count` stands in the parts together [count]; there is at least one part."""
    return functools.reduce(torch.add, (torch.bincount(part, minlength=count) for part in parts))


# Two clusterings of the same rows


def overlap(labels: torch.Tensor, others: torch.Tensor, count: int) -> torch.Tensor:
    """How many rows have label i in the one labelling [N] and label j in the other: [count, count]."""
    parts = zip(labels.split(_chunk(0, 0)), others.split(_chunk(0, 0)), strict=True)
    return _counts((a * count + b for a, b in parts), count**2).view(count, count)


def continued(partition: Partition, before: torch.Tensor) -> Partition:
    """The same clusters, each under the label of `before` [N] whose cluster shares most rows with it (Hungarian method)."""
    from scipy.optimize import linear_sum_assignment  # loads in half a second, which a run without clusters need not wait for

    count = len(partition.centroids)
    table = overlap(partition.labels, before, count)
    _, match = linear_sum_assignment(table.cpu().numpy(), maximize=True)
    name = torch.as_tensor(match, device=before.device)
    labels, centroids, sizes = partition.labels.clone(), partition.centroids.clone(), partition.sizes.clone()
    _rename(labels, name)
    centroids[name], sizes[name] = partition.centroids, partition.sizes
    return replace(partition, labels=labels, centroids=centroids, sizes=sizes)


def mutual_information(table: torch.Tensor) -> float:
    """Normalised mutual information, 0..1, of two clusterings, from the table that `overlap` gives.

    It is divided by the mean of both entropies, and is 1 if both have a single cluster.  scikit-learn's version would have to
    sort all cells.
    """
    joint = table.double() / table.sum()

    def entropy(p: torch.Tensor) -> float:
        return -float(torch.special.xlogy(p, p).sum())

    each = entropy(joint.sum(0)) + entropy(joint.sum(1))
    return min(1.0, max(0.0, 2 * (each - entropy(joint)) / each)) if each > 0 else 1.0


def silhouette(rows: torch.Tensor, labels: torch.Tensor, generator: torch.Generator, sample: int = 2048) -> float | None:
    """Mean cosine silhouette, -1..1, of a sample of rows without silent ones; None if the sample has a single cluster."""
    from sklearn.metrics import silhouette_score

    chosen = spread_sample(len(rows), sample, generator).to(rows.device)
    rows, labels = rows[chosen].float().cpu(), labels[chosen].cpu()
    active = rows.norm(dim=1) > SILENT
    rows, labels = rows[active], labels[active]
    if not 1 < len(labels.unique()) < len(labels):
        return None
    return float(silhouette_score(rows.numpy(), labels.numpy(), metric="cosine"))
