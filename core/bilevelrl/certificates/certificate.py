"""Certificates: a proven bound on the distance of a computed hyper-gradient from `∇φ(x)`, from its residuals."""

from __future__ import annotations

import math
from typing import Any

import attrs
import numpy as np

from bilevelrl.certificates import objective_bounds, part_norms  # noqa: F401  # they register their bounds
from bilevelrl.certificates.derivative_bounds import Unbounded
from bilevelrl.certificates.gradient_error import ComputedGradient, FollowerError, error_bound
from bilevelrl.mdp.adjoint import solve_adjoint
from bilevelrl.mdp.newton import NewtonPoint, corrected
from bilevelrl.mdp.rounding import EPSILON, length, row_defect
from bilevelrl.mdp.soft_mdp import SoftMDP
from bilevelrl.mdp.solution import SupportsModel
from bilevelrl.objectives.protocols import PolicyObjective
from bilevelrl.occupancy import DenseOccupancy
from bilevelrl.problems.bilevel_problem import BilevelProblem
from bilevelrl.protocols import Cost, HyperGradient
from bilevelrl.validation.arrays import Array, check_shape
from bilevelrl.validation.errors import InputError, kind_words
from bilevelrl.validation.fields import check_count

# To this an iteration solves the adjoint equation; what it leaves is part of the bound.
ADJOINT = 1e-12
PARTS = ("measured", "follower", "objective", "adjoint", "rounding")


@attrs.frozen
class Certificate:
    """A proven bound on `‖gradient − ∇φ(x)‖₂`, for the tables of r, P and ρ of the model at x.

    Args:
        bound: the bound; infinite if there is none. It is the sum of the next five.
        measured: the Euclidean distance of the gradient from a corrected one, which the certificate computed. The
            other parts bound the error of the corrected one.
        follower: the remaining error of the follower, through its policy and values.
        objective: the effect of that error through the leader's objective.
        adjoint: the remaining error of the adjoint.
        rounding: the largest possible effect of rounding.
        corrections: the Newton steps of the correction.
        cost: the work of the certificate.
        reason: why there is no bound, in a sentence; empty if there is one.
    """

    bound: float
    measured: float = math.nan
    follower: float = math.nan
    objective: float = math.nan
    adjoint: float = math.nan
    rounding: float = math.nan
    corrections: int = 0
    cost: Cost = attrs.field(factory=Cost)
    reason: str = ""

    @property
    def holds(self) -> bool:
        """Whether there is a bound."""
        return not self.reason

    def summary(self) -> dict[str, Any]:
        """The bound, its parts, and the reason if there is none, for JSON; None replaces values that are not finite."""
        figures = {name: getattr(self, name) for name in ("bound", *PARTS)}
        finite = {name: figure if math.isfinite(figure) else None for name, figure in figures.items()}
        return {**finite, "corrections": self.corrections, "reason": self.reason}

    def __str__(self) -> str:
        if not self.holds:
            return f"no bound: {self.reason}"
        parts = ", ".join(f"{name} {getattr(self, name):.3g}" for name in PARTS)
        return f"‖gradient − ∇φ(x)‖₂ ≤ {self.bound:.3g} ({parts})"


def certify(
    problem: BilevelProblem, x: object, solution: Any, hyper: HyperGradient, *, corrections: int = 10
) -> Certificate:
    """Bound `‖hyper.gradient − ∇φ(x)‖₂`, for any estimator, from the residuals at the follower's solution.

    Newton's method first corrects the follower's values, and one adjoint solve corrects the occupancy. The distance to
    the corrected gradient is measured, and the theorem of `gradient_error` bounds the error of the corrected gradient.
    Without corrections the theorem bounds the error of `hyper` itself. That takes one backup and two passes over P, and
    no system is solved, but the bound is looser by orders of magnitude.

    Args:
        problem: with a transition model and an objective of the policy.
        x: (n,), where the gradient was computed.
        solution: the follower's solution there. A solution without values (a model-free solver's) is ignored.
        hyper: the estimate.
        corrections: the largest number of Newton steps; they stop when only rounding is left. With 0 no system is
            solved; the solution must then have values, and the estimate an occupancy.

    Returns:
        A `Certificate`. If there is no bound, `reason` says why: the objective or a part does not bound its changes, γ
        is so near one that nothing is left after rounding, or a value is not finite.

    Raises:
        InputError: if x is not a point of the problem, the estimate is not one, or the gradient has another length.
    """
    check_count("corrections", corrections, at_least=0)
    for field, value, kind in (("problem", problem, BilevelProblem), ("hyper", hyper, HyperGradient)):
        if not isinstance(value, kind):
            raise InputError(field, kind_words(value), f"a {kind.__name__}")
    point = problem.point(x)
    check_shape("hyper.gradient", hyper.gradient, point.shape)
    with np.errstate(all="ignore"):
        try:
            return _certificate(problem, point, solution, hyper, corrections)
        except _NoBound as reason:
            return Certificate(math.inf, reason=str(reason))


