"""A gridworld as a person wants to see it: what the leader pays as colours, what the follower does as arrows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import bilevelrl as bl

# FrozenLake's actions: left, down, right, up; y grows downwards in the picture.
DIRECTIONS = np.array([(-1, 0), (0, 1), (1, 0), (0, -1)])
WATER = "#26323A"


def draw_grid_policy(axes: Any, letters: Any, shaping: bl.Array, policy: bl.Array) -> None:
    """Colour every cell by its shaping reward and draw one arrow per action, as long as it is probable.

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
    axes.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", lw=1.5)
    axes.tick_params(which="both", length=0, labelbottom=False, labelleft=False)
    axes.spines[:].set_visible(False)
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
    """One arrow per action of a cell, as long as it is probable; none below 0.1.

    `heads` are the sizes of the head, in points, at probability zero and one.
    """
    for probability, (dx, dy) in zip(probabilities, DIRECTIONS, strict=True):
        if probability > 0.1:
            axes.annotate(
                "",
                # Tails a little off the centre, so that the arrows of a mixed policy do not pile up there.
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
    """Two grids side by side on one scale of colours, to be compared: values less their mean, policies as arrows.

    Args:
        axes: matplotlib axes.
        words: (rows, columns), what to write into a corner of each cell.
        pairs: (label, values (S,), policy (S, 4)) of the left grid and of the right.
        title: what colours and arrows mean.
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
        inset.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
        inset.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
        inset.grid(which="minor", color="white", lw=1.5)
        inset.tick_params(which="both", length=0, labelbottom=False, labelleft=False)
        inset.spines[:].set_visible(False)
        inset.set_title(label, fontsize=9)
    axes.figure.colorbar(image, cax=axes.inset_axes((0.2, 0.19, 0.6, 0.025)), orientation="horizontal")
