"""Pictures of gridworlds: the leader's payments as colours, the follower's policy as arrows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import bilevelrl as bl

# FrozenLake's actions: left, down, right, up; y grows downwards in the picture.
DIRECTIONS = np.array([(-1, 0), (0, 1), (1, 0), (0, -1)])
WATER = "#26323A"


def draw_grid_policy(axes: Any, letters: Any, shaping: bl.Array, policy: bl.Array) -> None:
    """Colour every cell by its shaping reward and draw one arrow per action, with length by probability.

    Args:
        axes: matplotlib axes.
        letters: (rows, columns), FrozenLake's S, F, H and G.
        shaping: (S,) rewards, row-major.
        policy: (S, 4) in the order left, down, right, up.
    """
    rows, columns = letters.shape
    largest = float(np.abs(shaping).max()) or 1.0
    cells = np.ma.masked_array(shaping.reshape(rows, columns), np.isin(letters, ["H", "G"]))
    image = axes.imshow(cells, cmap="RdBu", vmin=-largest, vmax=largest)
    for row, column in np.ndindex(rows, columns):
        state = row * columns + column
        # Black on the light middle of the colour map, white on its dark ends.
        ink = "white" if abs(shaping[state]) > 0.65 * largest else "black"
        _draw_cell(axes, row, column, str(letters[row, column]), policy[state], ink)
    rule(axes, rows, columns)
    axes.set_title("learned shaping reward (colour), follower's policy (arrows)", loc="left", fontsize=10)
    axes.figure.colorbar(image, ax=axes, shrink=0.8, label="shaping reward")


def _draw_cell(axes: Any, row: int, column: int, letter: str, probabilities: bl.Array, ink: str) -> None:
    if letter == "H":
        axes.fill_between([column - 0.5, column + 0.5], row - 0.5, row + 0.5, color=WATER, lw=0)
        axes.text(column, row, "hole", color="white", ha="center", va="center", fontsize=7)
        return
    if letter == "G":
        axes.fill_between([column - 0.5, column + 0.5], row - 0.5, row + 0.5, color="#F0C419", lw=0)
        axes.text(column, row, "goal", color="black", ha="center", va="center", fontsize=8, weight="bold")
        return
    if letter == "S":
        axes.text(column - 0.46, row - 0.3, "start", color=ink, fontsize=6)
    draw_arrows(axes, row, column, probabilities, ink)


def draw_arrows(
    axes: Any,
    row: int,
    column: int,
    probabilities: bl.Array,
    ink: str,
    heads: tuple[float, float] = (9.0, 9.0),
) -> None:
    """One arrow per action of a cell, with length by probability; none below 0.1.

    `heads` are the sizes of the head, in points, at probability zero and one.
    """
    for probability, (dx, dy) in zip(probabilities, DIRECTIONS, strict=True):
        if probability > 0.1:
            axes.annotate(
                "",
                # Tails slightly away from the centre, so that the arrows of a mixed policy do not overlap there.
                xy=(column + (0.06 + 0.38 * probability) * dx, row + (0.06 + 0.38 * probability) * dy),
                xytext=(column + 0.06 * dx, row + 0.06 * dy),
                arrowprops={
                    "arrowstyle": "-|>",
                    "lw": 1.3,
                    "color": ink,
                    "shrinkA": 0,
                    "shrinkB": 0,
                    "mutation_scale": heads[0] + (heads[1] - heads[0]) * probability,
                },
            )


def draw_grid_pair(axes: Any, words: Any, pairs: Sequence[tuple[str, bl.Array, bl.Array]], title: str) -> None:
    """Two grids side by side with one colour scale: values minus their mean, policies as arrows.

    Args:
        axes: matplotlib axes.
        words: (rows, columns), the text in a corner of each cell.
        pairs: (label, values (S,), policy (S, 4)) of the left grid and of the right.
        title: the meaning of colours and arrows.
    """
    rows, columns = words.shape
    centred = [values - values.mean() for _, values, _ in pairs]
    largest = max(float(np.abs(values).max()) for values in centred) or 1.0
    axes.axis("off")
    axes.set_title(title, loc="left", fontsize=10)
    for place, ((label, _, policy), values) in enumerate(zip(pairs, centred, strict=True)):
        inset = axes.inset_axes((0.51 * place, 0.1, 0.49, 0.84), anchor="N")
        image = inset.imshow(values.reshape(rows, columns), cmap="RdBu", vmin=-largest, vmax=largest)
        for row, column in np.ndindex(rows, columns):
            ink = "white" if abs(values[row * columns + column]) > 0.65 * largest else "black"
            word = str(words[row, column])
            inset.text(column - 0.45, row - 0.28, word, color=ink, fontsize=5.5)
            draw_arrows(inset, row, column, policy[row * columns + column], ink, heads=(2.0, 9.0))
        rule(inset, rows, columns)
        inset.set_title(label, fontsize=9)
    axes.figure.colorbar(image, cax=axes.inset_axes((0.2, 0.19, 0.6, 0.025)), orientation="horizontal")


GOAL_INKS = ("#0072B2", "#D55E00")
# Up, right, down, left; y grows downwards in the picture.
COMPASS = np.array([(0, -1), (1, 0), (0, 1), (-1, 0)])


def draw_incentives(
    axes: Any, free: Any, incentives: bl.Array, policies: Any, marks: dict[str, tuple[int, int]], goals: Any
) -> None:
    """Colour every free cell by its cost, and draw the mean move of each context's follower as an arrow.

    Args:
        axes: matplotlib axes.
        free: (rows, columns), False for walls.
        incentives: (cells,) at most zero, row-major over the free cells.
        policies: one policy (cells, 4) for each context, in the order up, right, down, left.
        marks: cells with labels.
        goals: one cell for each context.
    """
    from matplotlib.colors import PowerNorm

    costs = np.ma.masked_array(np.zeros(free.shape), ~free)
    costs[free] = -incentives
    axes.set_facecolor(WATER)
    # A root, so that small incentives on many cells stay visible beside a large one.
    image = axes.imshow(costs, cmap="Greens", norm=PowerNorm(0.5, vmin=0.0, vmax=max(float(costs.max()), 1e-12)))
    rows, columns = np.nonzero(free)
    shifts = 0.12 * (np.arange(len(policies)) - (len(policies) - 1) / 2)
    for policy, shift, ink, goal in zip(policies, shifts, GOAL_INKS, goals, strict=True):
        right, down = (policy @ COMPASS).T
        away = (rows != goal[0]) | (columns != goal[1])
        axes.quiver(
            (columns + shift)[away],
            (rows + shift)[away],
            right[away],
            down[away],
            color=ink,
            angles="xy",
            scale_units="xy",
            scale=1.7,
            width=0.004,
            pivot="mid",
        )
        axes.text(goal[1], goal[0], "G", color=ink, ha="center", va="center", fontsize=12, weight="bold")
    for label, (row, column) in marks.items():
        axes.add_patch(_outline(row, column))
        axes.text(column, row - 0.3, label, ha="center", va="center", fontsize=5.5)
    axes.tick_params(which="both", length=0, labelbottom=False, labelleft=False)
    axes.spines[:].set_visible(False)
    axes.set_title("incentives (colour), mean moves to each goal G (arrows)", loc="left", fontsize=9)
    axes.figure.colorbar(image, ax=axes, shrink=0.8, label="cost of the cell, −x")


def _outline(row: int, column: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.5, row - 0.5), 1.0, 1.0, fill=False, edgecolor="#F0C419", lw=2.0)


def rule(axes: Any, rows: int, columns: int) -> None:
    """Separate the cells of a grid by white lines, without ticks and without a frame."""
    axes.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", lw=1.5)
    axes.tick_params(which="both", length=0, labelbottom=False, labelleft=False)
    axes.spines[:].set_visible(False)
