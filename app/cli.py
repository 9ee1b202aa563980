"""The command line: the list of all commands, and the program's entry point.

Each command is a file in app.commands (those of `experiment` are in app.experiments).  It is imported when it is called, so
`--help` and wrong usage never wait for torch.  To add a command, write its file, its line in COMMANDS and its case in
`_imported`.

Results go to stdout: tables, or one JSON object with --json.  Everything else goes to stderr.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator, MutableMapping
from typing import Annotated, Any, NoReturn, TextIO

import typer
from typer.core import TyperCommand, TyperGroup

from app import streams
from app.exit_codes import ExitCode, Stop
from app.options import Fps, Plain, ReadOnly, RunsDir
from app.version import VERSION
from monitors.places import NoHome
from monitors.text_safety import printable

COMMANDS = {
    "attach": "Watch and steer a live run, or go through a finished one, also in a folder copied from elsewhere.",
    "screenshot": "Draw a run's screen, or the home screen, into an SVG file.",
    "train": "Train a lattice, from a preset or where a run left off.",
    "fork": "Begin a new run from a checkpoint of another, with its past and some settings changed.",
    "control": "Change a live run; prints the step after which the change holds.",
    "soak": "Train under load and look for leaks; exit code 4 where one is found. Ctrl-C gives the verdict so far.",
    "plan": "Show the memory a run will take, part by part, before anything is allocated.",
    "profile": "Train a few steps in a process of its own; print what they took beside the plan, and remember it for later "
    "plans.",
    "runs": "List runs, newest first.",
    "status": "Say how one run stands.",
    "compare": "Two runs side by side: what was set otherwise, what came out, and how soon.",
    "export": "Write a run's events as CSV tables or TensorBoard files.",
    "evaluate": "Score a run's model on a text file: BLEU, chrF, share of sentences that come back unchanged.",
    "decode": "Send one text through a run's lattice and print what comes out.",
    "heal": "Destroy a part of a copy of a run's lattice, and let it heal without labels; the run stays as it is.",
    "morphology": "Ask whether a run's connections vary over space with a wavelength of their own, and score how far it has "
    "organised.",
    "bench": "Measure this machine: nanoseconds, and how far from the memory-copy floor.",
    "experiment": "Paired runs over seeds, with and without a mechanism.",
    "presets": "What runs are shipped, and what they set.",
    "tasks": "What tasks are bundled for --data task:NAME, and how far one gets on them without reading.",
}
"""The line of each command in `--help`, in the order of the help."""


def _imported(name: str) -> Callable[..., None] | typer.Typer:
    """Imports a command.  Returns its function, or its typer group if it has subcommands."""
    match name:
        case "attach":
            from app.commands.attach import attach

            return attach
        case "screenshot":
            from app.commands.screenshot import screenshot

            return screenshot
        case "train":
            from app.commands.train import train

            return train
        case "fork":
            from app.commands.fork import fork

            return fork
        case "control":
            from app.commands.control import control

            return control
        case "soak":
            from app.commands.soak import soak

            return soak
        case "plan":
            from app.commands.plan import plan

            return plan
        case "profile":
            from app.commands.profile import profile

            return profile
        case "runs":
            from app.commands.runs import runs

            return runs
        case "status":
            from app.commands.status import status

            return status
        case "compare":
            from app.commands.compare import compare

            return compare
        case "export":
            from app.commands.export import export

            return export
        case "evaluate":
            from app.commands.evaluate import evaluate

            return evaluate
        case "decode":
            from app.commands.decode import decode

            return decode
        case "heal":
            from app.commands.heal import heal

            return heal
        case "morphology":
            from app.commands.morphology import morphology

            return morphology
        case "bench":
            from app.commands.bench import bench_app

            return bench_app
        case "experiment":
            from app.experiments.commands import experiment_app

            return experiment_app
        case "presets":
            from app.commands.presets import presets_app

            return presets_app
        case "tasks":
            from app.commands.tasks import tasks

            return tasks
    raise KeyError(name)


class _Loaded(MutableMapping[str, Any]):
    """A mapping from names to commands.  A command is imported when it is looked up."""

    def __init__(self) -> None:
        self._found: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._found:
            wrapper, command, help_line = typer.Typer(rich_markup_mode=None), _imported(name), COMMANDS[name]
            wrapper.callback()(lambda: None)  # makes it a group, even though it has only one command
            if isinstance(command, typer.Typer):
                wrapper.add_typer(command, name=name, help=help_line)
            else:
                wrapper.command(name, help=help_line)(command)
            group = typer.main.get_command(wrapper)
            assert isinstance(group, TyperGroup)
            self._found[name] = group.commands[name]
        return self._found[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._found[name] = command

    def __delitem__(self, name: str) -> None:
        del self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class Program(TyperGroup):
    """The group of all commands.  It knows their names without importing them."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = _Loaded()

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        limit = formatter.width - 6 - max(map(len, COMMANDS))
        rows = [(name, TyperCommand(name, help=help_line).get_short_help_str(limit)) for name, help_line in COMMANDS.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


app = typer.Typer(
    name="lattice-tui",
    help="Grow a 3-D cellular lattice into a text model, and watch it learn.",
    cls=Program,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """The entry point.  Every expected failure prints one message and ends with its exit code."""
    # Waiting threads should sleep and not spin: with other work on the machine, spinning made a step several times slower.
    # OpenMP reads this once, when torch loads it.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # Otherwise pydantic reads the metadata of every installed package, in search of plugins that nothing here uses.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    stdout = streams.prepare()
    for stream in (sys.stdout, sys.stderr):
        _print_any_letter(stream)
    try:
        try:
            app()
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # here, so that the error of a reader that has left can be handled below
    except Stop as stop:
        _end(stop.code, str(stop))
    except NoHome as error:
        _end(ExitCode.USAGE, str(error))
    except BrokenPipeError:
        _leave_the_pipe()
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # typer caught it first and turned it into an exit with code 1
            _leave_the_pipe()
        raise
    except OSError as error:
        _refused(stdout.error, error)
    except RuntimeError as error:
        if "can't start new thread" not in str(error):
            raise
        _end(ExitCode.FAILED, "no more threads can be started here; raise `ulimit -u`, or the limit of the container or job")


def _end(code: ExitCode, message: str) -> NoReturn:
    """Ends the program with a message on stderr and an exit code."""
    # Messages quote file names and settings from outside, so they are made safe to print.  Each problem has its own line.
    print("\n".join(map(printable, f"lattice-tui: {message}".split("\n"))), file=sys.stderr)
    sys.exit(int(code))


def _refused(lost: OSError | None, error: OSError) -> NoReturn:
    """Ends the program after the system refused what no command expects.  `lost` is why stdout can't be written, if so."""
    what = "the output can't be written" if lost else error.filename or "the system refused to go on"
    try:
        _end(ExitCode.FAILED, f"{what}: {((lost or error).strerror or str(lost or error)).lower()}")
    finally:
        streams.lose(1, 2)  # Python writes what is left at its end, and would complain once more


def _print_any_letter(stream: TextIO | None) -> None:
    """Makes a stream write letters that its encoding lacks as escapes, such as `\\u043a`, rather than raise an error."""
    if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
        stream.reconfigure(errors="backslashreplace")


def _leave_the_pipe() -> NoReturn:
    """Ends the program after the reader of its output has left, as with `| head -1`.

    It prints nothing and exits with the code of a program that SIGPIPE ends.  What is still buffered is thrown away.
    """
    streams.lose(1, 2)
    sys.exit(int(ExitCode.PIPE))


@app.callback(invoke_without_command=True)
def home(
    context: typer.Context,
    show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    runs_dir: RunsDir = None,
    fps: Fps = None,
    read_only: ReadOnly = False,
    plain: Plain = False,
) -> None:
    """The program without a command: the home screen, with presets to start, and runs to attach to and watch."""
    if show_version:
        print(f"lattice-tui {VERSION}")
        raise typer.Exit()
    if context.invoked_subcommand is None:
        from app.tui.start import show

        show(runs_dir, None, fps, read_only, plain)


if __name__ == "__main__":
    main()
