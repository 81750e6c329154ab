"""A hyper-gradient estimator: the adjoint equation by the simplest iteration there is."""

from __future__ import annotations

from typing import ClassVar

import attrs
import numpy as np

import bilevelrl as bl


@attrs.frozen
class RichardsonAdjoint:
    """`λ ← λ + b − (I − γP^π)ᵀλ`, a number of times, from the last call's λ; then one pullback.

        c       = π ⊙ ∂f/∂π / τ
        b       = γPᵀc − Σ_a c
        r̄       = c + π ⊙ λ
        ∇φ(x)   ≈ ∂f/∂x + pullback(x, r̄)

    The error of λ falls by γ a sweep in the 1-norm (Richardson 1911).

    Args:
        sweeps: products with `(P^π)ᵀ` that improve λ; one more measures the residual.
    """

    name: ClassVar[str] = "richardson-adjoint"
    requires: ClassVar[type] = bl.mdp.SupportsModel
    requires_objective: ClassVar[type] = bl.objectives.PolicyObjective
    accepts: ClassVar[type] = bl.mdp.TabularSolution
    tags: ClassVar[bl.Tags] = bl.Tags("biased", deterministic=False)

    sweeps: int = attrs.field(default=10, validator=bl.validation.is_integer(at_least=1))

    def estimate(
        self,
        problem: bl.BilevelProblem,
        x: bl.Array,
        solution: bl.mdp.TabularSolution,
        previous: bl.HyperGradient | None,
        rng: np.random.Generator,
    ) -> bl.HyperGradient:
        """`∇φ(x)` to the accuracy that `residual` tells; `carry["adjoint"]` warm-starts the next call."""
        model, policy, system = solution.model, solution.policy, solution.linearization
        objective, by_x, by_policy = problem.objective.value_and_gradients(x, policy)
        cotangent = bl.mdp.policy_cotangent(model, policy, by_policy)
        target = bl.mdp.adjoint_right_hand_side(model, cotangent)
        adjoint = np.zeros(model.states) if previous is None else previous.carry["adjoint"]
        for _ in range(self.sweeps):
            adjoint = adjoint + target - system.apply_transpose(adjoint)
        residual = float(np.abs(system.apply_transpose(adjoint) - target).max())
        occupancy = bl.mdp.adjoint_occupancy(model, policy, solution.values, cotangent, adjoint)
        return bl.HyperGradient(
            direct=by_x,
            implicit=problem.lower.pullback(x, occupancy),
            objective=objective,
            occupancy=occupancy,
            cost=bl.Cost(products=self.sweeps + 1),
            status=bl.Status.BUDGET_SPENT,
            residual=residual,
            carry={"adjoint": adjoint},
        )
