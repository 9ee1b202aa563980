"""The training state: everything that decides the next step of a run.

    config, tokenizer, sentences, device        what was asked for
    progress                                    where the run is
    model, optimizer, scaler                    what has been learned
    plans                                       the memory that the stages take
    trouble, stop_request                       why training can't or must not go on

Callbacks and functions of this package take a state.  They tell it what happened by its methods and by those of `progress`.
The functions that replace the config, the model or the optimizer during a run are in `training.changes`.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch

from lattice import optimizers
from lattice.data.batches import TokenizedCorpus
from lattice.model.lattice3d import Lattice
from lattice.model.text_lattice import TextLattice
from lattice.optimizers import moments
from lattice.training.inbox import Inbox
from lattice.training.progress import Progress
from monitors.events import AnyEvent, Rewired, Warned
from presets.live import live_settings
from presets.plan import Planning, StagePlan, on_device, plan
from presets.schema import RunConfig
from presets.stage import Stage

Tensors = dict[str, torch.Tensor]


class Listeners(Protocol):
    """What a state informs of its events and looks (training.callbacks.Callbacks)."""

    def on_event(self, event: AnyEvent) -> None: ...
    def after_look(self, state: TrainingState, change: torch.Tensor | None) -> None: ...


class TrainingState:
    """The state of a run.  It starts with the first stage's model, dense and untrained."""

    def __init__(
        self,
        config: RunConfig,
        text: TokenizedCorpus,
        device: torch.device,
        listeners: Listeners,
        planning: Planning | None = None,
    ) -> None:
        self.config, self.device = config, device
        self.tokenizer, self.train_sentences, self.valid_sentences = text.tokenizer, text.train, text.valid
        self.progress = Progress()
        self.trouble = ""
        """Why training can't go on from these weights; "" if it can."""
        self.stop_request: str | None = None
        """Why the run must end after the step in progress; None if it goes on."""
        self.inbox = Inbox()
        self.resumed = False
        """True if the run was taken up from a checkpoint."""
        self._listeners, self._planning = listeners, planning or plan
        # Gradients underflow in fp16.  For the other precisions the scaler does nothing.
        self.scaler = torch.amp.GradScaler(device.type, init_scale=2.0**12, enabled=config.run.precision == "fp16")
        self.model = self.new_model(0)
        self.plans = self.planning(config)
        self.optimizer = optimizers.build(config, self.stage, self.model)
        self._unsaid: Rewired | None = None

    # Events

    def tell(self, event: AnyEvent) -> None:
        """Emits an event to all callbacks, one of which writes the log."""
        self._listeners.on_event(event)

    def warn(self, message: str) -> None:
        """Emits Warned with this message."""
        self.tell(Warned(message=message, **self.here))

    def looked(self, change: torch.Tensor | None) -> None:
        """Informs all callbacks of a look of the decode monitor.  `change` [X, Y, Z] comes from TextLattice.change."""
        self._listeners.after_look(self, change)

    def tell_at_stage_start(self, event: Rewired | None) -> None:
        """Keeps an event of a stage that has not begun yet; `tell_unsaid` emits it."""
        self._unsaid = event

    def tell_unsaid(self) -> None:
        """Emits the event that `tell_at_stage_start` kept.  To be called when the stage has begun."""
        if self._unsaid is not None:
            self.tell(self._unsaid)
            self._unsaid = None

    # Where the run is

    @property
    def here(self) -> dict[str, int]:
        """Step and stage as the fields of an event."""
        return {"step": self.progress.step, "stage": self.progress.stage}

    @property
    def stage(self) -> Stage:
        """The settings of the current stage."""
        return self.config.stages[self.progress.stage]

    @property
    def plan(self) -> StagePlan:
        """The memory plan of the current stage."""
        return self.plans[self.progress.stage]

    @property
    def lattice(self) -> Lattice:
        """The model's lattice.  Only for code that runs if there is one."""
        assert self.model.lattice is not None
        return self.model.lattice

    @property
    def micro_batch(self) -> int:
        """Sentences that go through the lattice at once: as settled for this stage, or else as planned."""
        return self.progress.micro_batch or self.plan.micro_batch

    @property
    def checkpoint_ticks(self) -> int:
        """Ticks per segment; only the first state of a segment is kept for the backward.  0 keeps all states."""
        chosen = self.progress.checkpoint_ticks
        return self.plan.checkpoint_ticks if chosen is None else chosen

    @property
    def plastic(self) -> bool:
        """True if the stage's connections learn by local rules, alone or together with the gradient."""
        return self.config.connections.learning in ("plastic", "hybrid") and self.stage.profile != "freeze"

    def planning(self, config: RunConfig) -> tuple[StagePlan, ...]:
        """The plans of a config's stages, for the device and the kernel of this run."""
        return self._planning(on_device(config, self.device.type), self.model.kernel_name)

    # What can happen to a run

    def request_stop(self, reason: str) -> None:
        """Asks the run to end after the step in progress, or at once if it is paused.  Safe in a signal handler."""
        self.stop_request = reason
        self.inbox.wake()

    def in_trouble(self, reason: str) -> None:
        """Notes why training can't go on from these weights."""
        self.trouble = reason

    def out_of_trouble(self) -> None:
        self.trouble = ""

    # Replacing its parts, for training.changes

    def new_model(self, stage: int) -> TextLattice:
        """Builds an untrained model of a stage.  The state goes on with its own model."""
        return TextLattice(self.config, stage, self.tokenizer.vocabulary, self.device)

    def use_config(self, config: RunConfig) -> None:
        """Replaces the config, and plans anew."""
        self.config = config
        self.plans = self.planning(config)

    def use_model(self, model: TextLattice) -> None:
        """Replaces the model.  `use_optimizer` must follow, because the optimizer is still that of the old model."""
        self.model = model

    def use_optimizer(self, kept: Tensors) -> None:
        """Builds an optimizer for the parameters that learn now.  It takes those of the named tensors `kept` that fit it."""
        self.optimizer = optimizers.build(self.config, self.stage, self.model)
        moments.load(self.optimizer, self.model, kept)

    def use_progress(self, progress: Progress) -> None:
        """Takes the progress of a checkpoint.  From here on the run counts as resumed."""
        self.progress, self.resumed = progress, True
        self._unsaid = None

    # What a checkpoint holds

    def tensors(self) -> tuple[Tensors, Tensors]:
        """The model's tensors and the optimizer's tensors, each by name.  They are not copied."""
        return self.model.state_dict(), moments.named(self.optimizer, self.model)

    def as_json(self) -> dict[str, Any]:
        """All the rest that a checkpoint holds: progress, the scaler's state, live settings."""
        live = live_settings(self.config)
        return {"progress": self.progress.as_json(), "scaler": self.scaler.state_dict(), "live": live}
