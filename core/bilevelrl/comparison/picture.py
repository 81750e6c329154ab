"""The picture of a comparison: objective against budget, a line and a band for each algorithm, named at its end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from bilevelrl.comparison.budgets import Budget
from bilevelrl.comparison.trials import Standing
from bilevelrl.runs.plotting import figure_class_for, save_figure, tidy
from bilevelrl.validation.arrays import Array
from bilevelrl.validation.errors import UnknownNameError

# Okabe and Ito's colours (2008), without yellow, which is too light for a line on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
STYLES = ("-", "--", ":")
CENTRES = ("mean", "median")
# Labels of lines that end closer than this fraction of the height are moved apart.
LABEL_HEIGHT = 0.047
LOG_SPAN = 30.0


@attrs.frozen(eq=False)
class _Curve:
    """A line with its band, (K,) each."""

    label: str
    color: str
    style: str
    budgets: Array
    centre: Array
    low: Array
    high: Array


def plot_standings(
    standings: Sequence[Standing], labels: Sequence[str], problem: str, budget: Budget, path: Path, centre: str
) -> Path:
    """See `Comparison.plot`; raises `InputError` if matplotlib is missing or does not support the format."""
    if centre not in CENTRES:
        raise UnknownNameError("centre", centre, CENTRES)
    figure = figure_class_for(path)(figsize=(7.6, 4.6), layout="constrained")
    axes = figure.subplots()
    places = {label: place for place, label in enumerate(labels)}  # so that colours do not depend on the ranking
    curves = [_curve(standing, centre, places[standing.algorithm]) for standing in standings]
    _draw(axes, curves, budget.amount)
    _limit(axes, curves)
    _name(axes, curves)
    band = "standard error" if centre == "mean" else "quartiles"
    count = len(standings[0].runs)
    axes.set_title(f"{problem}: {centre} over {count} seeds, band: {band}", loc="left", fontsize=10)
    axes.set_xlabel(f"{budget.unit} spent")
    axes.set_ylabel("leader's objective, re-evaluated")
    return save_figure(figure, path, dpi=110)


def _curve(standing: Standing, centre: str, place: int) -> _Curve:
    """The objectives of all of the algorithm's runs at each checkpoint that all of them reached."""
    by_part: dict[float, list[float]] = {}
    for run in standing.runs:
        for point in run.checkpoints:
            if point.budget > 0:
                by_part.setdefault(point.budget, []).append(point.objective)
    shared = {part: values for part, values in by_part.items() if len(values) == len(standing.runs)}
    budgets = np.array(sorted(shared))
    values = np.array([shared[part] for part in budgets])
    values[~np.isfinite(values).all(axis=1)] = np.nan  # leaves a gap in the line
    if centre == "median":
        low, middle, high = np.quantile(values, [0.25, 0.5, 0.75], axis=1)
    else:
        middle = values.mean(axis=1)
        error = values.std(axis=1, ddof=1) / np.sqrt(values.shape[1]) if values.shape[1] > 1 else np.zeros_like(middle)
        low, high = middle - error, middle + error
    color, style = COLORS[place % len(COLORS)], STYLES[place // len(COLORS) % len(STYLES)]
    return _Curve(standing.algorithm, color, style, budgets, middle, low, high)


def _draw(axes: Any, curves: list[_Curve], amount: float) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    for curve in curves:
        axes.plot(curve.budgets, curve.centre, color=curve.color, ls=curve.style, lw=1.6)
        axes.fill_between(curve.budgets, curve.low, curve.high, color=curve.color, alpha=0.18, lw=0)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(right=amount)
    tidy(axes)


def _limit(axes: Any, curves: list[_Curve]) -> None:
    """Limits that show all decreasing lines; a line that increases, since its steps were too long, may be cut."""
    values = np.concatenate([curve.centre for curve in curves] + [curve.low for curve in curves])
    values = values[np.isfinite(values)]
    if not values.size:
        return
    starts = [float(curve.centre[0]) for curve in curves if np.isfinite(curve.centre[:1]).any()]
    lowest = float(values.min())
    highest = min(float(values.max()), max(starts)) if starts else float(values.max())
    if lowest > 0 and highest / lowest > LOG_SPAN:
        axes.set_yscale("log")
        axes.set_ylim(lowest / 1.3, highest * 1.3)
    elif highest > lowest:
        margin = 0.06 * (highest - lowest)
        axes.set_ylim(lowest - margin, highest + margin)


def _name(axes: Any, curves: list[_Curve]) -> None:
    """Each line's name at its right end, in its colour, moved up or down until no two overlap."""
    transform = axes.transData + axes.transAxes.inverted()
    ends = []
    for curve in curves:
        known = np.isfinite(curve.centre)
        end = (curve.budgets[known][-1], curve.centre[known][-1]) if known.any() else (1.0, np.inf)
        height = float(transform.transform(end)[1]) if np.isfinite(end).all() else np.inf
        ends.append((min(1.0, max(0.0, height)), height > 1.0 + LABEL_HEIGHT, curve))
    ends.sort(key=lambda entry: entry[0])
    heights = _spread_out([height for height, _, _ in ends])
    for height, (end_height, outside, curve) in zip(heights, ends, strict=True):
        beside = {"transform": axes.transAxes, "color": curve.color}
        axes.plot([1.0, 1.02, 1.05], [end_height, height, height], ls=curve.style, lw=1.2, clip_on=False, **beside)
        axes.text(1.06, height, curve.label + " ↑" * outside, va="center", fontsize=9, **beside)


def _spread_out(heights: list[float]) -> list[float]:
    """Ascending heights, moved a little by a few passes: at least a label's height apart, and none below the axis."""
    placed = list(heights)
    for _ in range(200):
        for lower in range(len(placed) - 1):
            overlap = LABEL_HEIGHT - (placed[lower + 1] - placed[lower])
            if overlap > 0:
                placed[lower] -= overlap / 2
                placed[lower + 1] += overlap / 2
    lowest = 0.0
    for index, height in enumerate(placed):
        placed[index] = max(height, lowest)
        lowest = placed[index] + LABEL_HEIGHT
    return placed
