"""`experiment arms` as a picture: the score of every arm by step, and by CPU seconds."""

from __future__ import annotations

import statistics
from pathlib import Path

from app.experiments.arms.findings import Arms
from app.experiments.arms.scored_run import ArmOutcome
from app.experiments.arms.told import UNITS
from app.pictures import save_plot

Curve = tuple[list[float], list[float], list[float], list[float], list[float]]
"""Steps, mean CPU seconds, and the mean, the least and the greatest score at each."""


def draw(path: Path, arms: Arms) -> None:
    """Writes the PNG.  Raises Stop if that fails."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.8), layout="constrained")
    by_step, by_cpu = figure.subplots(1, 2, sharey=True)
    colours = colormaps["tab10" if len(arms.results) <= 10 else "turbo"]
    for row, (name, runs) in enumerate(arms.results.items()):
        colour = colours(row if len(arms.results) <= 10 else row / (len(arms.results) - 1))
        steps, cpu_s, mean, low, high = curve(runs)
        for axes, along in ((by_step, steps), (by_cpu, cpu_s)):
            axes.plot(along, mean, color=colour, label=name, linewidth=1.8, marker=".", markersize=4)
            axes.fill_between(along, low, high, color=colour, alpha=0.2, linewidth=0)
    for axes, label in ((by_step, "optimizer steps"), (by_cpu, "CPU seconds, looks left out")):
        if arms.target is not None:
            axes.axhline(arms.target, color="0.4", linestyle=":", linewidth=1)
        axes.set_xlabel(label)
        axes.set_xlim(left=0)
        axes.grid(alpha=0.25)
    by_step.set_ylabel(UNITS[arms.measure])
    figure.legend(*by_step.get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize="small", frameon=False)
    figure.suptitle(f"arms: the first {arms.looked} held-out sentences; mean, least and most over seeds")
    save_plot(figure, path, dpi=130)


def curve(runs: list[ArmOutcome]) -> Curve:
    """An arm's curve over its seeds.  Arms at equal CPU seconds may end at other steps; only common ones are drawn."""
    looks = [dict(zip(run.look_steps, zip(run.look_cpu_s, run.looks, strict=True), strict=True)) for run in runs]
    steps = sorted(set.intersection(*map(set, looks)))
    cpu_s = [statistics.fmean(look[step][0] for look in looks) for step in steps]
    columns = [[look[step][1] for look in looks] for step in steps]
    means = [statistics.fmean(column) for column in columns]
    return [float(step) for step in steps], cpu_s, means, [min(c) for c in columns], [max(c) for c in columns]
