"""The command line of `experiment`: what each of its commands has beside the options that all of them share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.experiments.shared_options import ExperimentOptions, experiment

if TYPE_CHECKING:
    from app.experiments.experiment import ExperimentRequest

experiment_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Search = Annotated[int, typer.Option("--search", min=0, help="Random-search trials for each arm first.")]
SearchSteps = Annotated[int, typer.Option("--search-steps", min=1, help="Steps of a trial, discovery's cost included.")]
Before = Annotated[
    float, typer.Option("--before", min=0.01, max=0.99, help="Share of the steps on a lattice of half the size.")
]

Tests = Annotated[
    list[Path], typer.Option("--test", help="Text to score on, or task:NAME; without it the held-out sentences. Repeatable.")
]
EveryScore = Annotated[
    int, typer.Option("--every", min=0, help="Steps between scores on held-out sentences; 0 = only at the end.")
]
Score = Annotated[
    float | None,
    typer.Option("--target", help="Tell the steps and CPU seconds to this score: BLEU, or on a task % of exact answers."),
]
EqualCpu = Annotated[
    bool, typer.Option("--equal-cpu", help="Also train the arms without a lattice for as many CPU seconds as the trained one.")
]

WoundedBy = Annotated[
    list[str], typer.Option("--wound", help="KIND:AMOUNT, as for `lattice-tui heal`; each trained lattice gets it. Repeatable.")
]
Methods = Annotated[
    str | None, typer.Option("--methods", help="Only these methods, comma-separated; * and ? stand for any characters.")
]
Waves = Annotated[int, typer.Option("--waves", min=1, help="Most waves of each method.")]


@experiment(
    experiment_app,
    "arms",
    ExperimentOptions(seeds=1),
    own_before="arms",
    left_out=("test", "target", "every", "to_end"),
)
def experiment_arms(
    options: ExperimentOptions, tests: Tests = [], every: EveryScore = 0, target: Score = None, equal_cpu: EqualCpu = False
) -> None:
    """What the lattice adds: `trained` against `no rule`, `frozen`, `identity` (no lattice), `larger encoder` and `gru`."""
    from app.experiments.arms import command

    command.run(_request(options), command.ArmsOptions(tests, target, every, equal_cpu))


@experiment(experiment_app, "convergence", ExperimentOptions(seeds=5))
def experiment_convergence(options: ExperimentOptions, search: Search = 0, search_steps: SearchSteps = 200) -> None:
    """Discovery waves on against off, each from a biased and an unbiased start: steps and CPU time to the target."""
    from app.experiments import convergence as command

    command.run(_request(options), search, search_steps)


@experiment(
    experiment_app,
    "heal",
    ExperimentOptions(every=100, to_end=True),
    own_before="arms",
    left_out=("target", "every", "to_end"),
)
def experiment_heal(
    options: ExperimentOptions, wound: WoundedBy = ["connections:0.5"], methods: Methods = None, waves: Waves = 400
) -> None:
    """Methods that heal a wounded lattice: STDP, BCM, Oja, each offset's mean, the gradient with labels; score by wave."""
    from app.experiments import heal as command

    command.run(_request(options), wound, methods, waves)


@experiment(experiment_app, "optimizers", ExperimentOptions(preset="small", to_end=True))
def experiment_optimizers(options: ExperimentOptions) -> None:
    """Rules that keep less than AdamW for cells and connections: bytes, step time, the last loss, and what GaLore retains."""
    from app.experiments import optimizers as command

    command.run(_request(options))


@experiment(experiment_app, "plasticity", ExperimentOptions(seeds=5))
def experiment_plasticity(options: ExperimentOptions) -> None:
    """Connections that learn by local rules, alone or beside the gradient, against gradient and frozen ones."""
    from app.experiments import plasticity as command

    command.run(_request(options))


@experiment(
    experiment_app,
    "repair",
    ExperimentOptions(preset="walker", every=100, to_end=True),
    left_out=("target", "every", "to_end"),
)
def experiment_repair(options: ExperimentOptions) -> None:
    """Training with wounds (`wounded`) against without (`unwounded`): scores under damage, and if cells update by chance."""
    from app.experiments import repair as command

    command.run(_request(options))


@experiment(experiment_app, "sparsity", ExperimentOptions(to_end=True))
def experiment_sparsity(options: ExperimentOptions) -> None:
    """Pruned connections against dense ones: bytes, step time, BLEU, and steps to the target."""
    from app.experiments import sparsity as command

    command.run(_request(options))


@experiment(experiment_app, "transfer", ExperimentOptions(preset="small"), own_before="arms")
def experiment_transfer(options: ExperimentOptions, before: Before = 0.5) -> None:
    """A lattice grown from a smaller one against one from scratch: CPU time to the target, and the loss around the growth."""
    from app.experiments import transfer as command

    command.run(_request(options), before)


def _request(options: ExperimentOptions) -> ExperimentRequest:
    from app.experiments.experiment import ExperimentRequest  # here: it loads torch

    return ExperimentRequest.of(options)
