"""Compiled loops for sparse MDPs; numba is imported with this module, so import it where a kernel is called.

All loops release the interpreter's lock and write to the rows they are given only, so that threads may share the rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bilevelrl.compilation import compiled
from bilevelrl.validation import Array, Indices

# So many states advance side by side, action after action: their exponentials are then computed in vector registers.
ABREAST = 64

# ln 2 in two parts, the first with trailing zeros, so that n·ln 2 is subtracted exactly (Cody and Waite 1980).
LN2_HIGH, LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
# Adding 1.5·2^52 rounds to an integer, which then stands in the number's low bits.
ROUNDER = 6755399441055744.0
SMALLEST_EXPONENT = -708.0  # e^−708 is a normal number; what is smaller is nothing beside the largest action's one

# Reordering sums must stay forbidden: it would undo the rounding by ROUNDER. NaN must stay NaN.
_compiled = compiled(error_model="numpy", fastmath={"contract", "nsz", "arcp"})


@_compiled
def _exponentials(exponents: Array, bits: Any, powers: Array) -> None:
    """`e^t` of numbers t ≤ 0 in place, to 1.5 ulp; zero below −708. `bits` and `powers` are scratch of equal memory.

    `e^t = 2^n e^r` with n an integer and |r| ≤ ln 2/2, where thirteen terms of the series are exact to rounding.
    """
    for i in range(exponents.size):
        t = max(exponents[i], SMALLEST_EXPONENT) if exponents[i] == exponents[i] else exponents[i]
        shifted = t * 1.4426950408889634 + ROUNDER
        n = shifted - ROUNDER
        r = (t - n * LN2_HIGH) - n * LN2_LOW
        p = 1.0 / 479001600.0
        p = p * r + 1.0 / 39916800.0
        p = p * r + 1.0 / 3628800.0
        p = p * r + 1.0 / 362880.0
        p = p * r + 1.0 / 40320.0
        p = p * r + 1.0 / 5040.0
        p = p * r + 1.0 / 720.0
        p = p * r + 1.0 / 120.0
        p = p * r + 1.0 / 24.0
        p = p * r + 1.0 / 6.0
        p = p * r + 0.5
        p = p * r + 1.0
        p = p * r + 1.0
        exponents[i] = p if t > SMALLEST_EXPONENT else -0.0 * t
        powers[i] = shifted
    for i in range(exponents.size):
        bits[i] = (bits[i] << 52) + 4607182418800017408  # 2^n: n + 1023 in the exponent's place
    for i in range(exponents.size):
        exponents[i] *= powers[i]


@_compiled
def soft_backup_rows(
    first: int,
    last: int,
    pointers: Indices,
    successors: Indices,
    probabilities: Array,
    rewards: Array,
    scaled_rewards: Array,
    discount: float,
    temperature: float,
    values: Array,
    backed_up: Array,
    policy: Array,
    action_values: Array,
    chain_pointers: Indices,
    slots: Indices,
    chain: Array,
) -> None:
    """One pass over the rows of the states first..last−1: `T v`, and where asked for `π(v)`, `q(v)` and `P^π(v)`.

    Args:
        first: the first state.
        last: the state after the last.
        pointers: (S·A + 1,) where each row of P begins.
        successors: (nnz,) columns of P.
        probabilities: (nnz,) entries of P.
        rewards: r (S, A).
        scaled_rewards: `r/τ + log μ` (S, A).
        discount: γ.
        temperature: τ.
        values: v (S,).
        backed_up: (S,), written.
        policy: (S, A), written; of size zero where only `T v` is wanted.
        action_values: (S, A), written where `policy` is.
        chain_pointers: (S + 1,) where each row of `P^π` begins.
        slots: (nnz,) where each entry of P goes in `P^π`; of size zero where `P^π` is not wanted.
        chain: the entries of `P^π`, written.
    """
    actions, inverse = rewards.shape[1], 1.0 / temperature
    # Action after action, each with ABREAST states side by side.
    exponents, powers = np.empty(actions * ABREAST), np.empty(actions * ABREAST)
    bits = powers.view(np.int64)
    largest, total = np.empty(ABREAST), np.empty(ABREAST)
    for begin in range(first, last, ABREAST):
        abreast = min(ABREAST, last - begin)
        exponents[:] = 0.0
        for i in range(abreast):
            s, top = begin + i, -np.inf
            for a in range(actions):
                row, expected = s * actions + a, 0.0
                for e in range(np.uint64(pointers[row]), np.uint64(pointers[row + 1])):
                    expected += probabilities[e] * values[np.uint64(successors[e])]
                expected *= discount
                if policy.size:
                    action_values[s, a] = rewards[s, a] + expected
                preference = scaled_rewards[s, a] + expected * inverse
                exponents[a * ABREAST + i] = preference
                # Written so that NaN stays.
                top = top if top >= preference else preference
            largest[i] = top
        for a in range(actions):
            for i in range(abreast):
                exponents[a * ABREAST + i] -= largest[i]
        _exponentials(exponents, bits, powers)
        total[:] = 0.0
        for a in range(actions):
            for i in range(ABREAST):
                total[i] += exponents[a * ABREAST + i]
        for i in range(abreast):
            backed_up[begin + i] = temperature * (largest[i] + np.log(total[i]))
        if not policy.size:
            continue
        for i in range(abreast):
            s, share = begin + i, 1.0 / total[i]
            for a in range(actions):
                policy[s, a] = exponents[a * ABREAST + i] * share
            if slots.size:
                for e in range(np.uint64(chain_pointers[s]), np.uint64(chain_pointers[s + 1])):
                    chain[e] = 0.0
                for a in range(actions):
                    row, probability = s * actions + a, policy[s, a]
                    for e in range(np.uint64(pointers[row]), np.uint64(pointers[row + 1])):
                        chain[np.uint64(slots[e])] += probability * probabilities[e]


@_compiled
def pair_states(pointers: Indices, neighbours: Indices, weights: Array) -> Indices:
    """Labels (S,) of a matching: each state not yet taken with the one it is most strongly tied to, or alone.

    Args:
        pointers: (S + 1,) where each row of a symmetric matrix begins.
        neighbours: (nnz,) its columns.
        weights: (nnz,) how strong each tie is; those of a state with itself do not count.
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
    """One Gauss–Seidel sweep from zero, and the residual it leaves, summed over aggregates.

    Two sweeps in fact, side by side, through the first half of the states and through the second, neither of which sees
    the other: a state waits for the one before it, and while it does the processor has time for another.

    Args:
        pointers: (S + 1,) where each row of `D − W` begins; columns ascend in a row.
        begins: (S,) where its entries in the state's own half begin.
        middles: (S,) where those with column at least the row's number begin.
        columns: (nnz,).
        weights: (nnz,) entries of W, zero on the diagonal.
        inverse_diagonal: (S,) of D.
        right_hand_side: (S,).
        labels: (S,) the aggregate of each state; of size zero where no residual is wanted.
        answer: (S,), written.
        sums: (aggregates + 1,), written; its last place is for states in no aggregate.
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
        pointers: as there, like the others.
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
