"""The settings of one stage of a run: all that depends on the lattice's shape.

Rules between the fields are checked here too.  Errors name the field, its value and what would be accepted.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from presets.section import LIVE, Count, Section, Share
from presets.topology import REACH_FLOOR, Topology, reach, ticks_for_reach


class Strides(Section):
    """Distant connections along each axis: strides in cells, each used in both directions."""

    x: tuple[Annotated[int, Field(ge=2, le=16)], ...] = Field((), description="along x")
    y: tuple[Annotated[int, Field(ge=2, le=64)], ...] = Field((), description="along y")
    z: tuple[Annotated[int, Field(ge=2, le=64)], ...] = Field((), description="along z, from input face to output face")


class Clustering(Section):
    """Functional clusters, formed by what cells do.  In the functional tier, cells also read the mean of their cluster."""

    clusters: Annotated[int, Field(ge=0, le=1024)] = Field(0, description="number of functional clusters; 0 = none")
    clustering_integration: Annotated[float, Field(ge=0, le=1)] = Field(
        0.3,
        description="starting gain of the cluster mean in a cell's message; 0 = clusters are formed, cells do not read them",
    )
    every: Annotated[int, Field(ge=0)] = Field(
        100,
        description="steps between re-clusterings by the cells' mean states; 0 = clusters stay the blocks of the start",
        json_schema_extra=LIVE,
    )
    min_size: Count = Field(8, description="cells; a smaller cluster is merged into its nearest one")
    sample: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        16384, description="cells that the clusters' centres are fitted on, before all cells are assigned"
    )

    @property
    def functional(self) -> bool:
        """Whether cells read the mean state of their cluster."""
        return self.clusters > 0 and self.clustering_integration > 0

    @model_validator(mode="after")
    def _sample_holds_them(self) -> Clustering:
        if self.sample < self.clusters:
            raise ValueError(f"sample: {self.sample} cells can't have {self.clusters} clusters; use {self.clusters} or more")
        return self


class Rewiring(Section):
    """How connections of a sparse lattice are dropped and regrown during a stage."""

    regrow: Literal["none", "activity", "gradient", "random"] = Field(
        "none",
        description="how connections are chosen that replace dropped ones: activity = by how the states of the two cells "
        "correlate, gradient = by the size of their gradient, random; none = the pattern stays (and what a lowered sparsity "
        "brings back is drawn at random)",
        json_schema_extra=LIVE,
    )
    every: Count = Field(100, description="steps between rewirings", json_schema_extra=LIVE)
    share: Annotated[float, Field(ge=0, le=0.5)] = Field(
        0.3,
        description="share of the connections that a rewiring replaces, weakest first; falls as a cosine over the stage",
        json_schema_extra=LIVE,
    )
    prune_at: Annotated[int, Field(ge=0)] = Field(
        0,
        description="step of the stage by which its sparsity is reached, in four prunings; 0 = at the start",
        json_schema_extra=LIVE,
    )
    protect_clusters: bool = Field(False, description="connections within a functional cluster are the last to be dropped")
    min_fan_in: Count = Field(3, description="connections that every cell keeps at least, those over walls included")


PRUNINGS = 4
"""Number of prunings until a stage's sparsity is reached, if it is not reached at once."""

MAX_SPARSE_CONNECTIONS = 254
"""Most connections per cell of a lattice that is pruned, since kept ones are indexed in one byte."""

MAX_TICKS = 256
"""Most ticks of a stage."""

Profile = Literal["discovery", "learning", "consolidation", "freeze"]


