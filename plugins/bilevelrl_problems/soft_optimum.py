"""The soft-optimal policy of an MDP, for problems whose leader recovers or matches one."""

from __future__ import annotations

import bilevelrl as bl

LARGEST_DISCOUNT = 1.0 - 1e-12


def soft_optimal_policy(mdp: bl.SoftMDP) -> bl.Array:
    """`π*` (S, A) to rounding, by Newton's method on `v − Tv = 0`: a few linear solves.

    Raises:
        InputError: for a discount so close to one that `I − γP^π` cannot be inverted in float64.
    """
    if mdp.discount > LARGEST_DISCOUNT:
        raise bl.InputError("discount", repr(mdp.discount), f"a number of at most {LARGEST_DISCOUNT!r}")
    return bl.mdp.soft_policy_iteration(mdp, tolerance=0.0).policy
