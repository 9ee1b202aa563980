"""The training loop.

    RunStarted
    for every stage, from the resumed one on:
        build the stage's model; carry over what was learned     StageStarted
        discovery waves, if any; callbacks.after_waves            Plastic
        until the stage ends:
            sentences of (seed, stage, step)
            micro-batches: loss, backward, gradients add up       Warned where memory takes only smaller ones
            healthy? clip, AdamW                                  Trained
            not?     skip, count (lattice.health)                 BadStep
            too many? back to the last good weights, once         RolledBack
            callbacks.after_step: rewire, decode, save            Rewired, Decoded, Saved
            steering: apply what the operator asked for, pause    Edited
            end rule met, or a stop asked for?
        callbacks.at_stage_end                                    StageEnded
    RunEnded (by whoever owns the process)

All state that decides what comes next is in the model, the optimizer and `Progress`; random numbers are drawn from streams
keyed by (seed, purpose, stage, pass).  So a checkpoint of the three resumes exactly; what can be changed on
the way (presets.live) is in the checkpoint, too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import time
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field, FiniteFloat, NonNegativeInt, TypeAdapter, ValidationError

from lattice import health, optimizers
from lattice.batches import Schedule, Sentences
from lattice.callbacks import Callback
from lattice.growth import carry_over
from lattice.kernels.sparse import TILE, Pattern, moved
from lattice.model import TextLattice, generator
from lattice.rewiring import rewire
from lattice.steering import Steering
from lattice.text.tokenizer import Tokenizer
from monitors import gauges
from monitors.events import AnyEvent, BadStep, Rewired, StageEnded, StageStarted, Trained, Warned
from presets.live import live_settings, with_settings
from presets.plan import StagePlan, plan
from presets.schema import RunConfig, Stage

PROFILE_RATE = {"discovery": 2.0, "learning": 1.0, "consolidation": 0.4, "freeze": 0.0}
"""Learning rate of the connections relative to the rest, by a stage's plasticity profile (the ratios of the seed's)."""

CONNECTIONS = "lattice.weights/"
"""Begins the names of what the optimizer keeps for connections."""


class TrainingFailed(RuntimeError):
    """Training can't go on; the message says why.  The last good checkpoint stands."""


