"""What changes a training state on its way, beside its steps.

enter_next_stage   a stage ends: the model grows into the next one's shape
reconfigure        the operator edits the config, between two steps
resume             a run continues from a checkpoint
go_back            a run takes up the weights of an earlier checkpoint
reach_sparsity     connections are pruned or come back, as the stage asks
"""

from __future__ import annotations

from lattice.model.growth import carry_over
from lattice.model.text_lattice import TextLattice, load_model
from lattice.optimizers import moments
from lattice.training import micro_batch
from lattice.training.progress import Progress
from lattice.training.rewiring import rewire
from lattice.training.state import Tensors, TrainingState
from monitors.events import Rewired
from presets.live import with_settings
from presets.schema import RunConfig


def reach_sparsity(state: TrainingState) -> Rewired | None:
    """Prunes or regrows to what the stage asks for by now, by the weights as they are; returns what came of it, if so."""
    return rewire(state, state.stage.kept(state.progress.stage_step)) if state.model.lattice is not None else None


def enter_next_stage(state: TrainingState) -> None:
    """Into the stage that comes, with what was learned."""
    kept = moments.named(state.optimizer, state.model)
    state.progress.enter_following()
    _grow(state, state.model, kept)


def _grow(state: TrainingState, before: TextLattice, kept: Tensors) -> None:
    """The model of this stage, from that of an earlier one and what its optimizer kept."""
    state.use_model(state.new_model(state.progress.stage))
    carry_over(before, state.model)
    state.use_optimizer({})
    state.tell_at_stage_start(reach_sparsity(state))
    kept = moments.grown(state.optimizer, kept, before.lattice, state.model.lattice)
    moments.load(state.optimizer, state.model, kept)


def reconfigure(state: TrainingState, config: RunConfig) -> None:
    """Goes on with an edited config, between two steps.

    What the lattice keeps of the current stage (profile, sparsity, plasticity) is changed here, all else where it is read.
    """
    before = state.stage
    state.use_config(config)
    micro_batch.follow_plan(state)
    state.progress.forget_losses()
    lattice = state.model.lattice
    if lattice is None:
        return
    if lattice.plasticity is not None:
        lattice.plasticity.configure(config.plasticity, state.stage.activity_threshold)
    changed = reach_sparsity(state)
    if changed is not None:
        state.tell(changed)
    if state.stage.profile != before.profile and "freeze" in (state.stage.profile, before.profile):
        kept = moments.named(state.optimizer, state.model)
        lattice.connections_learn(config.connections.learning in ("gradient", "hybrid") and state.stage.profile != "freeze")
        state.use_optimizer(kept)


def resume(state: TrainingState, model: Tensors, optimizer: Tensors, saved: dict) -> None:
    """Continues from a checkpoint.  Raises ValueError if its tensors do not fit the config."""
    progress = Progress.from_json(saved["progress"])
    if progress.stage >= len(state.config.stages):
        raise ValueError(f"the checkpoint is of stage {progress.stage}, and the config has {len(state.config.stages)} stages")
    state.use_progress(progress)
    state.use_config(with_settings(state.config, saved.get("live", {})))
    _load(state, progress.stage, model, saved["scaler"])
    state.use_optimizer(optimizer)


def go_back(state: TrainingState, model: Tensors, optimizer: Tensors, saved: dict) -> None:
    """Takes the weights and moments of an earlier checkpoint of this run; settings, steps and data go on from here.

    If that checkpoint is of an earlier stage, its lattice grows into this one anew.  Raises ValueError if it does not fit.
    """
    progress, stage = state.progress, Progress.from_json(saved["progress"]).stage
    state.optimizer.zero_grad(set_to_none=True)
    state.optimizer.state.clear()  # room for the model that comes
    _load(state, stage, model, saved["scaler"])
    if stage != progress.stage:
        progress.waves_again()
        _grow(state, state.model, optimizer)
        state.tell_unsaid()
    else:
        state.use_optimizer(optimizer)
        if (changed := reach_sparsity(state)) is not None:
            state.tell(changed)
    progress.forget_losses()


def _load(state: TrainingState, stage: int, tensors: Tensors, scaler: dict) -> None:
    """The model of a stage as it was saved."""
    model = state.new_model(stage)
    state.use_model(model)
    load_model(model, tensors)
    if scaler:  # empty if the checkpoint was not trained in fp16
        state.scaler.load_state_dict(scaler)
