"""`bench`: the group of commands that measure this machine.  Their options are here, their bodies are in app.bench."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.options import AsJson, Assignments, Preset

bench_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
)


@bench_app.command("tick")
def bench_tick(
    shape: Annotated[str, typer.Option("--shape", help="Cells, as X,Y,Z.")] = "64,64,32",
    batch: Annotated[int, typer.Option("--batch", min=1, help="Sentences at once.")] = 1,
    repeats: Annotated[int, typer.Option("--repeats", min=3, help="Timed calls of each kernel.")] = 9,
    kernels: Annotated[
        list[str],
        typer.Option("--kernel", metavar="NAME", help="native, native-bf16, compiled or reference; or all."),
    ] = [],
    as_json: AsJson = False,
) -> None:
    """Time one tick, forward and forward+backward, in every implementation that runs here, with one thread and with all."""
    from app.bench import tables as command

    command.tick(shape, batch, repeats, kernels, as_json)


@bench_app.command("step")
def bench_step(
    preset: Preset = "baseline",
    assignments: Assignments = [],
    repeats: Annotated[int, typer.Option("--repeats", min=3, help="Timed training steps.")] = 15,
    as_json: AsJson = False,
) -> None:
    """Time whole training steps of a preset's first stage."""
    from app.bench import tables as command

    command.step(preset, assignments, repeats, as_json)


@bench_app.command("decode")
def bench_decode(
    preset: Preset = "baseline",
    assignments: Assignments = [],
    repeats: Annotated[int, typer.Option("--repeats", min=3, help="Timed looks, and training steps in turns with them.")] = 15,
    as_json: AsJson = False,
) -> None:
    """Time what a look of the decode monitor costs against the training steps between two looks."""
    from app.bench import tables as command

    command.decode(preset, assignments, repeats, as_json)


@bench_app.command("all")
def bench_all(
    preset: Preset = "baseline",
    assignments: Assignments = [],
    repeats: Annotated[int, typer.Option("--repeats", min=3, help="Timed calls of each kind.")] = 5,
    memory: Annotated[
        float, typer.Option("--memory", min=0.1, help="The growing lattice may take so many GB, if as many are free.")
    ] = 16.0,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE.png", help="Draws the cost of a cell over the lattice's size.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure all of it, with one thread and with all: the tick on lattices from 16x16x16 to the largest that fits, in C and in
    plain torch, another library's like work where it is installed, a preset's step, the decode monitor, plasticity.

    Takes some minutes.
    """
    from app.bench import everything as command

    command.run(preset, assignments, repeats, memory, plot, as_json)


@bench_app.command("plasticity")
def bench_plasticity(
    preset: Preset = "baseline",
    assignments: Assignments = [],
    steps: Annotated[int, typer.Option("--steps", min=1, help="Training steps before the work left out is measured.")] = 100,
    repeats: Annotated[int, typer.Option("--repeats", min=3, help="Timed calls and pairs of steps.")] = 9,
    as_json: AsJson = False,
) -> None:
    """Time plasticity's update and its share of a training step, and sweep how much of its work can be left out."""
    from app.bench import plasticity_tables as command

    command.plasticity(preset, assignments, steps, repeats, as_json)


@bench_app.command("heal")
def bench_heal(
    preset: Preset = "baseline",
    assignments: Assignments = [],
    wound: Annotated[str, typer.Option("--wound", metavar="KIND:AMOUNT", help="As in `lattice-tui heal`.")] = "connections:0.3",
    as_json: AsJson = False,
) -> None:
    """Time healing on a fresh lattice on the CPU: by neighbours, a wave of STDP, and a training step beside them."""
    from app.bench import healing_table as command

    command.run(preset, assignments, wound, as_json)


@bench_app.command("tui")
def bench_tui(
    preset: Preset = "baseline",
    assignments: Assignments = [],
    starts: Annotated[int, typer.Option("--starts", min=1, help="Starts of --help and of the home screen.")] = 9,
    keys: Annotated[int, typer.Option("--keys", min=1, help="Keys pressed while the preset trains.")] = 160,
    pairs: Annotated[int, typer.Option("--pairs", min=1, help="Windows with a screen attached; one more without.")] = 12,
    seconds: Annotated[float, typer.Option("--seconds", min=0.5, help="Of each of these windows.")] = 8.0,
    events: Annotated[
        int, typer.Option("--events", min=100, help="Events that the memory is measured over; an hour at 50 a second.")
    ] = 180_000,
    as_json: AsJson = False,
) -> None:
    """Measure the terminal interface on real processes beside a preset that trains on all cores; takes about six minutes.

    First frame, key to visible change, CPU, bytes to the terminal at 160x50, what it takes from training, memory over an hour.
    """
    from app.bench import screens as command

    command.run(preset, assignments, starts, keys, pairs, seconds, events, as_json)


@bench_app.command("gpu")
def bench_gpu(
    device: Annotated[str, typer.Option("--device", help="cuda, cuda:N, or cpu (with --quick).")] = "cuda",
    quick: Annotated[
        bool, typer.Option("--quick", help="The smallest preset and few repeats: shows that all of it runs.")
    ] = False,
    cap: Annotated[float, typer.Option("--cap", min=0.5, help="GB of the GPU that this may take, all told.")] = 24.0,
    leak_seconds: Annotated[float, typer.Option("--leak-seconds", min=0, help="How long leaks are watched for.")] = 300.0,
    out: Annotated[Path | None, typer.Option("--out", help="File for the report as JSON.")] = None,
    summary: Annotated[Path | None, typer.Option("--summary", help="Markdown file whose GPU section is rewritten.")] = None,
    as_json: AsJson = False,
) -> None:
    """Hold a GPU against its bars: kernels, ticks, every preset's memory and time, a full progressive run, leaks; 15 minutes.

    Without a GPU it says so and does nothing.
    """
    from app.bench import gpu as command

    command.run(device, quick, cap, leak_seconds, out, summary, as_json)