@dataclass
class Progress:
    """Where a run is.  Plain numbers, saved in every checkpoint."""

    step: NonNegativeInt = 0
    """Optimizer steps done in the whole run, bad ones included."""
    stage: NonNegativeInt = 0
    stage_step: NonNegativeInt = 0
    waves: NonNegativeInt = 0
    """Discovery waves done in this stage."""
    stage_over: str = ""
    """Why the stage ended, once it has."""
    held: bool = False
    """The operator holds the stage: its end rule waits."""
    leave_for: NonNegativeInt | None = None
    """The stage that the operator wants next, at once."""
    edits: NonNegativeInt = 0
    """Commands applied so far; as many `edited` events of the log belong to this state."""
    bad_in_a_row: NonNegativeInt = 0
    rolled_back_at: NonNegativeInt | None = None
    """The step at which the run went back to earlier weights; it does so once."""
    losses_seen: NonNegativeInt = 0
    """Good steps that the two below are taken over (lattice.health)."""
    loss_mean: FiniteFloat = 0.0
    loss_variance: Annotated[FiniteFloat, Field(ge=0)] = 0.0
    micro_batch: NonNegativeInt | None = None
    """Sentences at once in this stage, where memory did not take the plan's."""
    loss: float | None = None
    bleu: float | None = None
    valid_loss: float | None = None
    best_bleu: float = -1.0
    best_valid_loss: float = math.inf
    looks_without_gain: NonNegativeInt = 0
    """Decodes of this stage since the held-out loss was last better than before."""
    elapsed_s: FiniteFloat = 0.0
    cpu_s: FiniteFloat = 0.0

    def following(self) -> int:
        """The stage that comes after this one; one past the last where none does."""
        return self.stage + 1 if self.leave_for is None else self.leave_for

    def finished(self, stages: int) -> bool:
        """True where nothing of a run of so many stages is left to train."""
        return bool(self.stage_over) and self.following() >= stages

    def as_json(self) -> dict:
        fields = dataclasses.asdict(self)
        fields["best_valid_loss"] = None if math.isinf(self.best_valid_loss) else self.best_valid_loss
        return fields

    @classmethod
    def from_json(cls, fields: dict) -> Progress:
        """Raises ValueError where a field is of another kind; unknown ones, a newer version's, are left out."""
        if not isinstance(fields, dict):
            raise ValueError("progress: is no object with its fields")
        known = {field.name for field in dataclasses.fields(cls)}
        given = {key: value for key, value in fields.items() if key in known}
        if given.get("best_valid_loss") is None:
            given.pop("best_valid_loss", None)
        try:
            return TypeAdapter(cls).validate_json(json.dumps(given), strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise ValueError(f"progress: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def learning_rate(config: RunConfig, step: int) -> float:
    """Rate of step `step` (from 0): linear warm-up, then a cosine over the whole run down to `final_share` of the peak."""
    section = config.optimizer
    warm = min(1.0, (step + 1) / section.warmup_steps) if section.warmup_steps else 1.0
    along = min(1.0, step / max(1, config.total_steps))
    cosine = section.final_share + (1 - section.final_share) * 0.5 * (1 + math.cos(math.pi * along))
    return section.learning_rate * warm * cosine


class Trainer:
    """Runs a config's stages.  `resume` continues from (model tensors, optimizer tensors, state) of a checkpoint."""

    def __init__(
        self,
        config: RunConfig,
        tokenizer: Tokenizer,
        train: Sentences,
        valid: Sentences,
        device: torch.device,
        callbacks: list[Callback],
    ) -> None:
        self.config, self.tokenizer, self.device, self.callbacks = config, tokenizer, device, callbacks
        self.train_sentences, self.valid_sentences = train, valid
        self.progress = Progress()
        self.stop_request: str | None = None
        """Set from outside (a signal handler, a command) to leave after the step in progress."""
        self.steering = Steering()
        self.plans: tuple[StagePlan, ...] = plan(config)
        # fp16 gradients underflow; the scaler is inert for the other precisions.
        self.scaler = torch.amp.GradScaler(device.type, init_scale=2.0**12, enabled=config.run.precision == "fp16")
        self.model = TextLattice(config, 0, tokenizer.vocabulary, device)
        self._build_optimizer()
        self._pruned = self.reach_sparsity()
        self._resumed = False
        self.trouble = ""
        """Why training can't go on from these weights, once that is known."""
        self.recovery: health.Recovery | None = None
        """Set by whoever keeps checkpoints: where to go back to then."""

    # The run

    def run(self) -> str:
        """Trains to the end of the last stage, or until `stop_request`; returns "finished" or "stopped".

        Raises TrainingFailed after too many bad steps in a row, where going back did not help or can't be done, and
        torch.OutOfMemoryError where not even one sentence at a time fits.
        """
        while True:
            reason = self.progress.stage_over or self._run_stage()
            if reason == "stopped":
                return "stopped"
            if self.progress.finished(len(self.config.stages)):
                return "finished"
            self._next_stage()

    def request_stop(self, reason: str) -> None:
        """Leave after the step in progress, or at once where paused.  Safe in a signal handler."""
        self.stop_request = reason
        self.steering.inbox.wake()

    def _run_stage(self) -> str:
        progress, stage = self.progress, self.stage
        self.emit(self._stage_started())
        if self._pruned is not None:
            self.emit(self._pruned)
            self._pruned = None
        batch, seed = self.config.training.batch, self.config.run.seed
        schedule = Schedule(len(self.train_sentences), stage.data_share, batch, seed, progress.stage)
        self._discover(schedule)
        while not (reason := self._over()):
            clock, cpu = time.perf_counter(), gauges.cpu_seconds()
            self.step(schedule.rows(progress.stage_step))
            progress.step += 1
            progress.stage_step += 1
            if self.trouble:
                self._recover(schedule)
            for callback in self.callbacks:
                callback.after_step(self)
            progress.elapsed_s += time.perf_counter() - clock
            progress.cpu_s += gauges.cpu_seconds() - cpu
            self.steering.at_boundary(self)
        if reason != "stopped":
            progress.stage_over = reason
            for callback in self.callbacks:
                callback.at_stage_end(self)
        self.emit(StageEnded(step=progress.step, stage=progress.stage, name=stage.name, reason=reason))
        return reason

    def _discover(self, schedule: Schedule) -> None:
        """The stage's waves: its first batches run through, and plasticity alone changes the connections.

        The optimizer knows nothing of it; the seconds count as the run's.
        """
        progress, lattice, config = self.progress, self.model.lattice, self.config
        if lattice is None or progress.waves >= self.stage.waves:
            return
        while progress.waves < self.stage.waves and not self.stop_request:
            clock, cpu = time.perf_counter(), gauges.cpu_seconds()
            rows = schedule.rows(progress.waves)[: config.plasticity.sentences]
            with torch.no_grad(), lattice.watched():
                self.model.slots(self.train_sentences.batch(rows, self.device)[0])
            lattice.learn(config.plasticity.rate * PROFILE_RATE["discovery"])
            progress.waves += 1
            progress.elapsed_s += time.perf_counter() - clock
            progress.cpu_s += gauges.cpu_seconds() - cpu
        if progress.waves == self.stage.waves:
            for callback in self.callbacks:
                callback.after_waves(self)

    def _over(self) -> str:
        """Why the stage ends here, or "" if it goes on."""
        stage, progress = self.stage, self.progress
        if progress.leave_for is not None:
            return "operator"
        if progress.held:
            return "stopped" if self.stop_request else ""
        if progress.stage_step >= stage.steps:
            return "steps"
        if None not in (stage.until_loss, progress.valid_loss) and progress.valid_loss <= stage.until_loss:
            return "loss"
        if stage.until_plateau is not None and progress.looks_without_gain >= stage.until_plateau:
            return "plateau"
        return "stopped" if self.stop_request else ""

    def _next_stage(self) -> None:
        progress, before = self.progress, self.model
        moments = self._optimizer_tensors()
        progress.stage, progress.leave_for, progress.held = progress.following(), None, False
        progress.stage_step, progress.waves, progress.stage_over, progress.looks_without_gain = 0, 0, "", 0
        progress.best_valid_loss, progress.valid_loss, progress.micro_batch = math.inf, None, None
        health.forget_losses(progress)
        self._grow(before, moments)

    def _grow(self, before: TextLattice, moments: dict[str, torch.Tensor]) -> None:
        """The model of this stage, from that of an earlier one."""
        self.model = TextLattice(self.config, self.progress.stage, self.tokenizer.vocabulary, self.device)
        carry_over(before, self.model)
        self._build_optimizer()
        self._pruned = self.reach_sparsity()
        # Moments of the size-free parts carry over; a lattice of another shape starts its own.
        self._load_optimizer_tensors(self._following_moments(moments, before))

    def _following_moments(self, moments: dict[str, torch.Tensor], before: TextLattice) -> dict[str, torch.Tensor]:
        """Those of connections go to where their connection is now, or are left out with those of another topology."""
        old, new = before.lattice, self.model.lattice
        if old is None or new is None:
            return moments
        own = {name.removeprefix(CONNECTIONS): value for name, value in moments.items() if name.startswith(CONNECTIONS)}
        rest = {name: value for name, value in moments.items() if not name.startswith(CONNECTIONS)}
        if old.topology == new.topology:
            kept = optimizers.moved(self.optimizer, own, old.weights.shape, lambda of: moved(of, old.pattern, new.pattern))
            rest |= {CONNECTIONS + name: value for name, value in kept.items()}
        return rest

    # One step

    def step(self, rows: list[int]) -> None:
        """One optimizer step on the given training sentences; does not advance `progress`."""
        progress, clock = self.progress, time.perf_counter()
        rate = learning_rate(self.config, self._schedule_position())
        for group in self.optimizer.param_groups:
            group["lr"] = rate * self._rate_of(group["part"])
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._gradients(rows)
        self.scaler.unscale_(self.optimizer)
        trainable = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = float(torch.nn.utils.clip_grad_norm_(trainable, self.config.optimizer.clip))
        progress.loss = loss if math.isfinite(loss) else None
        bad = health.why_bad(progress, loss, norm, self.config.training.spike_deviations)
        if not bad:
            self.scaler.step(self.optimizer)
            health.note_loss(progress, loss)
            if self.model.lattice is not None and self._plastic:
                self.model.lattice.learn(self.config.plasticity.rate * PROFILE_RATE[self.stage.profile])
            progress.bad_in_a_row = 0
        elif not self._finding_scale(loss, norm):
            self._bad_step(bad)
        if self.scaler.is_enabled():
            self.scaler.update()
        here = {"step": progress.step + 1, "stage": progress.stage}
        self.emit(Trained(loss=loss, grad_norm=norm, learning_rate=rate, step_s=time.perf_counter() - clock, **here))

    @property
    def _plastic(self) -> bool:
        return self.config.connections.learning in ("plastic", "hybrid") and self.stage.profile != "freeze"

    def _watched(self) -> contextlib.AbstractContextManager[None]:
        lattice = self.model.lattice
        return lattice.watched() if lattice is not None and self._plastic else contextlib.nullcontext()

    def _gradients(self, rows: list[int]) -> float:
        """As `_accumulate`; where memory runs out, again with half as many sentences at once, of the same batch."""
        while True:
            try:
                with self._watched():
                    return self._accumulate(rows)
            except torch.OutOfMemoryError:
                if self.micro_batch == 1:
                    raise
            # Out here, where the error no longer keeps the tensors of the failed attempt.
            self.optimizer.zero_grad(set_to_none=True)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self._halve_micro_batch()

    def _halve_micro_batch(self) -> None:
        progress, before = self.progress, self.micro_batch
        progress.micro_batch = before // 2
        told = f"out of memory with {before} sentences at once; going on with {self.micro_batch}, and the same batch a step"
        self.emit(Warned(step=progress.step, stage=progress.stage, message=told))

    def _accumulate(self, rows: list[int]) -> float:
        """Adds up the gradients of the mean loss over all target tokens of the batch; returns that loss in nats a token."""
        size = self.micro_batch
        parts = [self.train_sentences.batch(rows[i : i + size], self.device) for i in range(0, len(rows), size)]
        tokens = sum(int((ended != 0).sum()) for _, _, ended in parts)
        total = 0.0
        for part in parts:
            loss, _ = self.model.loss(*part)
            self.scaler.scale(loss / tokens).backward()
            total += loss.item()
        return total / tokens

    def _finding_scale(self, loss: float, norm: float) -> bool:
        """How the scaler of fp16 finds its scale: the step is skipped, the scale halved, and nothing is wrong."""
        overflown = math.isfinite(loss) and not math.isfinite(norm)
        return overflown and self.scaler.is_enabled() and self.scaler.get_scale() > 1

    def _bad_step(self, reason: str) -> None:
        progress = self.progress
        progress.bad_in_a_row += 1
        self.emit(BadStep(step=progress.step + 1, stage=progress.stage, reason=reason, in_a_row=progress.bad_in_a_row))
        if progress.bad_in_a_row >= self.config.training.bad_steps:
            self.trouble = f"{progress.bad_in_a_row} steps in a row were bad ({reason} at step {progress.step + 1})"

    def _recover(self, schedule: Schedule) -> None:
        """Back to good weights.  Raises TrainingFailed where there are none, or they were gone back to before."""
        before = self.progress.rolled_back_at
        if self.recovery is None or not self.recovery.go_back(self):
            again = "" if before is None else f", though the run went back to an earlier checkpoint at step {before}"
            raise TrainingFailed(f"{self.trouble}{again}; try a lower optimizer.learning_rate, or fp32")
        self.trouble = ""
        self._discover(schedule)  # only where that checkpoint is older than this stage

    def _schedule_position(self) -> int:
        """Steps along the learning-rate schedule: a stage that ended early leaves its rest out, a held one stands still."""
        done = sum(stage.steps for stage in self.config.stages[: self.progress.stage])
        return done + min(self.progress.stage_step, self.stage.steps)

    # Steering

    def reconfigure(self, config: RunConfig) -> None:
        """Goes on with an edited config, between two steps.

        What the lattice keeps of the current stage (profile, sparsity, plasticity) is changed here, all else where it is read.
        """
        before, self.config = self.stage, config
        self.plans = plan(config)
        health.forget_losses(self.progress)
        lattice = self.model.lattice
        if lattice is None:
            return
        if lattice.plasticity is not None:
            lattice.plasticity.configure(config.plasticity, self.stage.activity_threshold)
        changed = self.reach_sparsity()
        if changed is not None:
            self.emit(changed)
        if self.stage.profile != before.profile and "freeze" in (self.stage.profile, before.profile):
            moments = self._optimizer_tensors()
            lattice.weights.requires_grad_(
                config.connections.learning in ("gradient", "hybrid") and self.stage.profile != "freeze"
            )
            lattice.weights.grad = None
            self._build_optimizer()
            self._load_optimizer_tensors(moments)

    # Connections

    def reach_sparsity(self) -> Rewired | None:
        """Prunes or regrows to what the stage asks for by now, by the weights as they are; returns what came of it, if so."""
        lattice = self.model.lattice
        return rewire(self, self.stage.kept(self.progress.stage_step)) if lattice is not None else None

    def rewire(self, pattern: Pattern | None) -> None:
        """The lattice goes over to another pattern of connections; their moments follow, or start anew."""
        lattice, progress = self.model.lattice, self.progress
        before, shape = lattice.pattern, lattice.weights.shape
        lattice.rewire(pattern, generator(self.config.run.seed, "signs", progress.stage, progress.stage_step))
        if state := self.optimizer.state.get(lattice.weights):
            state = optimizers.moved(self.optimizer, state, shape, lambda of: moved(of, before, pattern))
            self.optimizer.state[lattice.weights] = state

    # State

    @property
    def stage(self) -> Stage:
        return self.config.stages[self.progress.stage]

    @property
    def plan(self) -> StagePlan:
        return self.plans[self.progress.stage]

    @property
    def micro_batch(self) -> int:
        """Sentences held in memory at once."""
        planned = self.plan.micro_batch
        return min(self.progress.micro_batch or planned, planned)

    def emit(self, event: AnyEvent) -> None:
        for callback in self.callbacks:
            callback.on_event(event)

    def tensors(self) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """(model, optimizer) tensors by name, for a checkpoint."""
        return self.model.state_dict(), self._optimizer_tensors()

    def state(self) -> dict:
        """Everything else a checkpoint needs, as JSON."""
        live = live_settings(self.config)
        return {"progress": self.progress.as_json(), "scaler": self.scaler.state_dict(), "live": live}

    def resume(self, model: dict[str, torch.Tensor], optimizer: dict[str, torch.Tensor], state: dict) -> None:
        """Continues from a checkpoint.  Raises ValueError where its tensors do not fit the config."""
        progress = Progress.from_json(state["progress"])
        if progress.stage >= len(self.config.stages):
            raise ValueError(
                f"the checkpoint is of stage {progress.stage}, and the config has {len(self.config.stages)} stages"
            )
        self.progress = progress
        self.config = with_settings(self.config, state.get("live", {}))
        self.plans = plan(self.config)
        self.model = TextLattice(self.config, self.progress.stage, self.tokenizer.vocabulary, self.device)
        load_model(self.model, model)
        self._build_optimizer()
        self._load_optimizer_tensors(optimizer)
        if state["scaler"]:  # empty where the checkpoint was not trained in fp16
            self.scaler.load_state_dict(state["scaler"])
        self._resumed, self._pruned = True, None

    def go_back(self, model: dict[str, torch.Tensor], optimizer: dict[str, torch.Tensor], state: dict) -> None:
        """Takes the weights and moments of an earlier checkpoint of this run; settings, steps and data go on from here.

        Where it is of an earlier stage, its lattice grows into this one anew.  Raises ValueError where it does not fit.
        """
        progress, stage = self.progress, Progress.from_json(state["progress"]).stage
        self.optimizer.zero_grad(set_to_none=True)
        self.optimizer.state.clear()  # room for the model that comes
        self.model = TextLattice(self.config, stage, self.tokenizer.vocabulary, self.device)
        load_model(self.model, model)
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        if stage != progress.stage:
            progress.waves = 0
            self._grow(self.model, optimizer)
        else:
            self._build_optimizer()
            self._load_optimizer_tensors(optimizer)
            self._pruned = self.reach_sparsity()
        if self._pruned is not None:
            self.emit(self._pruned)
            self._pruned = None
        health.forget_losses(progress)

    def _build_optimizer(self) -> None:
        section, lattice = self.config.optimizer, self.model.lattice
        own = {id(p) for p in lattice.parameters()} if lattice is not None else set()
        trainable = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        connections = [p for _, p in trainable if lattice is not None and p is lattice.weights]
        cells = [p for _, p in trainable if id(p) in own and p is not lattice.weights]
        ports = [p for name, p in trainable if name.startswith(("input_port.", "output_port."))]
        text = [p for name, p in trainable if name.startswith(("encoder.", "decoder."))]
        groups = [
            {"params": text, "part": "text", "weight_decay": section.weight_decay},
            {"params": ports, "part": "ports", "weight_decay": section.weight_decay},
            {"params": cells, "part": "cells", "weight_decay": 0.0},
            {"params": connections, "part": "connections", "weight_decay": 0.0},
        ]
        self._names = {id(p): name for name, p in trainable}
        self.optimizer = optimizers.build(self.config, self.stage, groups)

    def _rate_of(self, part: str) -> float:
        """Learning rate of a part of the model relative to the schedule's."""
        section = self.config.optimizer
        rates = {"text": 1.0, "ports": section.port_rate, "cells": section.cell_rate}
        return rates[part] if part in rates else PROFILE_RATE[self.stage.profile]

    def _optimizer_tensors(self) -> dict[str, torch.Tensor]:
        return {
            f"{self._names[id(p)]}/{key}": value for p, state in self.optimizer.state.items() for key, value in state.items()
        }

    def _load_optimizer_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        """Takes what was kept for parameters that exist here, where this optimizer keeps the same of them."""
        for group in self.optimizer.param_groups:
            for p in group["params"]:
                expected = optimizers.layout(self.optimizer, group["part"], p)
                found = {key: tensors.get(f"{self._names[id(p)]}/{key}") for key in expected}
                if all(value is not None and (value.shape, value.dtype) == expected[key] for key, value in found.items()):
                    self.optimizer.state[p] = {key: value.clone().to(p.device) for key, value in found.items()}

    def _stage_started(self) -> StageStarted:
        stage, planned = self.stage, self.plan
        return StageStarted(
            step=self.progress.step,
            stage=self.progress.stage,
            name=stage.name,
            shape=stage.shape,
            cells=planned.cells,
            ticks=stage.ticks,
            kernel=self.model.kernel_line,
            plan_bytes=planned.total_bytes,
            micro_batch=self.micro_batch,
            accumulation=-(-self.config.training.batch // self.micro_batch),
            carried=self.progress.stage > 0 or self._resumed,
        )


def load_model(model: TextLattice, tensors: dict[str, torch.Tensor]) -> None:
    """Loads a checkpoint's tensors into a model of the same config.  Raises ValueError naming what does not fit."""
    index = tensors.get("lattice.index")
    if model.lattice is not None and index is not None:
        offsets, (x, y, z) = len(model.lattice.topology.offsets), model.lattice.topology.shape
        if tuple(index.shape[1:]) != (x, y, -(-z // TILE)) or index.dtype != torch.uint8 or int(index.max()) >= offsets:
            raise ValueError("the checkpoint does not fit this config: lattice.index is of another lattice")
        device = model.lattice.weights.device
        model.lattice.become(torch.empty(len(index), x, y, z, device=device), Pattern(index.to(device), offsets))
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"the checkpoint does not fit this config: {str(error).splitlines()[-1].strip()}") from error
