"""Options and arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Preset = Annotated[str, typer.Option("--preset", help="A shipped preset; `lattice-tui presets` lists them.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file laid over the preset.")]
Assignments = Annotated[
    list[str], typer.Option("--set", help="section.key=value over all files, e.g. stages.0.ticks=10. Repeatable.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
RunsDir = Annotated[Path | None, typer.Option("--runs-dir", help="Where runs live. Default: $XDG_STATE_HOME/lattice-tui/runs.")]
RunName = Annotated[str, typer.Argument(help="A run's name, a unique beginning of it, a path, or `last`.")]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="Text, a sentence a line: .txt, .jsonl, .tsv, .csv, .gz of these, a folder, or task:NAME (`lattice-tui tasks`).",
    ),
]
Valid = Annotated[
    Path | None, typer.Option("--valid", help="Held-out text, or task:NAME; without it a part of the data is split off.")
]
Task = Annotated[
    str | None,
    typer.Option(
        "--task",
        help="reconstruct (text to itself), pairs (source to target), denoise (text with noise to the text) or continue (first "
        "half of the words to the second).",
    ),
]
Steps = Annotated[
    int | None, typer.Option("--steps", min=1, help="Optimizer steps of the whole run; stages keep their shares.")
]
MemoryBudget = Annotated[float | None, typer.Option("--memory-budget", help="Fit training into this many GB.")]
Detach = Annotated[
    bool, typer.Option("--detach", help="Train in a process of its own that this terminal can leave; print the run's name.")
]
LogFormat = Annotated[
    Literal["text", "json"], typer.Option("--log-format", help="text, or json: every event as a line on stdout.")
]
Control = Annotated[
    str, typer.Option("--control", help="none, shuffled (another sentence's embeddings) or bypass (messages zeroed).")
]
Best = Annotated[bool, typer.Option("--best", help="Use the checkpoint with the best score, not the newest.")]
Fps = Annotated[int | None, typer.Option("--fps", min=1, max=60, help="Most screen updates a second; fewer suit slow links.")]
ReadOnly = Annotated[bool, typer.Option("--read-only", help="Watch only: no key starts or changes a run.")]
Plain = Annotated[bool, typer.Option("--ascii", help="Draw with ASCII characters only.")]
