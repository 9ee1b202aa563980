"""All settings of a run: one frozen pydantic model per section, one field per setting.

`lattice-tui presets show` prints the descriptions of the fields.  Every model refuses unknown keys.  A run is a list of stages.
Settings that depend on the lattice's shape belong to a stage; all others hold for the whole run.

Rules between fields are checked here too, so that a config that loads can run.  Errors name the field, its value and what
would be accepted.  This package never imports torch.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from presets.lattice_section import LatticeSection, RuleSection
from presets.measure import Measure, measure_on
from presets.plasticity_section import PlasticitySection
from presets.section import LIVE, Count, Section
from presets.stage import MAX_TICKS, Stage
from presets.task_name import is_task, split
from presets.text_section import MAX_LAG, TextSection
from presets.topology import REACH_FLOOR, reach, ticks_for_reach
from presets.training_section import Training


class Run(Section):
    """Device, precision, memory and random numbers."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(0, description="same seed, machine, threads and build: the same run")
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = Field(
        "auto", description="auto, cpu, cuda or cuda:N; auto takes a GPU if there is one"
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32", description="precision of states, and on a GPU also of text layers; parameters are always fp32"
    )
    kernel: Literal["auto", "native", "triton", "compiled", "reference"] = Field(
        "auto", description="implementation of the tick"
    )
    threads: Annotated[int, Field(ge=0, le=1024)] = Field(
        0, description="CPU threads; 0 = OMP_NUM_THREADS, or all cores that this process and its quota allow"
    )
    memory_budget_gb: Annotated[float, Field(gt=0)] = Field(
        24.0, description="training must fit in this many GB (10^9 bytes); decides the micro-batch"
    )


class Data(Section):
    """The task and its text."""

    task: Literal["reconstruct", "pairs", "denoise", "continue"] = Field(
        "reconstruct",
        description="text -> itself, source -> target, text with noise -> text, or first half of the words -> second half",
    )
    train: str | None = Field(
        None,
        description="file or folder of text (.txt, .jsonl, .tsv, .csv, also .gz), or task:NAME, which needs task pairs; "
        "none = the bundled corpus",
    )
    valid: str | None = Field(
        None, description="held-out file, or task:NAME for its test side; none = split off from train, or train's test side"
    )
    noise: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="denoise: share of the characters that are damaged; none = 0.1"
    )
    held_out: Annotated[float, Field(gt=0, le=0.5)] = Field(0.02, description="share split off when there is no valid file")
    max_held_out: Count = Field(1000, description="most sentences split off")

    @property
    def measure(self) -> Measure:
        """The measure that the run is judged by."""
        return measure_on(self.train, self.valid)

    @model_validator(mode="after")
    def _bundled_tasks_are_pairs(self) -> Data:
        for name in ("train", "valid"):
            source = getattr(self, name)
            if not is_task(source):
                continue
            try:
                split(source)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
            if self.task != "pairs":
                raise ValueError(f"task: {self.task} is for text, and {source} has sources and targets of its own; use pairs")
        return self

    @model_validator(mode="after")
    def _noise_has_an_effect(self) -> Data:
        if self.noise is not None and self.task != "denoise":
            raise ValueError(f"noise: is for task = denoise and does nothing for {self.task}; leave it out")
        return self


DRAWN = ("noise", "bias_local", "bias_distant", "excitatory")
"""Settings of connections.start = drawn."""


