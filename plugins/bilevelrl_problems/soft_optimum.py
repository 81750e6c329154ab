"""The soft-optimal policy of an MDP, for problems whose leader recovers or matches one."""

from __future__ import annotations

import numpy as np

import bilevelrl as bl

EPSILON = float(np.finfo(np.float64).eps)
MOST_STEPS = 100
LARGEST_DISCOUNT = 1.0 - 1e-12


def soft_optimal_policy(mdp: bl.SoftMDP) -> bl.Array:
    """`π*` (S, A) to rounding, by Newton's method on `v − Tv = 0`: a few linear solves.

    Raises:
        InputError: for a discount so close to one that `I − γP^π` cannot be inverted in float64.
    """
    if mdp.discount > LARGEST_DISCOUNT:
        raise bl.InputError("discount", repr(mdp.discount), f"a number of at most {LARGEST_DISCOUNT!r}")
    values = np.zeros(mdp.states)
    for _ in range(MOST_STEPS):
        backup = bl.mdp.soft_backup(mdp, values)
        miss = backup.values - values
        if bl.validation.maximum_norm(miss) <= 8 * EPSILON * bl.validation.maximum_norm(backup.action_values):
            return backup.policy
        values = values + bl.mdp.Linearization(mdp.transitions, mdp.discount, backup.policy).solve(miss)
    return bl.mdp.soft_backup(mdp, values).policy
