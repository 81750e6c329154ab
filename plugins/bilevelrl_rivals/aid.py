"""Approximate implicit differentiation: the Hessian of the lower level in policy parameters, by conjugate gradients."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import ClassVar

import attrs
import numpy as np

import bilevelrl as bl
from bilevelrl_rivals.lower_level import LowerLevel, start_distribution


@attrs.frozen
class ApproximateImplicit:
    """AID: the follower's policy is `π_θ`, softmax in logits θ, and its problem is `min_θ g(x, θ) = −V^{π_θ}_x(ρ)`.

        (∇²_θθ g + δM) u = ∇_θ f                   # conjugate gradients on Hessian-vector products
        ∇φ ≈ ∂f/∂x − ∇²_xθ g · u                   # two pullbacks

    `M = diag(τ d π)` is the Hessian at the optimum (on logits whose mean under π is zero), d the discounted state
    occupancy from ρ. There this equals ∇φ for δ = 0, and with damping the implicit part is short by the factor
    `1/(1+δ)`.

    AID's theory requires a strongly convex lower level. This one is not even convex: away from the optimum the Hessian
    is indefinite, and nearly singular if M has small entries. The conjugate gradient method then finds negative Ritz
    values. `carry["negative_curvatures"]` counts them, and `carry["lowest_ritz_value"]` is the lowest, in units of M
    (at the optimum all are 1), both before damping. The status is then `Status.STAGNATED` for any residual, since the
    follower's solution is not accurate enough for this method. The lowest is absent if no iteration was needed.

    Sources: Pedregosa, "Hyperparameter optimization with approximate gradient", ICML 2016 (arXiv 1602.02355); Ji, Yang
    and Liang, "Bilevel optimization: convergence analysis and enhanced design", ICML 2021 (arXiv 2010.07962).

    Args:
        damping: δ ≥ 0. Zero is exact at the follower's optimum.
        tolerance: conjugate gradients stop when `‖∇_θf − (∇²_θθ g + δM)u‖₁ ≤ tolerance · ‖∇_θf‖₁`.
        maximum_iterations: the largest number of Hessian-vector products, each of two linear solves.
        preconditioner: "fisher" uses M, and one iteration suffices at the optimum; "none" is the method as published,
            with M replaced by the number max τdπ, and the number of iterations depends on M's condition.
        initial: ρ of g: "uniform", so that every state counts; or "own", the follower's own initial distribution:
            unreached states are then left out of the gradient (`carry["unreached_states"]` counts them, and the status
            is `Status.STAGNATED` if the leader's objective depends on them).
    """

    name: ClassVar[str] = "aid"
    requires: ClassVar[type] = bl.mdp.SupportsModel
    requires_objective: ClassVar[type] = bl.objectives.PolicyObjective
    accepts: ClassVar[type] = bl.mdp.TabularSolution

    damping: float = attrs.field(default=1e-3, validator=bl.validation.is_real(at_least=0.0))
    tolerance: float = attrs.field(default=1e-10, validator=bl.validation.is_real(above=0.0, below=1.0))
    maximum_iterations: int = attrs.field(default=100, validator=bl.validation.is_integer(at_least=1))
    preconditioner: str = attrs.field(default="fisher", validator=bl.validation.is_choice("fisher", "none"))
    initial: str = attrs.field(default="uniform", validator=bl.validation.is_choice("uniform", "own"))

    @functools.cached_property
    def tags(self) -> bl.Tags:
        """Exact without damping, if M preconditions and ρ is uniform; otherwise biased."""
        if self.damping == 0.0 and self._bounded:
            return bl.Tags("exact", tolerance=self.tolerance)
        return bl.Tags("biased", bias_bound=self._bias_bound)

    @property
    def _bounded(self) -> bool:
        return self.preconditioner == "fisher" and self.initial == "uniform"

    def _bias_bound(self, discount: float) -> float:
        """`(δ + tolerance)/(1 + δ)` of an implicit part's largest size; zero without damping, since the tags have the
        tolerance; infinite with "none" or "own", for which nothing is proven.
        """
        if not self._bounded:
            return math.inf
        return (self.damping + self.tolerance) / (1.0 + self.damping) if self.damping else 0.0

    def estimate(
        self,
        problem: bl.Problem,
        x: bl.Array,
        solution: bl.mdp.TabularSolution,
        previous: bl.HyperGradient | None,
        rng: np.random.Generator,
    ) -> bl.HyperGradient:
        """`∇φ(x)`; two linear solves, two for each Hessian-vector product, two for the mixed derivative.

        Away from the optimum P's cotangent is a sum of two outer products, so there is no single signed occupancy.
        `residual` is `‖∇_θf − (∇²_θθ g + δM)u‖∞/τ`, in the units of `π ⊙ ∂f/∂π / τ`.
        """
        model, policy = solution.model, solution.policy
        objective, by_x, by_policy = problem.objective.value_and_gradients(x, policy)
        target = policy * (by_policy - (policy * by_policy).sum(axis=1, keepdims=True))
        if not (math.isfinite(objective) and np.isfinite(target).all()):
            return bl.HyperGradient(by_x, np.full_like(x, np.nan), objective, None, bl.Cost(), bl.Status.NON_FINITE)
        level = LowerLevel.at(model, solution.linearization, start_distribution(model, self.initial))
        metric, reached = level.metric, level.visits > 0
        if self.preconditioner == "none":
            metric = np.where(reached[:, None], metric.max(), 0.0)
        # The rounding of π(G − Σ_a πG), if G hardly differs between actions, bounds the attainable residual.
        rounding = 8 * np.finfo(np.float64).eps * float((policy * np.abs(by_policy)).sum())
        wanted = max(self.tolerance * float(np.abs(target).sum()), rounding)
        answer = conjugate_gradients(
            level.hessian_product, target, metric, self.damping, wanted, self.maximum_iterations
        )
        own = self.initial == "own"
        # J = −g, so −∇²_xθ g · u is added.
        implicit = level.mixed_product(problem.lower, x, answer.solution, own_initial=own)
        if not (np.isfinite(answer.solution).all() and np.isfinite(implicit).all()):
            status = bl.Status.NON_FINITE
        elif answer.negative or (target[~reached] != 0).any():
            status = bl.Status.STAGNATED
        else:
            status = bl.Status.CONVERGED if answer.converged else bl.Status.BUDGET_SPENT
        return bl.HyperGradient(
            by_x,
            implicit,
            objective,
            None,
            bl.Cost(
                backups=1 + answer.iterations,  # passes over P, for γPV and γPV'
                passes=1 + answer.iterations,  # with Pᵀ, for each Hessian-vector product and the mixed derivative
                linear_solves=4 + 2 * answer.iterations,
            ),
            status,
            bl.validation.maximum_norm(answer.remainder) / model.temperature,
            carry={
                "iterations": np.array(answer.iterations),
                "negative_curvatures": np.array(answer.negative),
                "unreached_states": np.array(np.count_nonzero(~reached)),
            }
            | ({"lowest_ritz_value": np.array(answer.ritz_values[0])} if answer.iterations else {}),
        )


@attrs.frozen(eq=False)
class KrylovAnswer:
    """The result of conjugate gradients, with information on the matrix.

    Args:
        solution: u.
        remainder: `b − (H + δM)u`, by its recursion.
        iterations: products with H.
        converged: whether the tolerance was met.
        ritz_values: eigenvalues of `M^{-1/2} H M^{-1/2}` on the Krylov space, ascending, without the damping.
    """

    solution: bl.Array
    remainder: bl.Array
    iterations: int
    converged: bool
    ritz_values: bl.Array

    @property
    def negative(self) -> int:
        """The number of Ritz values that are negative beyond rounding: directions without convexity."""
        if not self.iterations:
            return 0
        floor = 8 * self.solution.size * np.finfo(np.float64).eps * float(np.abs(self.ritz_values).max())
        return int(np.count_nonzero(self.ritz_values < -floor))


def conjugate_gradients(
    product: Callable[[bl.Array], bl.Array],
    target: bl.Array,
    metric: bl.Array,
    damping: float,
    wanted: float,
    maximum_iterations: int,
) -> KrylovAnswer:
    """Solve `(H + δM)u = b` to `‖b − (H + δM)u‖₁ ≤ wanted`, preconditioned by the diagonal M.

    Entries where M is zero stay zero, and do not count.

    SciPy's method does not return its coefficients, which are the Lanczos tridiagonal matrix of H in the
    metric M: `T_jj = 1/α_j + β_{j-1}/α_{j-1}`, `T_j,j+1 = √β_j/α_j`, whose eigenvalues are the Ritz values (Golub and
    Van Loan, Matrix Computations, section 11.3). Like the textbook's, it continues after a step of negative curvature.
    """
    answer, remainder = np.zeros_like(target), target.copy()
    scaled = _precondition(remainder, metric)
    direction, energy = scaled, float(np.vdot(metric * scaled, scaled))
    steps: list[float] = []
    ratios: list[float] = []
    while (missing := float((metric * np.abs(scaled)).sum())) > wanted:
        if len(steps) == maximum_iterations or energy == 0.0:
            break
        image = product(direction) + damping * metric * direction
        curvature = float(np.vdot(direction, image))
        if curvature == 0.0 or not math.isfinite(curvature):
            break
        step = energy / curvature
        answer = answer + step * direction
        remainder = remainder - step * image
        scaled = _precondition(remainder, metric)
        before, energy = energy, float(np.vdot(metric * scaled, scaled))
        steps.append(step)
        ratios.append(energy / before)
        direction = scaled + ratios[-1] * direction
    ritz = _ritz_values(np.array(steps), np.array(ratios)) - damping
    return KrylovAnswer(answer, remainder, len(steps), missing <= wanted, ritz)


def _precondition(remainder: bl.Array, metric: bl.Array) -> bl.Array:
    """`M⁻¹ r`, without the number per state from rounding, which is in the kernel of H."""
    scaled = np.divide(remainder, metric, out=np.zeros_like(remainder), where=metric > 0)
    weights = metric.sum(axis=1, keepdims=True)
    mean = np.divide(
        (metric * scaled).sum(axis=1, keepdims=True), weights, out=np.zeros_like(weights), where=weights > 0
    )
    return np.where(metric > 0, scaled - mean, 0.0)


def _ritz_values(steps: bl.Array, ratios: bl.Array) -> bl.Array:
    import scipy.linalg

    if not (steps.size and np.isfinite(steps).all() and np.isfinite(ratios).all()):
        return np.full(steps.size, np.nan)
    diagonal = 1.0 / steps
    diagonal[1:] += ratios[:-1] / steps[:-1]
    values: bl.Array = scipy.linalg.eigvalsh_tridiagonal(diagonal, np.sqrt(ratios[:-1]) / steps[:-1])
    return values