class Connections(Section):
    """How connection weights start and learn."""

    learning: Literal["gradient", "plastic", "hybrid", "frozen"] = Field(
        "gradient", description="by gradient, by the rule under [plasticity], by both, or as initialised"
    )
    start: Literal["drawn", "grown"] = Field(
        "drawn",
        description="drawn = noise and a bias towards the input; grown = from nothing, by waves of STDP before the first step",
    )
    noise: Annotated[float, Field(ge=0, le=2)] = Field(0.1, description="start: normal noise of this norm over 26 connections")
    bias_local: Annotated[float, Field(ge=0, le=2)] = Field(0.5, description="start: added to the neighbour towards the input")
    bias_distant: Annotated[float, Field(ge=0, le=2)] = Field(0.7, description="start: added to strides towards the input")
    excitatory: bool = Field(False, description="start: no weight is negative")

    @model_validator(mode="after")
    def _what_grows_is_not_drawn(self) -> Connections:
        fields = type(self).model_fields
        idle = [name for name in DRAWN if getattr(self, name) != fields[name].default] if self.start == "grown" else []
        if idle:
            raise ValueError(f"{idle[0]}: has no effect on connections that grow; leave it out, or use start = drawn")
        return self


class Optimizer(Section):
    """Cells and connections learn by `name`, all else by AdamW.  The rate warms up, and then falls as a cosine."""

    name: Literal["adamw", "galore", "adam8bit", "adafactor", "lion"] = Field(
        "adamw", description="of cells and connections: AdamW in fp32, or one that keeps about a quarter of its moments' bytes"
    )
    learning_rate: Annotated[float, Field(gt=0, le=1)] = Field(3e-3, description="peak", json_schema_extra=LIVE)
    cell_rate: Annotated[float, Field(gt=0, le=10)] = Field(
        0.3, description="learning rate of cells relative to the rest", json_schema_extra=LIVE
    )
    port_rate: Annotated[float, Field(ge=0, le=10)] = Field(
        0.03,
        description="learning rate of the ports relative to the rest; low, as slots that keep their meaning are learned sooner",
        json_schema_extra=LIVE,
    )
    beta1: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="decay of the first moment")
    beta2: Annotated[float, Field(ge=0, lt=1)] = Field(0.98, description="decay of the second moment")
    weight_decay: Annotated[float, Field(ge=0, le=1)] = Field(0.01, description="decoupled; never on connections or cells")
    warmup_steps: Annotated[int, Field(ge=0)] = Field(50, description="linear")
    final_share: Annotated[float, Field(ge=0, le=1)] = Field(0.05, description="learning rate at the end, as share of the peak")
    clip: Annotated[float, Field(gt=0)] = Field(1.0, description="largest global gradient norm", json_schema_extra=LIVE)
    tensor_rank: Annotated[float, Field(gt=0, le=4096)] | None = Field(
        None,
        description="galore: up to 1, the share of a gradient's numbers that is kept; from 2, each mode's rank; none = 0.25",
    )
    tensor_budget_gb: Annotated[float, Field(gt=0)] | None = Field(
        None, description="galore: GB that its state for the lattice may take, instead of a tensor_rank"
    )
    gap: Count | None = Field(None, description="galore: steps between new factors; none = 100")
    momentum: Literal["bf16", "off"] | None = Field(
        None, description="adafactor: the first moment, in bf16 or off; none = off, which learns better"
    )
    lion_rate: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="lion: its learning rate relative to AdamW's; none = 0.3"
    )

    @model_validator(mode="after")
    def _every_option_has_an_effect(self) -> Optimizer:
        owners = {
            "tensor_rank": "galore",
            "tensor_budget_gb": "galore",
            "gap": "galore",
            "momentum": "adafactor",
            "lion_rate": "lion",
        }
        for option, owner in owners.items():
            if getattr(self, option) is not None and self.name != owner:
                raise ValueError(f"{option}: is for name = {owner} and does nothing for {self.name}; leave it out")
        if self.tensor_rank is not None and self.tensor_rank > 1 and (self.tensor_rank < 2 or self.tensor_rank % 1):
            raise ValueError(f"tensor_rank: {self.tensor_rank:g} is neither a share (up to 1) nor a whole rank (from 2)")
        if None not in (self.tensor_rank, self.tensor_budget_gb):
            raise ValueError("tensor_budget_gb: decides the share that tensor_rank sets; give one of the two")
        return self


