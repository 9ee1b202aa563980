"""One run of an experiment: it trains, and every so often takes a look, which is the held-out loss without decoding.

The time that looks take is not part of the run's cost.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from app.exit_codes import ExitCode, Stop
from app.experiments.statistics import Need, crossing, value_at
from app.experiments.training_time import TrainingTime
from lattice.data.batches import Sentences, TokenizedCorpus
from lattice.data.corpus import Corpus, Pair
from lattice.kernels.native import KernelUnavailable
from lattice.observing.scoring import chunk_size, evaluate, held_out_loss
from lattice.training.build import build_trainer
from lattice.training.callbacks import Callback
from lattice.training.state import TrainingState
from lattice.training.trainer import Trainer, TrainingFailed
from presets.schema import RunConfig

LOOK_SENTENCES = 128
"""Held-out sentences of a look, the same ones every time."""

FIRST_LOOK = 5
"""Looks start after this many intervals, since before that no loss is near a target."""

NO_CONNECTIONS = ("cells", "rule.", "gain", "labels", "mean_state", "centroids", "plasticity.")
"""How the names of a lattice's tensors begin that are no connections.  All other tensors count, so that none is overlooked."""


@dataclass(frozen=True)
class Conditions:
    """What is the same for every run: the target (held-out loss in nats per token), steps between looks, and when a run ends.

    With `to_end` a run goes on past the target.  `limit` stops every run after so many steps of its schedule.  With `score` the
    run decodes sentences at its end.
    """

    target: float
    every: int
    to_end: bool
    limit: int | None = None
    score: bool = True


@dataclass(frozen=True)
class ExperimentText:
    """The sentences of all runs: those for training, for looks, and for the score at the end."""

    corpus: TokenizedCorpus
    scored: Sentences

    @classmethod
    def of(cls, config: RunConfig, corpus: Corpus, scored: tuple[Pair, ...]) -> ExperimentText:
        tokenized = TokenizedCorpus.of(corpus, config)
        return cls(tokenized, Sentences(scored, tokenized.tokenizer, config.text.max_tokens))


def say_cuts(train: Sentences, scored: Mapping[str, Sentences]) -> None:
    """Says on stderr how many sentences of each text, given by its name, are cut."""
    for name, sentences in {"training": train, **scored}.items():
        for cut in sentences.cuts(name):
            print(f"note: {cut}", file=sys.stderr)


