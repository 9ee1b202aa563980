"""The command line of `experiment`, whose commands share most of their options."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.commands.options import AsJson, Assignments, ConfigFile, Data, Device, Preset, Steps, Task, Valid

if TYPE_CHECKING:
    from app.experiments.experiment import Request

experiment_app = typer.Typer(
    help="Paired runs over seeds, with and without a mechanism.", no_args_is_help=True, rich_markup_mode=None
)

Test = Annotated[Path | None, typer.Option("--test", help="Text to score on; without it the held-out sentences.")]
Seeds = Annotated[int, typer.Option("--seeds", min=1, help="Runs of each arm.")]
Target = Annotated[float, typer.Option("--target", help="Held-out loss to reach, in nats a token.")]
Every = Annotated[int, typer.Option("--every", min=1, help="Steps between looks at the held-out loss.")]
ToEnd = Annotated[
    bool, typer.Option("--to-end/--to-target", help="Train to the last step, or stop where the target is reached.")
]
Arms = Annotated[str | None, typer.Option("--arms", help="Only these arms, comma-separated; * and ? stand for any characters.")]
OwnArms = Annotated[
    list[str], typer.Option("--arm", help="One more arm: its name and settings, as 'loud plasticity.rate=0.1'. Repeatable.")
]
Out = Annotated[
    Path | None,
    typer.Option("--out", help="Append every run to this file of JSON lines, and take from it the runs it already has."),
]
Plot = Annotated[Path | None, typer.Option("--plot", help="Draw the curves into this PNG.")]


@experiment_app.command("arms")
def experiment_arms(
    preset: Preset = "baseline",
    config: ConfigFile = None,
    data: Data = None,
    valid: Valid = None,
    test: Test = None,
    task: Task = None,
    assignments: Assignments = [],
    steps: Steps = None,
    seeds: Seeds = 1,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """What the lattice adds: trained against frozen against no lattice at all, at equal steps."""
    from app.experiments import arms as command

    command.arms(preset, config, assignments, _given(data, valid, task, device), steps, test, seeds, as_json)


@experiment_app.command("convergence")
def experiment_convergence(
    preset: Preset = "baseline",
    config: ConfigFile = None,
    data: Data = None,
    valid: Valid = None,
    test: Test = None,
    task: Task = None,
    assignments: Assignments = [],
    steps: Steps = None,
    seeds: Seeds = 5,
    target: Target = 1.0,
    every: Every = 10,
    to_end: ToEnd = False,
    arms: Arms = None,
    own_arms: OwnArms = [],
    search: Annotated[int, typer.Option("--search", min=0, help="Random-search trials for each arm first.")] = 0,
    search_steps: Annotated[
        int, typer.Option("--search-steps", min=1, help="Steps of a trial, discovery's cost included.")
    ] = 200,
    device: Device = None,
    out: Out = None,
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """Discovery waves on against off, each from a biased and an unbiased start: steps and CPU time to the target."""
    from app.experiments import convergence as command

    source = preset, config, assignments, _given(data, valid, task, device), steps, test
    command.run(_request(source, (target, every, to_end), seeds, arms, own_arms, out, plot, as_json), search, search_steps)


@experiment_app.command("optimizers")
def experiment_optimizers(
    preset: Preset = "small",
    config: ConfigFile = None,
    data: Data = None,
    valid: Valid = None,
    test: Test = None,
    task: Task = None,
    assignments: Assignments = [],
    steps: Steps = None,
    seeds: Seeds = 3,
    target: Target = 1.0,
    every: Every = 10,
    to_end: ToEnd = True,
    arms: Arms = None,
    own_arms: OwnArms = [],
    device: Device = None,
    out: Out = None,
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """Rules that keep less than AdamW for cells and connections: bytes, step time, the last loss, and what GaLore retains."""
    from app.experiments import optimizers as command

    source = preset, config, assignments, _given(data, valid, task, device), steps, test
    command.run(_request(source, (target, every, to_end), seeds, arms, own_arms, out, plot, as_json))


@experiment_app.command("plasticity")
def experiment_plasticity(
    preset: Preset = "baseline",
    config: ConfigFile = None,
    data: Data = None,
    valid: Valid = None,
    test: Test = None,
    task: Task = None,
    assignments: Assignments = [],
    steps: Steps = None,
    seeds: Seeds = 5,
    target: Target = 1.0,
    every: Every = 10,
    to_end: ToEnd = False,
    arms: Arms = None,
    own_arms: OwnArms = [],
    device: Device = None,
    out: Out = None,
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """Connections that learn by local rules, alone or beside the gradient, against gradient and frozen ones."""
    from app.experiments import plasticity as command

    source = preset, config, assignments, _given(data, valid, task, device), steps, test
    command.run(_request(source, (target, every, to_end), seeds, arms, own_arms, out, plot, as_json))


@experiment_app.command("sparsity")
def experiment_sparsity(
    preset: Preset = "baseline",
    config: ConfigFile = None,
    data: Data = None,
    valid: Valid = None,
    test: Test = None,
    task: Task = None,
    assignments: Assignments = [],
    steps: Steps = None,
    seeds: Seeds = 3,
    target: Target = 1.0,
    every: Every = 10,
    to_end: ToEnd = True,
    arms: Arms = None,
    own_arms: OwnArms = [],
    device: Device = None,
    out: Out = None,
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """Pruned connections against dense ones: bytes, step time, BLEU, and steps to the target."""
    from app.experiments import sparsity as command

    source = preset, config, assignments, _given(data, valid, task, device), steps, test
    command.run(_request(source, (target, every, to_end), seeds, arms, own_arms, out, plot, as_json))


@experiment_app.command("transfer")
def experiment_transfer(
    preset: Preset = "small",
    config: ConfigFile = None,
    data: Data = None,
    valid: Valid = None,
    test: Test = None,
    task: Task = None,
    assignments: Assignments = [],
    steps: Steps = None,
    seeds: Seeds = 3,
    target: Target = 1.0,
    every: Every = 10,
    to_end: ToEnd = False,
    before: Annotated[
        float, typer.Option("--before", min=0.01, max=0.99, help="Share of the steps on a lattice of half the size.")
    ] = 0.5,
    arms: Arms = None,
    own_arms: OwnArms = [],
    device: Device = None,
    out: Out = None,
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """A lattice grown from a smaller one against one from scratch: CPU time to the target, and the loss around the growth."""
    from app.experiments import transfer as command

    source = preset, config, assignments, _given(data, valid, task, device), steps, test
    command.run(_request(source, (target, every, to_end), seeds, arms, own_arms, out, plot, as_json), before)


def _given(data: Path | None, valid: Path | None, task: str | None, device: str | None) -> dict[str, object]:
    return {"--data": data, "--valid": valid, "--task": task, "--device": device}


def _request(source: tuple, conditions: tuple, *rest: object) -> Request:
    from app.experiments.experiment import Request, Source
    from app.experiments.measure import Conditions

    return Request(Source(*source), Conditions(*conditions), *rest)
