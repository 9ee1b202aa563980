"""The training loop.

    RunStarted
    for every stage, from the resumed one on:
        build the stage's model; carry over what was learned      StageStarted
        discovery waves, if any; callbacks.after_waves            Plastic
        until the stage ends (lattice.training.progress):
            sentences of (seed, stage, step), rates of the step
            micro-batches: loss, backward, gradients add up       Warned where memory takes only smaller ones
            clip; healthy? the optimizer, then plasticity         Trained
            not? skip, count (lattice.training.health)                     BadStep
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

import math
import time
from collections.abc import Callable

import torch

from lattice import optimizers
from lattice.data.batches import Schedule, Sentences
from lattice.data.tokenizer import Tokenizer
from lattice.kernels import pages
from lattice.model.growth import carry_over
from lattice.model.text_lattice import TextLattice, load_model
from lattice.optimizers import moments
from lattice.optimizers.clipping import clip
from lattice.training import health, micro_batch
from lattice.training.callbacks import Callback
from lattice.training.discovery import discover
from lattice.training.gradients import finding_scale, gradients
from lattice.training.learning_rate import PROFILE_RATE, set_rates
from lattice.training.progress import Progress
from lattice.training.rewiring import rewire
from lattice.training.steering import Steering
from monitors import gauges
from monitors.events import AnyEvent, Rewired, StageEnded, StageStarted, Trained
from presets.live import live_settings, with_settings
from presets.plan import StagePlan, on_device, plan
from presets.schema import RunConfig, Stage


class TrainingFailed(RuntimeError):
    """Training can't go on; the message says why.  The last good checkpoint stands."""


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
        planning: Callable[[RunConfig, str | None], tuple[StagePlan, ...]] | None = None,
    ) -> None:
        self.config, self.tokenizer, self.device, self.callbacks = config, tokenizer, device, callbacks
        self.train_sentences, self.valid_sentences = train, valid
        self.progress = Progress()
        self.stop_request: str | None = None
        """Set from outside (a signal handler, a command) to leave after the step in progress."""
        self.steering = Steering()
        self._plan = planning or plan
        # fp16 gradients underflow; the scaler is inert for the other precisions.
        self.scaler = torch.amp.GradScaler(device.type, init_scale=2.0**12, enabled=config.run.precision == "fp16")
        self.model = TextLattice(config, 0, tokenizer.vocabulary, device)
        self.plans: tuple[StagePlan, ...] = self.planning(config)
        self.optimizer = optimizers.build(config, self.stage, self.model)
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
        micro_batch.choose(self)
        self.emit(self._stage_started())
        if self._pruned is not None:
            self.emit(self._pruned)
            self._pruned = None
        batch, seed = self.config.training.batch, self.config.run.seed
        schedule = Schedule(len(self.train_sentences), stage.data_share, batch, seed, progress.stage)
        discover(self, schedule)
        while not (reason := progress.why_over(self.stage) or ("stopped" if self.stop_request else "")):
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
        pages.MAPPINGS.release()  # what follows, if anything, is of another size
        if reason != "stopped":
            progress.stage_over = reason
            for callback in self.callbacks:
                callback.at_stage_end(self)
        self.emit(StageEnded(step=progress.step, stage=progress.stage, name=stage.name, reason=reason))
        return reason

    def _next_stage(self) -> None:
        kept = moments.named(self.optimizer, self.model)
        self.progress.enter_following()
        health.forget_losses(self.progress)
        self._grow(self.model, kept)

    def _grow(self, before: TextLattice, kept: dict[str, torch.Tensor]) -> None:
        """The model of this stage, from that of an earlier one and what its optimizer kept."""
        self.model = TextLattice(self.config, self.progress.stage, self.tokenizer.vocabulary, self.device)
        carry_over(before, self.model)
        self.optimizer = optimizers.build(self.config, self.stage, self.model)
        self._pruned = self.reach_sparsity()
        kept = moments.grown(self.optimizer, kept, before.lattice, self.model.lattice)
        moments.load(self.optimizer, self.model, kept)

    # One step

    def step(self, rows: list[int]) -> None:
        """One optimizer step on the given training sentences; does not advance `progress`."""
        progress, clock = self.progress, time.perf_counter()
        rate = set_rates(self.optimizer, self.config, progress)
        self.optimizer.zero_grad(set_to_none=True)
        loss = gradients(self, rows)
        self.scaler.unscale_(self.optimizer)
        trainable = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = clip(trainable, self.config.optimizer.clip)
        progress.loss = loss if math.isfinite(loss) else None
        bad = health.why_bad(progress, loss, norm, self.config.training.spike_deviations)
        if not bad:
            self.scaler.step(self.optimizer, finite=True)
            health.note_loss(progress, loss)
            if self.model.lattice is not None and self.plastic:
                self.model.lattice.learn(self.config.plasticity.rate * PROFILE_RATE[self.stage.profile])
            progress.bad_in_a_row = 0
        elif not finding_scale(self.scaler, loss, norm):
            health.note_bad(self, bad)
        if self.scaler.is_enabled():
            self.scaler.update()
        here = {"step": progress.step + 1, "stage": progress.stage}
        self.emit(Trained(loss=loss, grad_norm=norm, learning_rate=rate, step_s=time.perf_counter() - clock, **here))

    def _recover(self, schedule: Schedule) -> None:
        """Back to good weights.  Raises TrainingFailed where there are none, or they were gone back to before."""
        before = self.progress.rolled_back_at
        if self.recovery is None or not self.recovery.go_back(self):
            again = "" if before is None else f", though the run went back to an earlier checkpoint at step {before}"
            raise TrainingFailed(f"{self.trouble}{again}; try a lower optimizer.learning_rate, or fp32")
        self.trouble = ""
        discover(self, schedule)  # only where that checkpoint is older than this stage

    # Steering

    def reconfigure(self, config: RunConfig) -> None:
        """Goes on with an edited config, between two steps.

        What the lattice keeps of the current stage (profile, sparsity, plasticity) is changed here, all else where it is read.
        """
        before, self.config = self.stage, config
        self.plans = self.planning(config)
        micro_batch.follow_plan(self)
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
            kept = moments.named(self.optimizer, self.model)
            lattice.weights.requires_grad_(
                config.connections.learning in ("gradient", "hybrid") and self.stage.profile != "freeze"
            )
            lattice.weights.grad = None
            self._build_optimizer(kept)

    def reach_sparsity(self) -> Rewired | None:
        """Prunes or regrows to what the stage asks for by now, by the weights as they are; returns what came of it, if so."""
        lattice = self.model.lattice
        return rewire(self, self.stage.kept(self.progress.stage_step)) if lattice is not None else None

    # State

    @property
    def stage(self) -> Stage:
        return self.config.stages[self.progress.stage]

    @property
    def plan(self) -> StagePlan:
        return self.plans[self.progress.stage]

    def planning(self, config: RunConfig) -> tuple[StagePlan, ...]:
        """Plans of a config's stages, for the device and the kernel that run."""
        return self._plan(on_device(config, self.device.type), self.kernel_name)

    @property
    def kernel_name(self) -> str | None:
        """The kernel that runs, as presets.plan names it; None where there is no lattice."""
        lattice = self.model.lattice
        return None if lattice is None else lattice.kernel.name if lattice.kernel is not None else "reference"

    @property
    def micro_batch(self) -> int:
        """Sentences held in memory at once."""
        return self.progress.micro_batch or self.plan.micro_batch

    @property
    def checkpoint_ticks(self) -> int:
        """Ticks of a segment of which only the first state is kept; 0 keeps all."""
        chosen = self.progress.checkpoint_ticks
        return self.plan.checkpoint_ticks if chosen is None else chosen

    @property
    def plastic(self) -> bool:
        """True where the stage's connections learn by local rules, alone or beside the gradient."""
        return self.config.connections.learning in ("plastic", "hybrid") and self.stage.profile != "freeze"

    def emit(self, event: AnyEvent) -> None:
        for callback in self.callbacks:
            callback.on_event(event)

    def tensors(self) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """(model, optimizer) tensors by name, for a checkpoint."""
        return self.model.state_dict(), moments.named(self.optimizer, self.model)

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
        self._load(progress.stage, model, state["scaler"])
        self.plans = self.planning(self.config)
        self._build_optimizer(optimizer)
        self._resumed, self._pruned = True, None

    def go_back(self, model: dict[str, torch.Tensor], optimizer: dict[str, torch.Tensor], state: dict) -> None:
        """Takes the weights and moments of an earlier checkpoint of this run; settings, steps and data go on from here.

        Where it is of an earlier stage, its lattice grows into this one anew.  Raises ValueError where it does not fit.
        """
        progress, stage = self.progress, Progress.from_json(state["progress"]).stage
        self.optimizer.zero_grad(set_to_none=True)
        self.optimizer.state.clear()  # room for the model that comes
        self._load(stage, model, state["scaler"])
        if stage != progress.stage:
            progress.waves = 0
            self._grow(self.model, optimizer)
        else:
            self._build_optimizer(optimizer)
            self._pruned = self.reach_sparsity()
        if self._pruned is not None:
            self.emit(self._pruned)
            self._pruned = None
        health.forget_losses(progress)

    def _load(self, stage: int, tensors: dict[str, torch.Tensor], scaler: dict) -> None:
        """The model of a stage as it was saved."""
        self.model = TextLattice(self.config, stage, self.tokenizer.vocabulary, self.device)
        load_model(self.model, tensors)
        if scaler:  # empty where the checkpoint was not trained in fp16
            self.scaler.load_state_dict(scaler)

    def _build_optimizer(self, kept: dict[str, torch.Tensor]) -> None:
        """An optimizer for what is trained of the model now, with the moments that it keeps, too."""
        self.optimizer = optimizers.build(self.config, self.stage, self.model)
        moments.load(self.optimizer, self.model, kept)

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
            checkpoint_ticks=self.checkpoint_ticks,
            learned_bytes=planned.lesson.peak_bytes if planned.lesson else None,
            learned_from=planned.lesson.runs if planned.lesson else 0,
            carried=self.progress.stage > 0 or self._resumed,
        )