class Decode(Section):
    """The decode monitor."""

    every: Count = Field(50, description="steps between decodes of held-out sentences", json_schema_extra=LIVE)
    sentences: Annotated[int, Field(ge=64)] = Field(
        64, description="held-out sentences scored each time", json_schema_extra=LIVE
    )
    samples: Annotated[int, Field(ge=1, le=64)] = Field(
        6, description="how many of these are shown with their references", json_schema_extra=LIVE
    )


class Checkpoint(Section):
    """Checkpoints."""

    every: Count = Field(500, description="steps between checkpoints", json_schema_extra=LIVE)
    keep: Annotated[int, Field(ge=2)] = Field(2, description="complete checkpoints kept besides the best one")
    on_warning: Literal["save", "stop"] = Field(
        "save", description="at SIGUSR1, SIGUSR2 or SIGXCPU: save a checkpoint and go on, or save and leave"
    )


class RunConfig(Section):
    """All settings of a run.  `purpose` describes a preset, and does not change what is computed."""

    purpose: str = Field("", description="one line: what this preset is for")
    stages: Annotated[tuple[Stage, ...], Field(min_length=1, max_length=32)] = Field(description="the run, in order")
    run: Run = Run()
    data: Data = Data()
    text: TextSection = TextSection()
    lattice: LatticeSection = LatticeSection()
    rule: RuleSection = RuleSection()
    connections: Connections = Connections()
    plasticity: PlasticitySection = PlasticitySection()
    optimizer: Optimizer = Optimizer()
    training: Training = Training()
    decode: Decode = Decode()
    checkpoint: Checkpoint = Checkpoint()

    @property
    def total_steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    @model_validator(mode="after")
    def _channels_hold_the_ports(self) -> RunConfig:
        section = self.lattice
        if section.port_channels is not None and section.port_channels > section.channels:
            raise ValueError(
                f"lattice.port_channels: {section.port_channels} channels can't be driven and read, a cell has "
                f"{section.channels} (lattice.channels)"
            )
        if section.memory_ticks > 1 and (section.port_channels or section.channels) == section.channels:
            raise ValueError(
                f"lattice.memory_ticks: {section.memory_ticks:g} is for channels that no port drives, and there are none; set "
                f"lattice.port_channels below {section.channels}, or lattice.memory_ticks to 1"
            )
        return self

    @model_validator(mode="after")
    def _time_is_enough(self) -> RunConfig:
        lag, slots = self.text.lag, self.text.slots
        if self.text.reading == "face":
            if lag is not None:
                raise ValueError("text.lag: does nothing with text.reading = face; set it to none, or read in time")
            if self.lattice.arm == "gru":
                raise ValueError(
                    "lattice.arm: gru reads slots one after the other, and with text.reading = face they come all at once; set "
                    "text.reading=time and a text.lag, or use identity"
                )
            return self
        if self.lattice.arm == "gru" and lag is None:
            raise ValueError("text.lag: reading in time needs one; a recurrent network can do with 0")
        for i, stage in enumerate(self.stages if self.lattice.arm == "lattice" else ()):
            if lag is None:
                raise ValueError(f"text.lag: reading in time needs one; {self._enough_lag()}")
            if (share := reach(stage.topology("walls"), lag + 1)) < REACH_FLOOR:
                raise ValueError(
                    f"text.lag: {lag} is too short, only {share:.0%} of stage {i}'s cells lie on a path from input to output; "
                    f"{self._enough_lag()}"
                )
            if slots + lag > MAX_TICKS:
                raise ValueError(
                    f"text.grid: {slots} slots and a lag of {lag} take {slots + lag} ticks, and at most {MAX_TICKS} are "
                    f"accepted; use {math.isqrt(max(1, MAX_TICKS - lag))} or less"
                )
            if stage.ticks != slots + lag:
                raise ValueError(
                    f"stages.{i}.ticks: {slots} slots that are read {lag} ticks after they enter take {slots + lag} ticks, not "
                    f"{stage.ticks}; use {slots + lag} in every stage"
                )
        return self

    def _enough_lag(self) -> str:
        """The lag that would do for all stages, and the ticks that they then take, for a message."""
        lag = max(1, *(ticks_for_reach(stage.topology("walls")) for stage in self.stages)) - 1
        if lag > MAX_LAG:
            return f"{lag} would do, and at most {MAX_LAG} is accepted, so use longer strides.z"
        return f"{lag} would do, with {self.text.slots + lag} ticks in every stage (stages.N.ticks)"

    def path_ticks(self, stage: Stage) -> int:
        """Ticks from the entry of a slot to its reading."""
        return stage.ticks if self.text.lag is None else self.text.lag + 1

    def longest_ticks(self, stage: Stage) -> int:
        """Most ticks that a sentence of a stage takes: in time, text.max_tokens may fill fewer slots than there are."""
        return stage.ticks if self.text.lag is None else self.text.longest_slots + self.text.lag

    @model_validator(mode="after")
    def _faces_hold_the_grid(self) -> RunConfig:
        for i, stage in enumerate(self.stages if self.text.reading == "face" else ()):
            if min(stage.shape[:2]) < self.text.grid:
                raise ValueError(
                    f"stages.{i}.shape: a face of {stage.shape[0]}x{stage.shape[1]} cells is smaller than text.grid "
                    f"{self.text.grid}x{self.text.grid}; each slot needs a cell of its own"
                )
        return self

    @model_validator(mode="after")
    def _rule_has_cells(self) -> RunConfig:
        if self.rule.kind != "none" and self.lattice.arm != "lattice":
            raise ValueError(
                f"rule.kind: {self.rule.kind} needs cells, and there are none with lattice.arm = {self.lattice.arm}; use none"
            )
        return self

    @model_validator(mode="after")
    def _chance_has_cells(self) -> RunConfig:
        probability, wounds, arm = self.rule.update_probability, self.training.wounds, self.lattice.arm
        if probability < 1 and arm != "lattice":
            raise ValueError(
                f"rule.update_probability: {probability:g} needs cells, and there are none with lattice.arm = {arm}; use 1"
            )
        if wounds and arm != "lattice":
            raise ValueError(
                f"training.wounds: {wounds:g} needs cells to wound, and there are none with lattice.arm = {arm}; use 0"
            )
        for i, stage in enumerate(self.stages):
            if wounds and stage.ticks < 2:
                raise ValueError(
                    f"training.wounds: wounds come between two ticks, and stage {i} has one; use 2 or more in stages.{i}.ticks"
                )
        return self

    @model_validator(mode="after")
    def _waves_can_teach(self) -> RunConfig:
        for i, stage in enumerate(self.stages):
            if stage.waves and self.plasticity.rule == "three_factor":
                raise ValueError(
                    f"stages.{i}.waves: {stage.waves} waves run without a backward, and plasticity.rule three_factor learns "
                    "only from one; use another rule, or 0 waves"
                )
        return self

    @model_validator(mode="after")
    def _what_regrows_learns(self) -> RunConfig:
        for i, stage in enumerate(self.stages):
            if stage.rewiring.regrow != "none" and self.connections.learning == "frozen":
                raise ValueError(
                    f"stages.{i}.rewiring.regrow: {stage.rewiring.regrow} regrows connections at zero, where they would stay "
                    "with connections.learning = frozen; use none"
                )
        return self

    @model_validator(mode="after")
    def _warm_up_fits(self) -> RunConfig:
        if self.optimizer.warmup_steps >= self.total_steps and self.optimizer.warmup_steps > 0:
            raise ValueError(
                f"optimizer.warmup_steps: {self.optimizer.warmup_steps} is not below the run's {self.total_steps} steps"
            )
        return self