@dataclass(frozen=True)
class Outcome:
    """The numbers of one run.  Seconds are CPU seconds of training, with discovery waves, without looks and scoring."""

    arm: str
    seed: int
    steps: int
    """Optimizer steps done, of `budget`."""
    budget: int
    cpu_s: float
    waves_cpu_s: float
    """Discovery's part of cpu_s."""
    look_steps: tuple[int, ...]
    look_cpu_s: tuple[float, ...]
    losses: tuple[float | None, ...]
    """The held-out loss of each look; None if it was not finite."""
    bleu: float | None
    connection_bytes: int
    """Bytes of the connections' weights, masks and indices, and of their moments in the optimizer."""
    failure: str = ""
    """Why training failed; "" if it did not."""
    growths: tuple[tuple[float | None, float | None], ...] = ()
    """The held-out loss right before and right after every growth, if the experiment looks at that."""
    optimizer_bytes: int | None = None
    """Bytes that the optimizer keeps at the end.  Lines of older results files do not have them: None."""
    lattice_optimizer_bytes: int | None = None
    """The part of these for cells and connections, whose optimizer `optimizer.name` chooses."""
    retained: tuple[tuple[int, str, float, float], ...] = ()
    """(step, part, share kept, share that a random projection keeps) of gradients' energy, if the experiment looks at that."""
    repaired: tuple[tuple[float, float, float], ...] = ()
    """(share of the columns zeroed, probability of an update, score) of damaged lattices, if the experiment looks at that."""
    healed: tuple[tuple[str, str, int, float, float], ...] = ()
    """(wound, method, waves, score, CPU seconds) of healed lattices, if the experiment looks at that."""

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Outcome:
        """The outcome in a row of a results file.  Raises TypeError if something is missing."""
        names = {field.name for field in dataclasses.fields(cls)}
        own: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in row.items() if name in names
        }
        return cls(**own)

    @property
    def loss(self) -> float | None:
        """The last held-out loss; None if the run failed."""
        return None if self.failure else self.losses[-1]

    @property
    def step_cpu_s(self) -> float:
        """Mean CPU seconds of an optimizer step."""
        return (self.cpu_s - self.waves_cpu_s) / self.steps if self.steps else 0.0

    @property
    def waves_in_steps(self) -> float:
        """The cost of the discovery waves, expressed in optimizer steps of this run."""
        return self.waves_cpu_s / self.step_cpu_s if self.steps else 0.0

    def steps_to(self, target: float) -> Need:
        """Optimizer steps to the target.  Discovery counts with its cost in steps."""
        reached = crossing(self.look_steps, self.losses, target)
        return Need((self.budget if reached is None else reached) + self.waves_in_steps, reached is None)

    def cpu_to(self, target: float) -> Need:
        """CPU seconds to the target.  A run that failed before it counts as if it had gone on to its last step."""
        reached = crossing(self.look_cpu_s, self.losses, target)
        if reached is not None:
            return Need(reached)
        return Need(self.cpu_s + self.step_cpu_s * (self.budget - self.steps), True)

    def loss_for(self, steps: float) -> float:
        """The held-out loss after a cost of `steps` steps, discovery included; infinite if the run failed."""
        return math.inf if self.failure else value_at(self.look_steps, self.losses, steps - self.waves_in_steps)


class Looks(Callback):
    """Takes the held-out loss every so often, and counts the CPU seconds of training, from `time.begin` on."""

    def __init__(self, conditions: Conditions) -> None:
        self._conditions = conditions
        self.steps: list[int] = []
        self.cpu_s: list[float] = []
        self.losses: list[float | None] = []
        self.waves_cpu_s = 0.0
        self._waves_from = 0.0
        self.time = TrainingTime()
        self.trained_cpu_s = 0.0
        """CPU seconds of training up to the end of the last step."""
        self.growths: list[tuple[float | None, float | None]] = []
        self.retained: list[tuple[int, str, float, float]] = []
        self.repaired: list[tuple[float, float, float]] = []
        self.healed: list[tuple[str, str, int, float, float]] = []

    def after_step(self, state: TrainingState) -> None:
        conditions, progress = self._conditions, state.progress
        self.trained_cpu_s = self.time.so_far()
        if progress.stage_step == 1:
            # The trainer adds a step's seconds after this call: what is new here are the stage's waves.
            self.waves_cpu_s += progress.cpu_s - self._waves_from
        if progress.step % conditions.every == 0 and progress.step >= FIRST_LOOK * conditions.every:
            self.look(state)
        if progress.step == conditions.limit:
            state.request_stop("the limit is reached")

    def at_stage_end(self, state: TrainingState) -> None:
        self._waves_from = state.progress.cpu_s

    def look(self, state: TrainingState) -> None:
        """Takes the held-out loss now.  Asks for a stop if it reaches the target, unless runs go on to their end."""
        self.steps.append(state.progress.step)
        self.cpu_s.append(self.trained_cpu_s)
        self.losses.append(self.loss_now(state))
        reached = self.losses[-1] is not None and self.losses[-1] <= self._conditions.target
        if reached and not self._conditions.to_end:
            state.request_stop("the target is reached")

    def finish(self, state: TrainingState, text: ExperimentText) -> None:
        """Measures what the experiment wants of the trained model.  Is called after the last step, unless training failed."""

    def loss_now(self, state: TrainingState) -> float | None:
        """The held-out loss; None if it is not finite.  Its time is not counted as training."""
        sentences, chunk = state.valid_sentences, chunk_size(state.config, state.stage, state.plan.micro_batch)
        with self.time.left_out():
            loss = held_out_loss(state.model, sentences, list(range(min(LOOK_SENTENCES, len(sentences)))), chunk)
        return loss if math.isfinite(loss) else None


