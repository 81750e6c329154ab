"""A compiled pass over a dense P; numba is imported with this module, so import it where the kernel is called."""

from __future__ import annotations

import numpy as np

from bilevelrl.compilation import compiled
from bilevelrl.validation import Array

# Sums may be reordered, so that they are taken in vector registers; NaN must stay NaN.
_compiled = compiled(error_model="numpy", fastmath={"contract", "nsz", "arcp", "reassoc"})


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
    states, actions = backed_up.size, rewards.shape[1]
    inverse = 1.0 / temperature
    for s in range(first, last):
        largest = -np.inf
        for a in range(actions):
            expected = 0.0
            for t in range(states):
                expected += probabilities[s, a, t] * values[t]
            expected *= discount
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
        for t in range(states):
            chain[s, t] = policy[s, 0] * probabilities[s, 0, t]
        for a in range(1, actions):
            share = policy[s, a]
            for t in range(states):
                chain[s, t] += share * probabilities[s, a, t]
