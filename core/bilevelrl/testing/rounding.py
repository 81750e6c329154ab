"""First-order bounds on the effect of rounding, from which the laws derive their tolerances."""

from __future__ import annotations

from bilevelrl.mdp.rounding import EPSILON as EPSILON, TINY as TINY, backup_rounding as backup_rounding
from bilevelrl.mdp.soft_mdp import SoftMDP
from bilevelrl.validation.arrays import Array


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