def train(
    arm: str,
    seed: int,
    config: RunConfig,
    text: ExperimentText,
    device: torch.device,
    conditions: Conditions,
    looking: type[Looks] = Looks,
) -> Outcome:
    """Trains one run to the target, the limit or its end.  Raises Stop if it can't begin or if memory runs out."""
    with told_as_stop(arm, seed):
        looks, trainer, failure = _train(config, text, device, lambda: looking(conditions))
        bleu, state = None, trainer.state
        if not failure:
            looks.finish(state, text)
        if conditions.score and not failure:
            chunk = chunk_size(state.config, state.stage, state.plan.micro_batch)
            bleu = evaluate(state.model, text.scored, text.corpus.tokenizer, chunk)[0].bleu
    return Outcome(
        arm=arm,
        seed=seed,
        steps=trainer.state.progress.step,
        budget=min(config.total_steps, conditions.limit or config.total_steps),
        cpu_s=looks.trained_cpu_s,
        waves_cpu_s=looks.waves_cpu_s,
        look_steps=tuple(looks.steps),
        look_cpu_s=tuple(looks.cpu_s),
        losses=tuple(looks.losses),
        bleu=bleu,
        connection_bytes=connection_bytes(trainer.state),
        failure=failure,
        growths=tuple(looks.growths),
        optimizer_bytes=optimizer_bytes(trainer.state),
        lattice_optimizer_bytes=optimizer_bytes(trainer.state, "lattice."),
        retained=tuple(looks.retained),
        repaired=tuple(looks.repaired),
        healed=tuple(looks.healed),
    )


@contextlib.contextmanager
def told_as_stop(arm: str, seed: int) -> Iterator[None]:
    """Raises Stop, which names the run, if it can't begin or if memory runs out."""
    try:
        yield
    except KernelUnavailable as error:
        raise Stop(ExitCode.FAILED, f"arm {arm}, seed {seed}: {error}") from error
    except torch.OutOfMemoryError as error:
        raise Stop(ExitCode.NO_DEVICE, f"arm {arm}, seed {seed}: out of memory: {str(error).splitlines()[0]}") from error


def _train(
    config: RunConfig, text: ExperimentText, device: torch.device, looking: Callable[[], Looks]
) -> tuple[Looks, Trainer, str]:
    looks = looking()
    trainer = build_trainer(config, text.corpus, device, [looks])
    looks.time.begin()
    try:
        trainer.run()
    except TrainingFailed as error:
        return looks, trainer, str(error)
    if looks.steps[-1:] != [trainer.state.progress.step]:
        looks.look(trainer.state)
    return looks, trainer, ""


def connection_bytes(state: TrainingState) -> int:
    """Bytes of the tensors that hold the model's connections now, and of their moments in the optimizer."""
    lattice = state.model.lattice
    if lattice is None:
        return 0
    held = [*lattice.named_parameters(), *lattice.named_buffers()]
    own = {f"lattice.{name}": tensor for name, tensor in held if not name.startswith(NO_CONNECTIONS)}
    _, moments = state.tensors()
    tensors = [*own.values(), *(tensor for name, tensor in moments.items() if name.rpartition("/")[0] in own)]
    return _bytes(tensors)


def optimizer_bytes(state: TrainingState, beginning: str = "") -> int:
    """Bytes that the optimizer keeps, in RAM or on the device, for the parameters whose names begin with `beginning`."""
    _, kept = state.tensors()
    return _bytes(tensor for name, tensor in kept.items() if name.startswith(beginning))


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
