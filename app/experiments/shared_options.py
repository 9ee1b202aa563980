"""The options that the experiments share, declared once, and the decorator that makes a command of them.

Typer reads the options of a command from the signature of its function.  `experiment` writes that signature: the fields of
`ExperimentOptions`, and between them the function's own options.  This module loads without torch, so that `--help` is
quick.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from app.options import AsJson, Assignments, ConfigFile, Data, Device, Preset, Steps, Task, Valid

Test = Annotated[Path | None, typer.Option("--test", help="Text to score on, or task:NAME; without it the held-out sentences.")]
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


@dataclass(frozen=True)
class ExperimentOptions:
    """The shared options of one command line.  The fields stand in the order of `--help`."""

    preset: Preset = "baseline"
    config: ConfigFile = None
    data: Data = None
    valid: Valid = None
    test: Test = None
    task: Task = None
    assignments: Assignments = field(default_factory=list)
    steps: Steps = None
    seeds: Seeds = 3
    target: Target = 1.0
    every: Every = 10
    to_end: ToEnd = False
    arms: Arms = None
    own_arms: OwnArms = field(default_factory=list)
    device: Device = None
    out: Out = None
    plot: Plot = None
    as_json: AsJson = False


Body = TypeVar("Body", bound=Callable[..., None])
"""A function of an `Options` and of the options that its command alone has."""


def experiment(
    app: typer.Typer, name: str, defaults: ExperimentOptions, own_before: str = "device", left_out: tuple[str, ...] = ()
) -> Callable[[Body], Body]:
    """Makes the decorated function the command `name` of `app`.  It is called with an `Options` and with its own options.

    `defaults` has the default of every shared option.  In `--help` the command's own options stand right before the shared
    option `own_before`.  The command does not know the options `left_out`: these keep their defaults.
    """

    def register(body: Body) -> Body:
        hints = get_type_hints(ExperimentOptions, include_extras=True)
        shared = [option.name for option in fields(ExperimentOptions) if option.name not in left_out]
        kind = inspect.Parameter.KEYWORD_ONLY
        parameters = [inspect.Parameter(n, kind, default=getattr(defaults, n), annotation=hints[n]) for n in shared]
        _, *own = inspect.signature(body, eval_str=True).parameters.values()
        at = shared.index(own_before)
        parameters[at:at] = [parameter.replace(kind=kind) for parameter in own]

        def command(**given: Any) -> None:  # the values as typer has read them, by the parameters of the signature
            options = replace(defaults, **{n: given.pop(n) for n in shared})
            body(options, **given)

        # Not as an attribute: type checkers know none of that name on functions.
        vars(command)["__signature__"] = inspect.Signature(parameters)
        command.__doc__ = body.__doc__
        app.command(name)(command)
        return body

    return register