class _NoBound(Exception):
    """Nothing can be proven; the message says why."""


def _certificate(
    problem: BilevelProblem, x: Array, solution: Any, hyper: HyperGradient, corrections: int
) -> Certificate:
    if not isinstance(problem.lower, SupportsModel):
        raise _NoBound(f"problem {problem.name!r} has no transition model (SupportsModel)")
    if not isinstance(problem.objective, PolicyObjective):
        raise _NoBound(f"the objective of problem {problem.name!r} is not one of the policy (PolicyObjective)")
    model = problem.lower.model(x)
    point, steps, cost = corrected(model, _values(solution, model, corrections), corrections)
    follower = FollowerError.of(model, point.values, point.backup, row_defect(model.transitions))
    if not follower.growth < 1.0:
        raise _NoBound(f"discount {model.discount!r} is so close to 1 that 1 − γ is lost in rounding")
    computed, spent = _computed(problem, x, point, None if corrections else hyper)
    measured = length(hyper.gradient - computed.gradient) * (1.0 + (x.size + 8) * EPSILON)
    try:
        error = error_bound(problem, x, computed, follower)
    except Unbounded as missing:
        raise _NoBound(str(missing)) from None
    bound = (measured + error.total) * (1.0 + 16.0 * EPSILON)
    parts = (measured, error.follower, error.objective, error.adjoint, error.rounding)
    if not math.isfinite(bound):
        raise _NoBound(_not_finite(parts))
    return Certificate(bound, *parts, steps, cost + spent)


def _values(solution: Any, model: SoftMDP, corrections: int) -> Array:
    """The follower's values, or zeros if the solution has none and Newton's method may compute them."""
    values = getattr(solution, "values", None)
    if isinstance(values, np.ndarray) and values.shape == (model.states,) and np.isfinite(values).all():
        return values
    if not corrections:
        raise _NoBound("the follower's solution has no finite table of values; allow corrections")
    return np.zeros(model.states)


def _computed(
    problem: BilevelProblem, x: Array, point: NewtonPoint, hyper: HyperGradient | None
) -> tuple[ComputedGradient, Cost]:
    """The gradient at v from the estimate's own occupancy, or from one that is solved for here."""
    model, values, policy = point.model, point.values, point.backup.policy
    _, direct, by_policy = problem.objective.value_and_gradients(x, policy)
    if hyper is None:
        occupancy, cost = _solved_occupancy(point, by_policy)
    elif hyper.occupancy is None:
        raise _NoBound("the estimate has no occupancy; allow corrections")
    else:
        own = hyper.occupancy.dense(model.states, model.actions)
        occupancy, cost = DenseOccupancy(own.weights, model.discount * values), Cost(products=2)
    implicit = problem.lower.pullback(x, occupancy)
    return ComputedGradient(model, values, point.backup, occupancy.weights, by_policy, direct, implicit), cost


def _solved_occupancy(point: NewtonPoint, by_policy: Array) -> tuple[DenseOccupancy, Cost]:
    model, policy, system = point.model, point.backup.policy, point.system
    solved = solve_adjoint(model, policy, point.values, system, by_policy, tolerance=ADJOINT)
    if solved is None:
        raise _NoBound("a value is not finite")
    return solved.occupancy, Cost(linear_solves=0 if solved.iterated else 1, products=2 + solved.iterated)


def _not_finite(parts: tuple[float, ...]) -> str:
    name = next((name for name, part in zip(PARTS, parts, strict=True) if part == math.inf), None)
    if name is None:
        return "a value is not finite"
    return (
        f"the part named {name} has no finite bound: the follower's solution is too far from optimal, or one of its "
        "probabilities is too close to zero"
    )
