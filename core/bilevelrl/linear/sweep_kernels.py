"""Compiled Gauss–Seidel sweeps and the matching of states; numba is imported with this module."""

from __future__ import annotations

import numpy as np

from bilevelrl.execution.compilation import compiled
from bilevelrl.validation.arrays import Array, Indices

# Sums keep their order: a result must not depend on the width of a processor's registers.
_compiled = compiled(error_model="numpy", fastmath={"contract", "nsz", "arcp"})


@_compiled
def pair_states(pointers: Indices, neighbours: Indices, weights: Array) -> Indices:
    """Labels (S,) of a matching: each free state is paired with the free state of its strongest connection, or stays
    alone.

    Args:
        pointers: (S + 1,) where each row of a symmetric matrix begins.
        neighbours: (nnz,) its columns.
        weights: (nnz,) the strength of each connection; a state's connection with itself does not count.
    """
    states = pointers.size - 1
    labels = np.full(states, -1, np.int64)
    count = 0
    for s in range(states):
        if labels[s] >= 0:
            continue
        partner, strongest = -1, 0.0
        for e in range(pointers[s], pointers[s + 1]):
            t = neighbours[e]
            if t != s and labels[t] < 0 and weights[e] > strongest:
                partner, strongest = t, weights[e]
        labels[s] = count
        if partner >= 0:
            labels[partner] = count
        count += 1
    return labels


@_compiled
def _sum_row(first: int, last: int, columns: Indices, weights: Array, values: Array, total: float) -> float:
    for e in range(np.uint64(first), np.uint64(last)):
        total += weights[e] * values[np.uint64(columns[e])]
    return total


@_compiled
def sweep_forward(
    pointers: Indices,
    begins: Indices,
    middles: Indices,
    columns: Indices,
    weights: Array,
    inverse_diagonal: Array,
    right_hand_side: Array,
    labels: Indices,
    answer: Array,
    sums: Array,
) -> None:
    """One Gauss–Seidel sweep from zero, and the residual after it, summed over aggregates.

    It makes two independent sweeps side by side, one over the first half of the states and one over the second. Each
    state depends on the state before it, and the processor works on one half while it waits for the other.

    Args:
        pointers: (S + 1,) where each row of `D − W` begins; columns ascend in a row.
        begins: (S,) where the entries in the state's own half begin.
        middles: (S,) where the entries with column at least the row's number begin.
        columns: (nnz,).
        weights: (nnz,) entries of W, zero on the diagonal.
        inverse_diagonal: (S,) of D.
        right_hand_side: (S,).
        labels: (S,) the aggregate of each state; of size zero if no residual is needed.
        answer: (S,), written.
        sums: (aggregates + 1,), written; its last entry is for states in no aggregate.
    """
    size = right_hand_side.size
    half = (size + 1) // 2
    for i in range(half):
        j = i + half
        total = _sum_row(begins[i], middles[i], columns, weights, answer, right_hand_side[i])
        if j < size:
            other = _sum_row(begins[j], middles[j], columns, weights, answer, right_hand_side[j])
            answer[j] = other * inverse_diagonal[j]
        answer[i] = total * inverse_diagonal[i]
    if not labels.size:
        return
    sums[:] = 0.0
    for s in range(size):
        left = _sum_row(pointers[s], begins[s], columns, weights, answer, 0.0)
        left = _sum_row(middles[s], pointers[s + 1], columns, weights, answer, left)
        sums[np.uint64(labels[s])] += left


@_compiled
def sweep_backward(
    pointers: Indices,
    columns: Indices,
    weights: Array,
    inverse_diagonal: Array,
    right_hand_side: Array,
    labels: Indices,
    correction: Array,
    answer: Array,
) -> None:
    """Add each aggregate's correction, then one Gauss–Seidel sweep from the last state to the first, in place.

    Two states at a time, one from each half, as in `sweep_forward`.

    Args:
        pointers: (S + 1,), like the other arguments as in `sweep_forward`.
        columns: (nnz,).
        weights: (nnz,).
        inverse_diagonal: (S,).
        right_hand_side: (S,).
        labels: (S,) or of size zero.
        correction: (aggregates + 1,).
        answer: (S,), improved.
    """
    size = right_hand_side.size
    half = (size + 1) // 2
    if labels.size:
        for s in range(size):
            answer[s] += correction[np.uint64(labels[s])]
    for k in range(half):
        i, j = half - 1 - k, size - 1 - k
        total = _sum_row(pointers[i], pointers[i + 1], columns, weights, answer, right_hand_side[i])
        if j >= half:
            other = _sum_row(pointers[j], pointers[j + 1], columns, weights, answer, right_hand_side[j])
            answer[j] = other * inverse_diagonal[j]
        answer[i] = total * inverse_diagonal[i]
