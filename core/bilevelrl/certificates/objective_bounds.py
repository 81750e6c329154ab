"""Bounds on how far the gradients of core's objectives move with the policy: implementations of `gradient_change`."""

from __future__ import annotations

import numpy as np

from bilevelrl.certificates.derivative_bounds import gradient_change as gradient_change
from bilevelrl.certificates.nearby_policies import NearbyPolicies
from bilevelrl.certificates.return_bounds import (
    change_by_policy,
    change_by_x,
    return_change,
    size_of_gradient,
    stage_changes,
)
from bilevelrl.mdp.rounding import EPSILON, length
from bilevelrl.mdp.soft_mdp import SoftMDP
from bilevelrl.objectives.finite_horizon import FiniteHorizonReturnObjective
from bilevelrl.objectives.policy_objectives import (
    LogLikelihoodObjective,
    QuadraticObjective,
    ReturnObjective,
    WeightedSum,
)
from bilevelrl.problems.contextual_problems import ContextualObjective
from bilevelrl.validation.arrays import Array


@gradient_change.register
def _of_return(objective: ReturnObjective, x: Array, nearby: NearbyPolicies, weights: Array) -> tuple[float, float]:
    """See `BoundsGradientChange`; two linear solves, as for the gradients."""
    judged = objective.judged(x, nearby.policy)
    change = return_change(judged, nearby)
    by_policy = change_by_policy(judged, change, weights)
    fixed = isinstance(objective.true_mdp, SoftMDP)
    return (0.0 if fixed else change_by_x(judged, objective.true_mdp, x, nearby, change)), by_policy


@gradient_change.register
def _of_quadratic(
    objective: QuadraticObjective, x: Array, nearby: NearbyPolicies, weights: Array
) -> tuple[float, float]:
    """See `BoundsGradientChange`: `b Σ w |π' − π|`, and rounding."""
    x_size, policy_size = np.abs(x), nearby.policy
    if objective.x_target is not None:
        x_size = x_size + np.abs(objective.x_target)
    if objective.policy_target is not None:
        policy_size = policy_size + np.abs(objective.policy_target)
    by_x = 2.0 * EPSILON * objective.x_weight * length(x_size)
    moved = nearby.entries + 2.0 * EPSILON * policy_size
    return by_x, objective.policy_weight * float((weights * moved).sum())


@gradient_change.register
def _of_log_likelihood(
    objective: LogLikelihoodObjective, x: Array, nearby: NearbyPolicies, weights: Array
) -> tuple[float, float]:
    """See `BoundsGradientChange`: `Σ w d^E/π |π/π' − 1|`, and rounding; the baseline is a number per state."""
    shown = objective.demonstrations > 0
    with np.errstate(divide="ignore"):
        sizes = np.divide(objective.demonstrations, nearby.policy, out=np.zeros_like(nearby.policy), where=shown)
    rounded = 4.0 * EPSILON * sizes
    if objective.baseline is not None:
        # Visits are at most 1/(1−γ); each addition to an entry rounds it by an ulp of the sum.
        rounded += 4.0 * EPSILON * float(objective.demonstrations.sum())
    return 0.0, float((weights * (sizes * nearby.ratios[:, None] + rounded)).sum())


@gradient_change.register
def _of_sum(objective: WeightedSum, x: Array, nearby: NearbyPolicies, weights: Array) -> tuple[float, float]:
    """See `BoundsGradientChange`: the sums of the terms' bounds, and the rounding of the sums."""
    by_x = by_policy = 0.0
    for weight, term in objective.terms:
        term_by_x, term_by_policy = gradient_change(term, x, nearby, weights)
        _, at_x, at_policy = term.value_and_gradients(x, nearby.policy)
        rounding = (len(objective.terms) + 1) * EPSILON
        by_x += abs(weight) * (term_by_x + rounding * length(at_x))
        by_policy += abs(weight) * (term_by_policy + rounding * float((weights * np.abs(at_policy)).sum()))
    return by_x, by_policy


@gradient_change.register
def _of_finite_horizon(
    objective: FiniteHorizonReturnObjective, x: Array, nearby: NearbyPolicies, weights: Array
) -> tuple[float, float]:
    """See `BoundsGradientChange`: the sum of the stages' bounds, and its rounding."""
    stages = list(objective.stages(nearby.policy))
    changes = stage_changes(stages, nearby)
    by_policy = sum(change_by_policy(stage, change, weights) for stage, change in zip(stages, changes, strict=True))
    return 0.0, by_policy + objective.horizon * EPSILON * sum(size_of_gradient(stage, weights) for stage in stages)


@gradient_change.register
def _of_contexts(
    objective: ContextualObjective, x: Array, nearby: NearbyPolicies, weights: Array
) -> tuple[float, float]:
    """See `BoundsGradientChange`: the contexts' own bounds, weighted, and the rounding of their sum."""
    by_x = by_policy = 0.0
    for index, own_objective in enumerate(objective.objectives):
        weight, rows = float(objective.lower.weights[index]), objective.lower.rows(index)
        if weight == 0.0:
            continue
        own = NearbyPolicies(nearby.policy[rows], nearby.oscillation[rows])
        part_by_x, part_by_policy = gradient_change(own_objective, x, own, weights[rows])
        _, at_x, at_policy = own_objective.value_and_gradients(x, own.policy)
        rounding = (len(objective.objectives) + 1) * EPSILON
        by_x += weight * (part_by_x + rounding * length(at_x))
        by_policy += weight * (part_by_policy + EPSILON * float((weights[rows] * np.abs(at_policy)).sum()))
    return by_x, by_policy
