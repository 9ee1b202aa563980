"""An experiment as a picture: held-out loss of every arm over steps, and what each run needed to reach the target."""

from __future__ import annotations

import math
import statistics
from pathlib import Path

from app.experiments.measure import Outcome
from app.experiments.report import Results
from app.pictures import save_plot


def draw(path: Path, title: str, results: Results, target: float) -> None:
    """Writes the PNG.  Raises Stop if that fails."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

    figure = Figure(figsize=(11, 4.8 + 0.12 * max(0, len(results) - 8)), layout="constrained")
    curves, needs = figure.subplots(1, 2, width_ratios=(3, 2))
    colours = colormaps["tab10" if len(results) <= 10 else "turbo"]
    for row, (name, runs) in enumerate(results.items()):
        colour = colours(row if len(results) <= 10 else row / (len(results) - 1))
        steps, mean, low, high = spread(runs)
        curves.plot(steps, mean, color=colour, label=name, linewidth=1.8, marker=".", markersize=4)
        curves.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
        for need in (run.steps_to(target) for run in runs):
            # An arrow head to the right: more than this, by an unknown amount.
            needs.plot(need.value, row, marker=">" if need.censored else "o", color=colour, alpha=0.7, clip_on=False)
        needs.plot(statistics.mean(run.steps_to(target).value for run in runs), row, "|", color=colour, markersize=18)
    curves.axhline(target, color="0.4", linestyle=":", linewidth=1)
    curves.set(
        xlabel="optimizer steps", ylabel="held-out loss, nats a token", yscale="log", title="mean, least and most over seeds"
    )
    curves.grid(alpha=0.25, which="both")
    curves.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    curves.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    curves.yaxis.set_minor_formatter(NullFormatter())
    needs.set_yticks(range(len(results)), list(results))
    needs.invert_yaxis()
    needs.set(xlabel="steps, discovery's cost included", title=f"to loss {target:g}   | mean   > never reached")
    needs.set_xlim(left=0)
    needs.xaxis.set_major_locator(MaxNLocator(6))
    needs.grid(alpha=0.25, axis="x")
    figure.legend(*curves.get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize="small", frameon=False)
    figure.suptitle(title)
    save_plot(figure, path, dpi=130)


def spread(runs: list[Outcome]) -> tuple[list[int], list[float], list[float], list[float]]:
    """Steps, and the mean, the least and the greatest held-out loss at each.

    A run stops when it reaches the target.  Only steps at which all runs took a look are drawn: after that, a mean would be one
    over the slow runs alone.  Losses that were not finite are gaps.
    """
    looks = [dict(zip(run.look_steps, run.losses, strict=True)) for run in runs]
    steps = sorted(set.intersection(*map(set, looks)))
    columns = [[_or_nan(look[step]) for look in looks] for step in steps]
    return steps, [statistics.fmean(c) for c in columns], [min(c) for c in columns], [max(c) for c in columns]


def _or_nan(loss: float | None) -> float:
    return math.nan if loss is None else loss
