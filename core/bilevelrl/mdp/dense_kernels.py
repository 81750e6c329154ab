"""Compiled passes over a dense P. This module imports numba, so import it inside the functions that use it."""

from __future__ import annotations

import numpy as np

from bilevelrl.execution.compilation import compiled
from bilevelrl.validation.arrays import Array

# Sums may be reordered, so that they use vector registers; NaN must stay NaN.
_compiled = compiled(error_model="numpy", fastmath={"contract", "nsz", "arcp", "reassoc"})


# So many rows are processed side by side: each entry of v, or of the sum, is then loaded once for all of them.
ABREAST = 4


@_compiled
def _expectations(rows: Array, values: Array, expected: Array) -> None:
    """`rows · values` (A,), for rows (A, S)."""
    together = rows.shape[0] - rows.shape[0] % ABREAST
    for a in range(0, together, ABREAST):
        first, second, third, fourth = rows[a], rows[a + 1], rows[a + 2], rows[a + 3]
        one = two = three = four = 0.0
        for t in range(values.size):
            value = values[t]
            one += first[t] * value
            two += second[t] * value
            three += third[t] * value
            four += fourth[t] * value
        expected[a], expected[a + 1], expected[a + 2], expected[a + 3] = one, two, three, four
    for a in range(together, rows.shape[0]):
        one, row = 0.0, rows[a]
        for t in range(values.size):
            one += row[t] * values[t]
        expected[a] = one


@_compiled
def _average(rows: Array, weights: Array, average: Array) -> None:
    """`weightsᵀ · rows` (S,), for rows (A, S)."""
    together = rows.shape[0] - rows.shape[0] % ABREAST
    average[:] = 0.0
    for a in range(0, together, ABREAST):
        first, second, third, fourth = rows[a], rows[a + 1], rows[a + 2], rows[a + 3]
        one, two, three, four = weights[a], weights[a + 1], weights[a + 2], weights[a + 3]
        for t in range(average.size):
            average[t] += one * first[t] + two * second[t] + three * third[t] + four * fourth[t]
    for a in range(together, rows.shape[0]):
        one, row = weights[a], rows[a]
        for t in range(average.size):
            average[t] += one * row[t]


@_compiled
def averaged_tables(first: int, last: int, probabilities: Array, policy: Array, chain: Array) -> None:
    """The rows first..last−1 of `P^π` (S, S), written to `chain`; P (S, A, S), π (S, A)."""
    for s in range(first, last):
        _average(probabilities[s], policy[s], chain[s])


@_compiled
def soft_backup_tables(
    first: int,
    last: int,
    probabilities: Array,
    rewards: Array,
    scaled_rewards: Array,
    discount: float,
    temperature: float,
    values: Array,
    backed_up: Array,
    policy: Array,
    action_values: Array,
    chain: Array,
) -> None:
    """One pass over the rows of the states first..last−1: `T v`, `π(v)`, `q(v)` and `P^π(v)`.

    The A rows of one state are read from memory once: for `P^π` they are still in the cache.

    Args:
        first: the first state.
        last: the state after the last.
        probabilities: P (S, A, S).
        rewards: r (S, A).
        scaled_rewards: `r/τ + log μ` (S, A).
        discount: γ.
        temperature: τ.
        values: v (S,).
        backed_up: (S,), written.
        policy: (S, A), written.
        action_values: (S, A), written.
        chain: (S, S), written.
    """
    actions, inverse = rewards.shape[1], 1.0 / temperature
    for s in range(first, last):
        _expectations(probabilities[s], values, action_values[s])
        largest = -np.inf
        for a in range(actions):
            expected = discount * action_values[s, a]
            action_values[s, a] = rewards[s, a] + expected
            preference = scaled_rewards[s, a] + expected * inverse
            policy[s, a] = preference
            largest = largest if largest >= preference else preference
        total = 0.0
        for a in range(actions):
            weight = np.exp(policy[s, a] - largest)
            policy[s, a] = weight
            total += weight
        backed_up[s] = temperature * (largest + np.log(total))
        for a in range(actions):
            policy[s, a] /= total
        _average(probabilities[s], policy[s], chain[s])
