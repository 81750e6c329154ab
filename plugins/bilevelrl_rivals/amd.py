"""Adaptive model design: the sensitivities of the follower's values, updated together with value iteration."""

from __future__ import annotations

import math
from typing import ClassVar

import attrs
import numpy as np

import bilevelrl as bl


@attrs.frozen
class ForwardSensitivities:
    """Forward mode: `D ← ∂_xT + γP^π D` for `D = dV/dx` (S, n), warm-started and never solved to the end.

        ∂_xT_s  = Σ_a π_sa ∂_xq_sa(x, V)          (S, n)
        D       ← ∂_xT + γ P^π D                  # `sweeps` times in each call
        dπ_sa   = (π_sa/τ)(∂_xq_sa + γ P_sa·D − D_s)
        g       = ∂f/∂x + Σ_sa ∂f/∂π_sa dπ_sa

    The iteration is a γ-contraction: at a fixed solution of the follower D tends to dV*/dx as γ^k. There is no adjoint
    and no signed occupancy.

    The cost is n columns instead of one: a product with `P^π` has n columns (and counts as one in `cost`), and D has
    S·n numbers. A problem offers only vector-Jacobian products, so `∂_xT` takes S pullbacks in each call, one for each
    state's row (S + 1 in all).

    Source: Chen et al., "Adaptive model design for Markov decision process", ICML 2022.

    Args:
        sweeps: the number of updates of D in a call, at least 1.
    """

    name: ClassVar[str] = "amd"
    requires: ClassVar[type] = bl.mdp.SupportsModel
    requires_objective: ClassVar[type] = bl.objectives.PolicyObjective
    accepts: ClassVar[type] = bl.mdp.TabularSolution
    tags: ClassVar[bl.Tags] = bl.Tags("tracking")

    sweeps: int = attrs.field(default=10, validator=bl.validation.is_integer(at_least=1))

    def estimate(
        self,
        problem: bl.Problem,
        x: bl.Array,
        solution: bl.mdp.TabularSolution,
        previous: bl.HyperGradient | None,
        rng: np.random.Generator,
    ) -> bl.HyperGradient:
        """The tracked gradient. `carry["sensitivities"]` is D; `residual` bounds `‖∂_xT + γP^πD − D‖∞`."""
        model, policy, system = solution.model, solution.policy, solution.linearization
        objective, by_x, by_policy = problem.objective.value_and_gradients(x, policy)
        continuation = model.discount * solution.values
        bl.validation.check_fits(f"the sensitivities of {self.name!r}", (model.states, x.size))
        slope = np.empty((model.states, x.size))
        for state in range(model.states):
            row = np.zeros_like(policy)
            row[state] = policy[state]
            slope[state] = problem.lower.pullback(x, bl.occupancy.DenseOccupancy(row, continuation))
        sensitivities = np.zeros_like(slope)
        if previous is not None:
            sensitivities = bl.validation.saved_array(previous.carry, "sensitivities", slope.shape, finite=False)
        for _ in range(self.sweeps):
            before = sensitivities
            sensitivities = slope + (before - system.apply(before))
        centred = by_policy - (policy * by_policy).sum(axis=1, keepdims=True)
        cotangent = bl.mdp.policy_cotangent(model, policy, centred)
        implicit = problem.lower.pullback(x, bl.occupancy.DenseOccupancy(cotangent, continuation))
        implicit = implicit + bl.mdp.adjoint_right_hand_side(model, cotangent) @ sensitivities
        # One more sweep changes D by γP^π times the last change.
        residual = model.discount * bl.validation.maximum_norm(sensitivities - before)
        finite = math.isfinite(objective) and math.isfinite(residual) and bool(np.isfinite(implicit).all())
        return bl.HyperGradient(
            by_x,
            implicit,
            objective,
            None,
            bl.Cost(products=self.sweeps * x.size, passes=1),
            bl.Status.BUDGET_SPENT if finite else bl.Status.NON_FINITE,
            residual,
            carry={"sensitivities": sensitivities},
        )
