"""Compiled loops for sparse MDPs. This module imports numba, so import it inside the functions that use it.

All loops release the interpreter's lock and write only to the rows they are given, so that threads can divide the rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bilevelrl.execution.compilation import compiled
from bilevelrl.validation.arrays import Array, Indices

# So many states are processed side by side, action by action: their exponentials then use vector registers.
ABREAST = 64

# ln 2 in two parts, the first with trailing zeros, so that n·ln 2 is subtracted exactly (Cody and Waite 1980).
LN2_HIGH, LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
# Adding 1.5·2^52 rounds to an integer, which is then in the number's low bits.
ROUNDER = 6755399441055744.0
SMALLEST_EXPONENT = -708.0  # e^−708 is a normal number; smaller ones are negligible beside the largest action's 1

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
        bits[i] = (bits[i] << 52) + 4607182418800017408  # 2^n: n + 1023 in the exponent's bits
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
    """One pass over the rows of the states first..last−1: `T v`, and optionally `π(v)`, `q(v)` and `P^π(v)`.

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
        policy: (S, A), written; of size zero if only `T v` is needed.
        action_values: (S, A), written if `policy` is.
        chain_pointers: (S + 1,) where each row of `P^π` begins.
        slots: (nnz,) the position of each entry of P in `P^π`; of size zero if `P^π` is not needed.
        chain: the entries of `P^π`, written.
    """
    actions, inverse = rewards.shape[1], 1.0 / temperature
    # Action by action, each with ABREAST states side by side.
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
