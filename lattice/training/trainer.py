"""The training loop.

    RunStarted
    for every stage, from the resumed one on:
        build the stage's model; carry over what was learned      StageStarted
        connections grow, if they are to start so                 Plastic
        discovery waves, if any; callbacks.after_waves            Plastic
        until the stage ends (training.progress):
            sentences of (seed, stage, step), rates of the step
            micro-batches: loss, backward, gradients add up       Warned if memory takes only smaller ones
            clip; healthy? the optimizer, then plasticity         Trained
            not? skip, count (training.health)                    BadStep
            too many? back to the last good weights, once         RolledBack
            callbacks.after_step: rewire, decode, save            Rewired, Decoded, Saved
            steering: apply what the operator asked for, pause    Edited
            end rule met, or a stop asked for?
        callbacks.at_stage_end                                    StageEnded
    RunEnded (by whoever owns the process)

Model, optimizer and `Progress` decide everything that comes next.  Random numbers come from streams that are keyed by seed,
purpose, stage, and step or pass.  So a run resumes exactly from a checkpoint of these three.  Settings that can change during
a run (presets.live) are in the checkpoint, too.
"""

from __future__ import annotations

import time

from lattice.data.batches import Schedule
from lattice.healing.waves import NothingFires
from lattice.kernels import pages
from lattice.optimizers.clipping import clip
from lattice.training import changes, health, micro_batch
from lattice.training.callbacks import Callbacks
from lattice.training.discovery import discover, grow
from lattice.training.gradients import finding_scale, gradients
from lattice.training.learning_rate import PROFILE_RATE, set_rates
from lattice.training.state import TrainingState
from lattice.training.steering import Steering
from monitors import gauges
from monitors.events import StageEnded, StageStarted, Trained


class TrainingFailed(RuntimeError):
    """Training can't go on.  The message says why.  Checkpoints stay as they are."""


class Trainer:
    """Runs the training loop on a state.

    `recovery` takes the run back to an earlier checkpoint if its weights go bad.  If it is None, training fails instead.
    """

    def __init__(self, state: TrainingState, callbacks: Callbacks, recovery: health.Recovery | None = None) -> None:
        self.state, self.callbacks, self._recovery = state, callbacks, recovery
        self._steering = Steering(callbacks)

    def run(self) -> str:
        """Trains to the end of the last stage, or until a stop is requested.  Returns "finished" or "stopped".

        Raises TrainingFailed if too many steps in a row are bad or a weight is not finite, and if going back to a checkpoint
        did not help or can't be done.  Raises torch.OutOfMemoryError if not even one sentence at a time fits.
        """
        state = self.state
        while True:
            reason = state.progress.stage_over or self._run_stage()
            if reason == "stopped":
                return "stopped"
            if state.progress.finished(len(state.config.stages)):
                return "finished"
            changes.enter_next_stage(state)

    def _run_stage(self) -> str:
        state, progress, stage = self.state, self.state.progress, self.state.stage
        micro_batch.choose(state)
        state.tell(self._stage_started())
        state.tell_unsaid()
        batch, seed = state.config.training.batch, state.config.run.seed
        schedule = Schedule(len(state.train_sentences), stage.data_share, batch, seed, progress.stage)
        self._discover(schedule)
        while not (reason := progress.why_over(state.stage) or ("stopped" if state.stop_request else "")):
            clock, cpu = time.perf_counter(), gauges.cpu_seconds()
            self.step(schedule.rows(progress.stage_step))
            progress.advance()
            if state.trouble:
                self._recover(schedule)
            self.callbacks.after_step(state)
            progress.spend(time.perf_counter() - clock, gauges.cpu_seconds() - cpu)
            self._steering.at_boundary(state)
        pages.MAPPINGS.release()  # if another stage follows, its tensors have other sizes
        if reason != "stopped":
            progress.end_stage(reason)
            self.callbacks.at_stage_end(state)
        state.tell(StageEnded(name=stage.name, reason=reason, **state.here))
        return reason

    def _discover(self, schedule: Schedule) -> None:
        try:
            grow(self.state)
        except NothingFires:
            raise TrainingFailed("no cell fires, so no connection can grow; use connections.start=drawn") from None
        if discover(self.state, schedule):
            self.callbacks.after_waves(self.state)

    def step(self, rows: list[int]) -> None:
        """Does one optimizer step on the training sentences `rows`.  Does not advance `progress`."""
        state, progress, clock = self.state, self.state.progress, time.perf_counter()
        rate = set_rates(state.optimizer, state.config, progress)
        state.optimizer.zero_grad(set_to_none=True)
        loss = gradients(state, rows)
        state.scaler.unscale_(state.optimizer)
        trainable = [p for group in state.optimizer.param_groups for p in group["params"]]
        norm = clip(trainable, state.config.optimizer.clip)
        progress.note_step(loss)
        bad = health.why_bad(progress, loss, norm, state.config.training.spike_deviations)
        if not bad:
            state.scaler.step(state.optimizer, finite=True)
            progress.note_good(loss)
            if state.model.lattice is not None and state.plastic:
                state.model.lattice.learn(state.config.plasticity.rate * PROFILE_RATE[state.stage.profile])
            progress.end_bad_steps()
        elif not finding_scale(state.scaler, loss, norm):
            health.note_bad(state, bad)
        if state.scaler.is_enabled():
            state.scaler.update()
        here = {"step": progress.step + 1, "stage": progress.stage}
        state.tell(Trained(loss=loss, grad_norm=norm, learning_rate=rate, step_s=time.perf_counter() - clock, **here))

    def _recover(self, schedule: Schedule) -> None:
        """Goes back to good weights.  Raises TrainingFailed if there are none, or if the run went back before."""
        state, before = self.state, self.state.progress.rolled_back_at
        if self._recovery is None or not self._recovery.go_back(state):
            again = "" if before is None else f", though the run went back to an earlier checkpoint at step {before}"
            raise TrainingFailed(f"{state.trouble}{again}; try a lower optimizer.learning_rate, or fp32")
        state.out_of_trouble()
        self._discover(schedule)  # does something only if that checkpoint is older than this stage

    def _stage_started(self) -> StageStarted:
        state, stage, planned = self.state, self.state.stage, self.state.plan
        return StageStarted(
            name=stage.name,
            shape=stage.shape,
            cells=planned.cells,
            ticks=stage.ticks,
            kernel=state.model.kernel_line,
            plan_bytes=planned.total_bytes,
            micro_batch=state.micro_batch,
            accumulation=-(-state.config.training.batch // state.micro_batch),
            checkpoint_ticks=state.checkpoint_ticks,
            learned_bytes=planned.lesson.peak_bytes if planned.lesson else None,
            learned_from=planned.lesson.runs if planned.lesson else 0,
            carried=state.progress.stage > 0 or state.resumed,
            **state.here,
        )
