"""Whatever is registered, by its name; and the exact hyper-gradient in one call."""

from __future__ import annotations

import warnings
from typing import Any

from bilevelrl.bilevel_problem import BilevelProblem
from bilevelrl.component_registry import Kind
from bilevelrl.notices import AccuracyWarning
from bilevelrl.outer_loop import Algorithm
from bilevelrl.plugins import registry
from bilevelrl.protocols import HyperGradientEstimator, LowerLevelSolver, TabularSolution, UpperLevelOptimizer
from bilevelrl.validation import Array

# An error of the values moves log π by twice as much over τ at most: from here on the policy's fourth digit is open.
ROUGH = 1e-4


def problem(name: str, **options: Any) -> BilevelProblem:
    """The registered problem of that name, with its options; `bilevelrl list problems` shows them."""
    made: BilevelProblem = registry().create(Kind.PROBLEM, name, options)
    return made


def algorithm(name: str, **options: Any) -> Algorithm:
    """The registered recipe of that name, with its options, as an `Algorithm`."""
    made: Algorithm = registry().create(Kind.ALGORITHM, name, options)
    return made


def lower_level_solver(name: str, **options: Any) -> LowerLevelSolver:
    """The registered lower-level solver of that name, configured."""
    made: LowerLevelSolver = registry().create(Kind.LOWER_LEVEL_SOLVER, name, options)
    return made


def hypergradient_estimator(name: str, **options: Any) -> HyperGradientEstimator:
    """The registered hyper-gradient estimator of that name, configured."""
    made: HyperGradientEstimator = registry().create(Kind.HYPERGRADIENT_ESTIMATOR, name, options)
    return made


def upper_level_optimizer(name: str, **options: Any) -> UpperLevelOptimizer:
    """The registered upper-level optimizer of that name, configured."""
    made: UpperLevelOptimizer = registry().create(Kind.UPPER_LEVEL_OPTIMIZER, name, options)
    return made


def value_and_gradient(problem: BilevelProblem, x: object, *, tolerance: float = 1e-12) -> tuple[float, Array]:
    """`φ(x) = f(x, π*(x))` and the exact `∇φ(x)`, for `scipy.optimize.minimize(..., jac=True)` or a second opinion.

    Soft policy iteration to `‖V − V*‖∞ ≤ tolerance` (or to rounding), then one adjoint solve. For γ so near one that
    rounding may move the follower's policy, an `AccuracyWarning` says what is guaranteed.

    Args:
        problem: any problem with a transition model and an objective of the policy.
        x: (n,).
        tolerance: the follower's accuracy.

    Raises:
        InputError: where x is not a finite vector of length n, or the problem offers no model.
        StepFailed: where a value is not finite.
    """
    exact = Algorithm(
        lower=lower_level_solver("soft-policy-iteration", tolerance=tolerance),
        estimator=hypergradient_estimator("implicit"),
        upper=upper_level_optimizer("gradient-descent"),
        name="exact",
    )
    exact.check_compatible(problem)
    state = exact.evaluate(problem, x)
    solution = state.solution
    if isinstance(solution, TabularSolution) and solution.error_bound > max(
        tolerance, ROUGH * solution.model.temperature
    ):
        bound = f"the follower's values are within {solution.error_bound:.2g} of V*, not within {tolerance:g}"
        warnings.warn(f"{bound}; {solution.status.advice}", AccuracyWarning, stacklevel=2)
    return state.hyper.objective, state.hyper.gradient
