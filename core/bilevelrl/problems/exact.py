"""The exact hyper-gradient of a problem at the follower's answer."""

from __future__ import annotations

import math

import numpy as np

from bilevelrl.mdp.adjoint import solve_adjoint
from bilevelrl.mdp.solution import TabularSolution
from bilevelrl.protocols import Cost, HyperGradient, Problem, Status
from bilevelrl.validation.arrays import Array, maximum_norm


def implicit_gradient(
    problem: Problem, x: Array, solution: TabularSolution, *, tolerance: float = 1e-12
) -> HyperGradient:
    """`∇φ(x) = ∂f/∂x + pullback(x, r̄)`, with r̄ from `solve_adjoint`: one linear solve, one pullback.

    Exact at the follower's optimum; at an approximate answer its error is proportional to the answer's.

    Args:
        problem: a problem with a transition model (`SupportsModel`) and an objective of the policy (`PolicyObjective`).
        x: (n,).
        solution: the follower's answer at x; its linearization's factorisation is reused.
        tolerance: the relative accuracy, in the Euclidean norm, of an iterative solve of the adjoint equation. A
            factorisation solves it to rounding.

    Returns:
        The gradient, with the residual of the adjoint equation. Its status is `NON_FINITE` if the objective or its
        gradient is not finite.
    """
    policy, system = solution.policy, solution.linearization
    objective, by_x, by_policy = problem.objective.value_and_gradients(x, policy)
    solved = None
    if math.isfinite(objective):
        solved = solve_adjoint(solution.model, policy, solution.values, system, by_policy, tolerance=tolerance)
    if solved is None:
        nothing = np.full_like(by_x, np.nan)
        return HyperGradient(by_x, nothing, objective, None, Cost(), Status.NON_FINITE)
    residual = maximum_norm(system.apply_transpose(solved.adjoint) - solved.right_hand_side)
    implicit = problem.lower.pullback(x, solved.occupancy)
    cost = Cost(linear_solves=0 if solved.iterated else 1, products=1 + solved.iterated, passes=1)
    status = Status.FELL_BACK if system.fell_back else Status.CONVERGED
    return HyperGradient(by_x, implicit, objective, solved.occupancy, cost, status, residual)
