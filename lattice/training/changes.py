"""Changes of a training state other than its steps.

enter_next_stage   a stage ends, and the model grows into the shape of the next one
reconfigure        the operator edits the config between two steps
resume             a run continues from a checkpoint
go_back            a run takes the weights of an earlier checkpoint of its own
wound              the operator destroys a part of the lattice
heal               what was destroyed grows again
reach_sparsity     connections are pruned or regrown until the stage's sparsity is reached
"""

from __future__ import annotations

from collections.abc import Iterator

from lattice.healing import waves, wounding
from lattice.healing.regrowth import regrow, smooth
from lattice.model.growth import carry_over
from lattice.model.text_lattice import TextLattice, load_model
from lattice.optimizers import moments
from lattice.random_streams import generator, key
from lattice.training import micro_batch
from lattice.training.progress import Progress
from lattice.training.rewiring import rewire
from lattice.training.state import Tensors, TrainingState
from monitors.events import Rewired
from presets.control_commands import HealArguments
from presets.live import with_settings
from presets.schema import RunConfig
from presets.wound import Wound, parse


def reach_sparsity(state: TrainingState) -> Rewired | None:
    """Prunes or regrows connections to the sparsity that the stage wants at its present step.

    Returns the event, which is not yet emitted.  Returns None if nothing had to change or there is no lattice.
    """
    return rewire(state, state.stage.kept(state.progress.stage_step)) if state.model.lattice is not None else None


def enter_next_stage(state: TrainingState) -> None:
    """Enters the following stage and carries over what was learned."""
    kept = moments.named(state.optimizer, state.model)
    state.progress.enter_following()
    _grow(state, state.model, kept)


def _grow(state: TrainingState, before: TextLattice, kept: Tensors) -> None:
    """Builds the model of the present stage from the model `before` of an earlier one, whose moments are `kept`."""
    state.use_model(state.new_model(state.progress.stage))
    carry_over(before, state.model)
    state.use_optimizer({})
    state.tell_at_stage_start(reach_sparsity(state))
    kept = moments.grown(state.optimizer, kept, before.lattice, state.model.lattice)
    moments.load(state.optimizer, state.model, kept)


def reconfigure(state: TrainingState, config: RunConfig) -> None:
    """Goes on with an edited config.  Must be called between two steps.

    The lattice keeps its own copy of the stage's profile, sparsity and plasticity, so these are changed here.  All other
    settings are read from the config whenever they are used.
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


def wound(state: TrainingState, what: Wound) -> None:
    """Wounds the lattice.

    Chance is drawn by seed, step and the number of edits so far.  Raises ValueError if the wound does not fit the lattice.
    """
    progress = state.progress
    stream = generator(state.config.run.seed, "wound", progress.step, progress.edits)
    wounding.wound(state.lattice, what, stream)
    progress.note_wounds((*progress.wounds, str(what)))
    progress.forget_losses()


def heal(state: TrainingState, how: HealArguments) -> Iterator[waves.Wave]:
    """Heals all wounds.  Yields after each wave of STDP; ends early if a stop is requested.

    What is lost stays marked until healing has settled, so that more waves can follow; by neighbours, what no neighbour shows
    stays marked.  Raises NothingFires, with nothing changed, if STDP has to heal and no cell fires.
    """
    progress, lattice = state.progress, state.lattice
    if how.by == "neighbours":
        regrow(lattice)
        if not all(parse(text).destroys for text in progress.wounds):
            smooth(lattice)
        progress.forget_losses()
        if lattice.lost is None:
            progress.note_wounds(())
        return
    seed = key(state.config.run.seed, "heal", progress.step, progress.edits)
    for wave in waves.heal(state.model, state.train_sentences, lattice.lost, seed, state.micro_batch, how.waves):
        progress.forget_losses()
        if wave.settled:
            lattice.lose(None)
            progress.note_wounds(())
        yield wave
        if state.stop_request:
            return


def resume(state: TrainingState, model: Tensors, optimizer: Tensors, saved: dict) -> None:
    """Continues a run from a checkpoint: its tensors `model` and `optimizer`, and `saved`, the rest of its state as JSON.

    Raises ValueError if the checkpoint does not fit the config.
    """
    progress = Progress.from_json(saved["progress"])
    if progress.stage >= len(state.config.stages):
        raise ValueError(f"the checkpoint is of stage {progress.stage}, and the config has {len(state.config.stages)} stages")
    state.use_progress(progress)
    state.use_config(with_settings(state.config, saved.get("live", {})))
    _load(state, progress.stage, model, saved["scaler"])
    state.use_optimizer(optimizer)


def go_back(state: TrainingState, model: Tensors, optimizer: Tensors, saved: dict) -> None:
    """Takes the weights and moments of an earlier checkpoint of this run.  Settings, steps and data go on from here.

    If the checkpoint is of an earlier stage, its lattice grows into the present stage anew.  Arguments are those of `resume`.
    Raises ValueError if the checkpoint does not fit the config.
    """
    progress, earlier = state.progress, Progress.from_json(saved["progress"])
    state.optimizer.zero_grad(set_to_none=True)
    state.optimizer.state.clear()  # makes room for the model that is loaded next
    _load(state, earlier.stage, model, saved["scaler"])
    progress.note_wounds(earlier.wounds if earlier.stage == progress.stage else ())
    if earlier.stage != progress.stage:
        progress.waves_again()
        _grow(state, state.model, optimizer)
        state.tell_unsaid()
    else:
        state.use_optimizer(optimizer)
        if (changed := reach_sparsity(state)) is not None:
            state.tell(changed)
    progress.forget_losses()


def _load(state: TrainingState, stage: int, tensors: Tensors, scaler: dict) -> None:
    """Builds the model of a stage and loads the saved tensors into it."""
    model = state.new_model(stage)
    state.use_model(model)
    load_model(model, tensors)
    if scaler:  # empty if the checkpoint was not trained in fp16
        state.scaler.load_state_dict(scaler)
