"""The picture of a run: the problem's own picture beside the curves of objective and gradient."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bilevelrl.outer_loop import OuterLoop
from bilevelrl.problems.bilevel_problem import BilevelProblem
from bilevelrl.storage.files import write_atomically
from bilevelrl.storage.history import History
from bilevelrl.validation.arrays import Array
from bilevelrl.validation.errors import InputError, value_words


class Drawable(Protocol):
    """The data of a run that a picture shows."""

    @property
    def problem(self) -> BilevelProblem:
        """The problem; its own picture is on the left."""

    @property
    def algorithm(self) -> OuterLoop:
        """The algorithm; its name is in the title."""

    @property
    def x(self) -> Array:
        """The leader's last decision (n,)."""

    @property
    def solution(self) -> Any:
        """The follower's answer there."""

    @property
    def history(self) -> History:
        """The curves."""


# Colours that colour-blind readers can distinguish (Okabe and Ito 2008).
OBJECTIVE, DIRECT, IMPLICIT, TOTAL = "#000000", "#E69F00", "#0072B2", "#999999"


def plot_run(run: Drawable, path: Path) -> Path:
    """Draw a run into `path`, in the format of its suffix.

    Raises `InputError` if matplotlib is missing or does not support the format.
    """
    figure_class = figure_class_for(path)
    with_picture = run.problem.picture is not None
    figure = figure_class(figsize=(12.0, 5.2) if with_picture else (6.4, 5.2), layout="constrained")
    grid = figure.add_gridspec(2, 2 if with_picture else 1, width_ratios=[1.15, 1.0] if with_picture else [1.0])
    if run.problem.picture is not None:
        run.problem.picture(figure.add_subplot(grid[:, 0]), run.x, run.solution)
    column = int(with_picture)
    upper = figure.add_subplot(grid[0, column])
    _draw_objective(upper, run)
    _draw_gradients(figure.add_subplot(grid[1, column], sharex=upper), run)
    figure.suptitle(f"{run.algorithm.name} on {run.problem.name}")
    return save_figure(figure, path, dpi=140)


def save_figure(figure: Any, path: Path, *, dpi: int) -> Path:
    """Write a figure completely or not at all, in the format of the name's suffix; its directory is made."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=dpi, format=path.suffix.removeprefix(".").lower())
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())
    return path


def figure_class_for(path: Path) -> Any:
    """matplotlib's `Figure`, which draws without a screen and without global state.

    Raises `InputError` if matplotlib is missing, or does not write the format of the name's suffix.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("matplotlib", "not installed", "pip install 'bilevelrl[plot]'") from None
    if path.suffix.removeprefix(".").lower() not in Figure().canvas.get_supported_filetypes():
        raise InputError("the name of the picture", value_words(path.name), "one that ends in .png, .svg or .pdf")
    return Figure


def _draw_objective(axes: Any, run: Drawable) -> None:
    axes.plot(run.history["iteration"], run.history["objective"], color=OBJECTIVE, lw=1.6)
    axes.set_title("leader's objective", loc="left", fontsize=10)
    axes.tick_params(labelbottom=False)
    tidy(axes)


def _draw_gradients(axes: Any, run: Drawable) -> None:
    iterations = run.history["iteration"]
    for column, label, color, style in (
        ("direct_norm", "direct", DIRECT, "-"),
        ("implicit_norm", "implicit", IMPLICIT, "-"),
        ("stationarity", "distance to stationarity", TOTAL, "--"),
    ):
        values = _positive(run.history[column])
        told = label if np.isfinite(values).any() else f"{label} (zero throughout)"
        axes.plot(iterations, values, color=color, ls=style, lw=1.4, label=told)
    axes.set_yscale("log")
    axes.set_title("gradient", loc="left", fontsize=10)
    axes.set_xlabel("outer iteration")
    axes.set_ylabel("Euclidean norm")
    axes.legend(frameon=False, fontsize=9)
    tidy(axes)


def _positive(values: Array) -> Array:
    # A value of exactly zero cannot be shown on a log scale: leave a gap.
    return np.where(values > 0, values, np.nan)


def tidy(axes: Any) -> None:
    """Draw only two sides of the frame, and a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, lw=0.6)
