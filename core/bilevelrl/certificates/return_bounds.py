"""Bounds on how far the gradients of a return move with the policy and with rounding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np

from bilevelrl.certificates.derivative_bounds import derivative_norms
from bilevelrl.certificates.nearby_policies import NearbyPolicies
from bilevelrl.mdp.rounding import EPSILON, column_terms, pullback_rounding, row_defect, row_terms, sum_rounding
from bilevelrl.objectives.judged_returns import JudgedReturn
from bilevelrl.validation.arrays import Array, maximum_norm


@attrs.frozen
class ReturnChange:
    """Bounds on the distance of a `JudgedReturn` from the exact arrays of nearby policies.

    Args:
        action_values: `max_sa |Q' − Q̂|`.
        values: `max_s |V' − V̂|`.
        visits: `Σ_s |d' − d̂|`.
    """

    action_values: float
    values: float
    visits: float


def return_change(judged: JudgedReturn, nearby: NearbyPolicies) -> ReturnChange:
    """Bounds on the distance of these arrays from those of a nearby policy π'.

        (I − γ̄P̄^π') (V' − V̂)  = Σ_a π'Q̂ − V̂,                    at most |Σ_a πQ̂ − V̂| + |Σ_a (π' − π)Q̂|
        (I − γ̄P̄^π')ᵀ (d' − d̂) = ρ̄ − d̂ + γ̄P̄ᵀ(π'd̂),             likewise, summed over states

    and both matrices have an inverse of norm at most `1/(1−γ̄)`: the residuals of the solves count like changes of π.
    """
    mdp, policy, visited = judged.mdp, nearby.policy, np.abs(judged.visits)
    growth = mdp.discount * (1.0 + row_defect(mdp.transitions))
    if not growth < 1.0:
        return ReturnChange(np.inf, np.inf, np.inf)
    largest = maximum_norm(mdp.rewards) + growth * maximum_norm(judged.values)
    of_sums = sum_rounding(row_terms(mdp.transitions) + mdp.actions) * largest
    missed = np.abs((policy * judged.action_values).sum(axis=1) - judged.values)
    of_values = float((missed + nearby.mean_change(judged.action_values)).max() + 2.0 * of_sums) / (1.0 - growth)
    inflow = mdp.discount * mdp.transitions.transpose_expectation(judged.visits[:, None] * policy)
    missed_visits = float(np.abs(mdp.initial + inflow - judged.visits).sum())
    missed_visits += sum_rounding(column_terms(mdp.transitions) + mdp.actions) * (1.0 + 2.0 * float(visited.sum()))
    of_visits = (missed_visits + growth * float(nearby.totals @ visited)) / (1.0 - growth)
    return ReturnChange(growth * of_values + of_sums, of_values, of_visits)


def change_by_policy(judged: JudgedReturn, change: ReturnChange, weights: Array) -> float:
    """A bound on `Σ_sa w_sa |d'_s Q'_sa − d̂_s Q̂_sa − k_s|`, including the rounding of the computed product.

    `d'Q' − d̂Q̂ = (d' − d̂)(Q̂ − k) + d'(Q' − Q̂)`, up to a number per state.
    """
    low, high = judged.action_values.min(axis=1), judged.action_values.max(axis=1)
    apart = np.abs(judged.action_values - 0.5 * (low + high)[:, None])
    visited, per_state = np.abs(judged.visits), weights.sum(axis=1)
    through_visits = change.visits * float((weights * apart).sum(axis=1).max())
    through_values = change.action_values * (float(visited @ per_state) + change.visits * float(per_state.max()))
    return through_visits + through_values + 4.0 * EPSILON * size_of_gradient(judged, weights)


def size_of_gradient(judged: JudgedReturn, weights: Array) -> float:
    """`Σ_sa w_sa |d̂_s| (|Q̂_sa| + |V̂_s|)`: an ulp of it is an ulp of the gradient's entries."""
    sizes = np.abs(judged.action_values) + np.abs(judged.values)[:, None]
    return float((weights * np.abs(judged.visits)[:, None] * sizes).sum())


def change_by_x(judged: JudgedReturn, lower: Any, x: Array, nearby: NearbyPolicies, change: ReturnChange) -> float:
    """A bound on the Euclidean distance of the gradient by x from the pullback of `d̂π`, γ̄V̂ and V̂.

    `d'π'∇q(V') − d̂π∇q(V̂) = (d' − d̂)π'∇q(V') + d̂(π' − π)∇q(V') + d̂π γ̄∇P̄(V' − V̂)`, and `∇ρ̄(V' − V̂)`.
    """
    mdp, visited = judged.mdp, np.abs(judged.visits)
    if not np.isfinite(change.values):
        return float("inf")
    continuation, radius = mdp.discount * judged.values, mdp.discount * change.values
    rounding = pullback_rounding(mdp, x.size)
    norms = derivative_norms(lower, x, continuation, radius + rounding * maximum_norm(continuation))
    moved = derivative_norms(lower, x, np.zeros_like(continuation), radius).transitions.norms
    slope, occupancy = norms.rewards.norms + norms.transitions.norms, visited[:, None] * nearby.policy
    total = change.visits * maximum_norm(slope) + float(visited @ (nearby.entries * slope).sum(axis=1))
    total += float((occupancy * moved).sum()) + change.values * float(norms.initial.norms.sum())
    sizes = float((occupancy * (norms.rewards.sizes + norms.transitions.sizes)).sum())
    sizes += float(np.abs(judged.values) @ norms.initial.sizes)
    return total + rounding * sizes


def stage_changes(stages: Sequence[JudgedReturn], nearby: NearbyPolicies) -> list[ReturnChange]:
    """Bounds on the distance of the arrays of the stages h = 0, …, H−1 from those of a nearby policy.

        Q'_h − Q̂_h = γ̄P̄(V'_{h+1} − V̂_{h+1}),    V'_h − V̂_h = Σ_a (π' − π)Q̂_h + Σ_a π'(Q'_h − Q̂_h)
        d'_{h+1} − d̂_{h+1} = γ̄P̄ᵀ(π'(d'_h − d̂_h) + (π' − π)d̂_h)

    Rounding adds at each stage one ulp of the stage's largest sum for each term.
    """
    mdp = stages[0].mdp
    growth, sums = (
        mdp.discount * (1.0 + row_defect(mdp.transitions)),
        sum_rounding(row_terms(mdp.transitions) + mdp.actions),
    )
    flow, largest = sum_rounding(column_terms(mdp.transitions) + mdp.actions), maximum_norm(mdp.rewards)
    ahead, worth = [(0.0, 0.0)], 0.0
    for stage in reversed(stages):
        lost = sums * (largest + growth * worth)
        of_action_values = growth * ahead[-1][1] + lost
        worth = maximum_norm(stage.values)
        of_values = float(nearby.mean_change(stage.action_values).max()) + of_action_values + lost
        ahead.append((of_action_values, of_values))
    changes, of_visits = [], 0.0
    for stage, (of_action_values, of_values) in zip(stages, ahead[:0:-1], strict=True):
        changes.append(ReturnChange(of_action_values, of_values, of_visits))
        visited = np.abs(stage.visits)
        of_visits = growth * (of_visits + float(nearby.totals @ visited)) + flow * float(visited.sum())
    return changes
