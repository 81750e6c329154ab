"""The square grid that several problems share."""

from __future__ import annotations

import numpy as np

import bilevelrl as bl

# left, down, right, up, as in Gymnasium's FrozenLake: the picture draws both.
MOVES = np.array([(0, -1), (1, 0), (0, 1), (-1, 0)])


def grid_transitions(size: int, slip: float) -> bl.Array:
    """P (S, 4, S) of a size×size grid, cells row-major, whose actions are left, down, right, up.

    The intended move happens with probability 1 − slip, each other one with slip/3. Moves into the border have no
    effect.
    """
    bl.validation.check_fits("the transitions of the grid", (size**2, 4, size**2))
    kernel = np.zeros((size**2, 4, size**2))
    for state in range(size**2):
        row, column = divmod(state, size)
        for action in range(4):
            for move, (down, right) in enumerate(MOVES):
                target = np.clip((row + down, column + right), 0, size - 1)
                probability = 1.0 - slip if move == action else slip / 3
                kernel[state, action, target[0] * size + target[1]] += probability
    return kernel
