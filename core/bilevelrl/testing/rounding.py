"""How far rounding alone can move an answer: first-order bounds, so that no tolerance is a matter of taste."""

from __future__ import annotations

import numpy as np

from bilevelrl.mdp import SoftMDP
from bilevelrl.validation import Array

EPSILON = float(np.finfo(np.float64).eps)
TINY = 1e-300  # below it doubles are subnormal, or soon will be, and have few digits left


def backup_rounding(mdp: SoftMDP, *values: Array) -> float:
    """What rounding can do to `T v` at any of the `values` (S,).

    q sums S products; the log-sum-exp sums A terms and multiplies a logarithm by τ; each rounds by an ulp of the
    largest number in the sum.
    """
    log_reference = 0.0 if mdp.reference is None else float(np.abs(np.log(mdp.reference)).max())
    largest_value = max((float(np.abs(v).max()) for v in values), default=0.0)
    largest = float(np.abs(mdp.rewards).max()) + largest_value + mdp.temperature * (1 + log_reference)
    return 2 * (mdp.states + mdp.actions + 4) * EPSILON * largest


def value_error(mdp: SoftMDP, values: Array, residual: float) -> float:
    """`‖v − V*‖∞ ≤ (‖Tv − v‖∞ + rounding of it)/(1−γ)`, by the contraction."""
    return (residual + backup_rounding(mdp, values)) / (1 - mdp.discount)


def policy_error(mdp: SoftMDP, values: Array, residual: float) -> float:
    """`|log π(v) − log π*|`: a value error δ moves q by γδ and T v by γδ, and both are divided by τ."""
    error = mdp.discount * value_error(mdp, values, residual) + backup_rounding(mdp, values)
    return 2 * error / mdp.temperature


def solve_rounding(mdp: SoftMDP) -> float:
    """The relative error of a backward stable solve with `I − γP^π`: its condition number, at most 2/(1−γ), in ulps."""
    return 16 * (mdp.states + mdp.actions) * EPSILON / (1 - mdp.discount)