class Stage(Section):
    """One stage: a lattice shape, how it learns, and when it ends."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")] = Field(
        description="at most 32 of a-z, 0-9, _ and -, a letter or digit first; shown in tables and events"
    )
    shape: tuple[Count, Count, Count] = Field(description="cells along x, y, z; text enters at z = 0 and leaves at the last z")
    ticks: Annotated[int, Field(ge=1, le=MAX_TICKS)] = Field(8, description="ticks from input to output")
    strides: Strides = Strides()
    data_share: Share = Field(1.0, description="share of the training sentences this stage sees")
    profile: Profile = Field(
        "learning",
        description="how fast connections change: discovery 2x, learning 1x, consolidation 0.4x, freeze not at all",
        json_schema_extra=LIVE,
    )
    clustering: Clustering = Clustering()
    waves: Annotated[int, Field(ge=0)] = Field(
        0, description="discovery: batches that run through the lattice with plasticity and no backward, before the first step"
    )
    sparsity: Annotated[float, Field(ge=0, le=0.95)] = Field(
        0.0, description="share of each cell's connections pruned, weakest first", json_schema_extra=LIVE
    )
    rewiring: Rewiring = Rewiring()
    activity_threshold: Annotated[float, Field(gt=0)] = Field(
        0.01, description="RMS state change per tick above which a cell counts as active", json_schema_extra=LIVE
    )
    steps: Count = Field(description="ends after this many optimizer steps, whatever else is set", json_schema_extra=LIVE)
    until_loss: Annotated[float, Field(gt=0)] | None = Field(
        None, description="ends early at this held-out loss", json_schema_extra=LIVE
    )
    until_plateau: Count | None = Field(
        None, description="ends early after this many decodes without a better held-out loss", json_schema_extra=LIVE
    )

    def topology(self, boundary: str) -> Topology:
        return Topology(self.shape, (self.strides.x, self.strides.y, self.strides.z), boundary)

    def kept(self, step: int | None = None) -> int:
        """Connections per cell at `step` of the stage (from 0), or without a step once its sparsity is reached.

        Until then, the pruned share rises in PRUNINGS steps along a cubic, first fast and then slowly (Zhu and Gupta, 2017).
        """
        done, by = 1.0, self.rewiring.prune_at
        if step is not None and step < by:
            done = 1 - (1 - step * PRUNINGS // by / PRUNINGS) ** 3
        return max(1, round(len(self.topology("walls").offsets) * (1 - self.sparsity * done)))

    @model_validator(mode="after")
    def _strides_fit(self) -> Stage:
        for axis, size in zip("xyz", self.shape, strict=True):
            strides = getattr(self.strides, axis)
            if too_far := [stride for stride in strides if stride >= size]:
                raise ValueError(f"strides.{axis}: {too_far[0]} does not fit {size} cells; use strides below {size}")
            if len(set(strides)) < len(strides):
                raise ValueError(f"strides.{axis}: {list(strides)} names a stride twice")
        return self

    @model_validator(mode="after")
    def _connections_remain(self) -> Stage:
        offsets, least = len(self.topology("walls").offsets), self.rewiring.min_fan_in
        if least > offsets:
            raise ValueError(f"rewiring.min_fan_in: {least} is more than the {offsets} connections of a cell")
        if self.kept() < least:
            most = math.floor(100 * (1 - least / offsets)) / 100
            raise ValueError(
                f"sparsity: {self.sparsity:g} keeps {self.kept()} of {offsets} connections per cell, fewer than "
                f"rewiring.min_fan_in {least}; use {most:g} or less"
            )
        if self.sparsity and offsets > MAX_SPARSE_CONNECTIONS:
            raise ValueError(
                f"sparsity: {offsets} connections per cell are more than the {MAX_SPARSE_CONNECTIONS} that pruning can index; "
                "use fewer strides, or sparsity 0"
            )
        if self.rewiring.protect_clusters and not self.clustering.clusters:
            raise ValueError("rewiring.protect_clusters: there are no clusters to protect; set clustering.clusters")
        if self.rewiring.prune_at > self.steps:
            raise ValueError(f"rewiring.prune_at: {self.rewiring.prune_at} is past the stage's {self.steps} steps")
        return self

    @model_validator(mode="after")
    def _has_reach(self) -> Stage:
        topology = self.topology("walls")
        share = reach(topology, self.ticks)
        if share < REACH_FLOOR:
            raise ValueError(
                f"ticks: {self.ticks} ticks reach {share:.0%} of a lattice {self.shape[2]} deep with strides "
                f"{list(self.strides.z)} along z; {ticks_for_reach(topology)} ticks, or other strides.z, would do "
                f"(at least {REACH_FLOOR:.0%} of the cells must lie on a path from input to output)"
            )
        return self

    @model_validator(mode="after")
    def _clusters_fit(self) -> Stage:
        x, y, z = self.shape
        clusters, least = self.clustering.clusters, self.clustering.min_size
        if clusters > x * y * z:
            raise ValueError(f"clustering.clusters: {clusters} is more than the {x * y * z} cells")
        if clusters * least > x * y * z:
            raise ValueError(
                f"clustering.min_size: {clusters} clusters of at least {least} cells are more than the {x * y * z} cells; "
                f"use {x * y * z // clusters} or less"
            )
        return self
