"""The training state: what decides the next step of a run, and what follows from it.

    config, tokenizer, sentences, device        what was asked for
    progress                                    where the run is
    model, optimizer, scaler                    what has been learned
    plans                                       the memory that the stages take
    trouble, stop_request                       why training can't or must not go on

Callbacks and helpers take a state.  They tell it what happened, by its methods and by those of `progress`.  What replaces its
config, its model or its optimizer on the way is in `training.changes`.
"""

from __future__ import annotations

from collections.abc import Callable
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
from presets.plan import StagePlan, on_device, plan
from presets.schema import RunConfig
from presets.stage import Stage

Tensors = dict[str, torch.Tensor]

Planning = Callable[[RunConfig, str | None], tuple[StagePlan, ...]]
"""From a config for a known device, and the kernel if that is known, to the plans of its stages."""


class Listeners(Protocol):
    """Those who are told what happens to a state (training.callbacks.Callbacks)."""

    def on_event(self, event: AnyEvent) -> None: ...
    def after_look(self, state: TrainingState, change: torch.Tensor | None) -> None: ...


class TrainingState:
    """Starts as the first stage of a config, dense and untrained."""

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
        """Why training can't go on from these weights, once that is known."""
        self.stop_request: str | None = None
        """Why the run is to end after the step in progress, if it is."""
        self.inbox = Inbox()
        self.resumed = False
        """Whether the weights come from a checkpoint of this stage."""
        self._listeners, self._planning = listeners, planning or plan
        # fp16 gradients underflow; the scaler is inert for the other precisions.
        self.scaler = torch.amp.GradScaler(device.type, init_scale=2.0**12, enabled=config.run.precision == "fp16")
        self.model = self.new_model(0)
        self.plans = self.planning(config)
        self.optimizer = optimizers.build(config, self.stage, self.model)
        self._unsaid: Rewired | None = None

    # Who is told

    def tell(self, event: AnyEvent) -> None:
        """Something happened to the run: an event for the log and for all callbacks."""
        self._listeners.on_event(event)

    def warn(self, message: str) -> None:
        self.tell(Warned(message=message, **self.here))

    def looked(self, change: torch.Tensor | None) -> None:
        """The decode monitor has looked; `change` [X, Y, Z] as TextLattice.change gives it."""
        self._listeners.after_look(self, change)

    def tell_at_stage_start(self, event: Rewired | None) -> None:
        """Keeps an event of a stage that is yet to begin, until `tell_unsaid`."""
        self._unsaid = event

    def tell_unsaid(self) -> None:
        """The stage has begun."""
        if self._unsaid is not None:
            self.tell(self._unsaid)
            self._unsaid = None

    # Where the run is

    @property
    def here(self) -> dict[str, int]:
        """Step and stage, as fields of an event."""
        return {"step": self.progress.step, "stage": self.progress.stage}

    @property
    def stage(self) -> Stage:
        return self.config.stages[self.progress.stage]

    @property
    def plan(self) -> StagePlan:
        return self.plans[self.progress.stage]

    @property
    def lattice(self) -> Lattice:
        """The model's lattice, for code that runs only if there is one."""
        assert self.model.lattice is not None
        return self.model.lattice

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
        """True if the stage's connections learn by local rules, alone or beside the gradient."""
        return self.config.connections.learning in ("plastic", "hybrid") and self.stage.profile != "freeze"

    def planning(self, config: RunConfig) -> tuple[StagePlan, ...]:
        """Plans of a config's stages, for the device and the kernel that run."""
        return self._planning(on_device(config, self.device.type), self.model.kernel_name)

    # What happened to it

    def request_stop(self, reason: str) -> None:
        """The run ends after the step in progress, or at once if it is paused.  Safe in a signal handler."""
        self.stop_request = reason
        self.inbox.wake()

    def in_trouble(self, reason: str) -> None:
        """Training can't go on from these weights."""
        self.trouble = reason

    def out_of_trouble(self) -> None:
        self.trouble = ""

    # What replaces its parts (training.changes)

    def new_model(self, stage: int) -> TextLattice:
        """A model of a stage, as it starts; it does not become this state's own."""
        return TextLattice(self.config, stage, self.tokenizer.vocabulary, self.device)

    def use_config(self, config: RunConfig) -> None:
        self.config = config
        self.plans = self.planning(config)

    def use_model(self, model: TextLattice) -> None:
        """Another model; its optimizer follows with `use_optimizer`."""
        self.model = model

    def use_optimizer(self, kept: Tensors) -> None:
        """An optimizer for what is trained of the model now, with those of the named moments that fit it."""
        self.optimizer = optimizers.build(self.config, self.stage, self.model)
        moments.load(self.optimizer, self.model, kept)

    def use_progress(self, progress: Progress) -> None:
        """A checkpoint's progress; what is trained from here on is resumed."""
        self.progress, self.resumed = progress, True
        self._unsaid = None

    # What a checkpoint holds

    def tensors(self) -> tuple[Tensors, Tensors]:
        """(model, optimizer) tensors by name; no copies."""
        return self.model.state_dict(), moments.named(self.optimizer, self.model)

    def as_json(self) -> dict[str, Any]:
        """Everything else."""
        live = live_settings(self.config)
        return {"progress": self.progress.as_json(), "scaler": self.scaler.state_dict(), "live": live}
