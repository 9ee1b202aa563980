"""`train`: run the engine in the foreground and end with a summary that says what to type next."""

from __future__ import annotations

import contextlib
import shlex
from pathlib import Path

from app import configure, formats
from app.exit_codes import ExitCode, Stop
from presets.schema import RunConfig

OPTIONS = {
    "data.train": "--data",
    "data.valid": "--valid",
    "data.task": "--task",
    "run.device": "--device",
    "run.memory_budget_gb": "--memory-budget",
}
"""The option that sets each path of the config."""


def run(
    preset: str | None,
    config_file: Path | None,
    assignments: list[str],
    given: dict[str, object],
    steps: int | None,
    resumed: str | None,
    runs_dir: Path | None,
    log_format: str,
    as_json: bool,
) -> None:
    """Trains, prints the outcome, and leaves with its exit code.  Raises Stop where it can't begin."""
    from monitors.runs import runs_dir as place
    from presets.layers import ALIASES

    preset = preset or "baseline" if resumed is None else preset
    config = _check(preset, config_file, assignments, given, steps, resumed)

    import torch  # noqa: F401 - from here on the engine is needed; all that can be refused without it has been

    from app import engine
    from app.progress import JsonLines, Lines
    from app.runs import find_run, run_config

    if resumed is not None:
        folder = find_run(place(runs_dir), resumed)
        config = run_config(folder)
    with contextlib.ExitStack() as stack:
        if log_format == "json":
            talk = JsonLines()
        else:
            talk = Lines(config)
            stack.callback(talk.close)
        if resumed is not None:
            outcome = engine.resume(folder, config, [talk])
        else:
            outcome = engine.start(config, ALIASES.get(preset, preset), place(runs_dir), [talk])
    if as_json:
        from app.listing import status_json

        print(status_json(outcome.folder))
    elif log_format == "text":
        _summary(outcome, runs_dir)
    if outcome.code:
        raise Stop(outcome.code, f"run {outcome.folder.name}: {outcome.reason}")


def detach(
    preset: str | None,
    config_file: Path | None,
    assignments: list[str],
    given: dict[str, object],
    steps: int | None,
    resumed: str | None,
    runs_dir: Path | None,
    as_json: bool,
) -> None:
    """Starts the engine in a session of its own and prints the run's name once it is up.  Raises Stop where it can't begin."""
    from app.launch import launch
    from app.listing import status_json
    from monitors.runs import runs_dir as place
    from monitors.text_safety import printable

    _check(preset or ("baseline" if resumed is None else None), config_file, assignments, given, steps, resumed)
    options = {"--preset": preset, "--config": config_file, "--steps": steps, "--resume": resumed}
    options |= {OPTIONS[path]: value for path, value in given.items()}
    arguments = [f"{name}={value}" for name, value in options.items() if value is not None]
    folder = launch([*arguments, *(f"--set={assignment}" for assignment in assignments)], place(runs_dir))
    print(status_json(folder) if as_json else printable(folder.name))


def _check(
    preset: str | None,
    config_file: Path | None,
    assignments: list[str],
    given: dict[str, object],
    steps: int | None,
    resumed: str | None,
) -> RunConfig | None:
    """The config of a new run; None for one that is resumed.  Raises Stop where the options do not go together."""
    if resumed is None:
        return configure.with_steps(configure.load(preset, config_file, assignments, given).config, steps)
    options = {"--preset": preset, "--config": config_file, "--set": assignments, "--steps": steps}
    foreign = [name for name, value in options.items() if value]
    foreign += [OPTIONS[path] for path, value in given.items() if value is not None]
    if foreign:
        raise Stop(ExitCode.USAGE, f"--resume continues a run as it was started; leave out {', '.join(foreign)}")
    return None


def _summary(outcome, runs_dir: Path | None) -> None:
    from rich.console import Console
    from rich.table import Table

    from lattice import checkpoint
    from monitors.text_safety import printable

    console, info = Console(highlight=False), outcome.folder.read_info()
    where = printable(f" --runs-dir {shlex.quote(str(runs_dir))}") if runs_dir else ""
    if outcome.final is not None:
        table = Table("unseen sentence", "what the lattice said", title="Held-out sentences, through the lattice and back")
        for sample in outcome.final.samples:
            table.add_row(*(printable(text).replace("[", r"\[") for text in (sample.reference, sample.said)))
        console.print(table)
        final = outcome.final
        console.print(
            f"BLEU {formats.score(final.bleu)} on {final.count} unseen sentences (chrF {formats.score(final.chrf)}, "
            f"{final.exact:.0%} exact; {final.signature})",
            markup=False,
            soft_wrap=True,
        )
    speed = info.elapsed_s / info.step if info.step else 0.0
    console.print(
        f"{formats.count(info.step)} steps in {formats.duration(info.elapsed_s)} ({1000 * speed:.0f} ms a step, "
        f"{formats.duration(info.cpu_s)} of CPU), peak memory {formats.bytes_(info.peak_bytes)}",
        markup=False,
    )
    console.print(f"run folder: {printable(str(outcome.folder.path))}", markup=False, soft_wrap=True)
    name = printable(outcome.folder.name)
    if outcome.code == ExitCode.OK:
        console.print(f'next:  lattice-tui decode {name} "your sentence"{where}', markup=False, soft_wrap=True)
        console.print(f"       lattice-tui evaluate {name} --data FILE --control shuffled{where}", markup=False, soft_wrap=True)
    elif checkpoint.steps(outcome.folder.checkpoints):
        console.print(f"next:  lattice-tui train --resume {name}{where}", markup=False, soft_wrap=True)
