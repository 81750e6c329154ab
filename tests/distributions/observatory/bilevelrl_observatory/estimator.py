"""A hyper-gradient at a policy that is a function of observations."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import attrs
import numpy as np

import bilevelrl as bl


@attrs.frozen
class ObservedAdjoint:
    """The adjoint of the soft Bellman equation, solved at the policy that the observations of all states are given.

    Exact at the follower's optimum, whatever form its policy has: an array (S, A) is a policy too.
    """

    name: ClassVar[str] = "observed-adjoint"
    requires: ClassVar[type] = bl.mdp.SupportsModel
    requires_objective: ClassVar[type] = bl.objectives.PolicyObjective
    accepts: ClassVar[type] = bl.LowerLevelSolution
    tags: ClassVar[bl.Tags] = bl.Tags("exact")

    def estimate(
        self,
        problem: bl.Problem,
        x: bl.Array,
        solution: Any,
        previous: bl.HyperGradient | None,
        rng: np.random.Generator,
    ) -> bl.HyperGradient:
        """`∇φ(x)`; two linear solves and one pullback."""
        model = problem.lower.model(x)
        asked = solution.policy
        policy = asked if isinstance(asked, np.ndarray) else asked(np.arange(model.states))
        objective, by_x, by_policy = problem.objective.value_and_gradients(x, policy)
        centred = by_policy - (policy * by_policy).sum(axis=1, keepdims=True)
        cotangent = bl.mdp.policy_cotangent(model, policy, centred)
        target = bl.mdp.adjoint_right_hand_side(model, cotangent)
        if not (math.isfinite(objective) and np.isfinite(target).all()):
            return bl.HyperGradient(by_x, by_x * np.nan, objective, None, bl.Cost(), bl.Status.NON_FINITE)
        system = bl.mdp.Linearization(model.transitions, model.discount, policy)
        adjoint = system.solve_transpose(target)
        values = bl.mdp.policy_values(model, policy)
        occupancy = bl.mdp.adjoint_occupancy(model, policy, values, cotangent, adjoint)
        return bl.HyperGradient(
            direct=by_x,
            implicit=problem.lower.pullback(x, occupancy),
            objective=objective,
            occupancy=occupancy,
            cost=bl.Cost(linear_solves=2, products=1),
            status=bl.Status.CONVERGED,
            residual=bl.validation.maximum_norm(system.apply_transpose(adjoint) - target),
        )
