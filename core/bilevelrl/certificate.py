"""Certificates: a proven bound of how far a computed hyper-gradient is from `∇φ(x)`, by the residuals it leaves."""

from __future__ import annotations

import math
import time
from typing import Any

import attrs
import numpy as np

from bilevelrl.bellman import (
    Linearization,
    adjoint_occupancy,
    adjoint_right_hand_side,
    linearized_backup,
    policy_cotangent,
)
from bilevelrl.bilevel_problem import BilevelProblem
from bilevelrl.derivative_bounds import Unbounded
from bilevelrl.gradient_error import ComputedGradient, ErrorBound, FollowerError, error_bound
from bilevelrl.mdp import SoftMDP
from bilevelrl.occupancy import DenseOccupancy, SampledOccupancy
from bilevelrl.passes import Backup
from bilevelrl.protocols import Cost, HyperGradient, PolicyObjective, SupportsModel
from bilevelrl.rounding import EPSILON, backup_rounding, row_defect
from bilevelrl.validation import Array, check_count, check_shape, kind_words

# What the residual of a system solved by iteration may be: a correction need not be exact, since what it leaves is
# measured, and the adjoint's is part of the bound.
CORRECTION, ADJOINT = 1e-6, 1e-12
# A residual that no longer falls, and is this near to rounding, is not going to.
NEAR_ROUNDING = 100.0


@attrs.frozen
class Certificate:
    """A proven bound of `‖gradient − ∇φ(x)‖₂`, for the tables of r, P and ρ that the model at x has.

    Args:
        bound: the bound; infinite where there is none.
        measured: how far the gradient is from a better one, which the certificate computed, in the Euclidean norm. The
            other parts bound the error of that better one; they sum up to `bound`.
        follower: what is left of the follower's error, through his policy and values.
        objective: what it can do through the leader's objective.
        adjoint: what is left of the adjoint's error.
        rounding: what rounding can have done.
        corrections: the Newton steps that made the better one.
        cost: what the certificate cost.
        reason: why there is no bound, in a sentence; empty where there is one.
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

    def __str__(self) -> str:
        if not self.holds:
            return f"no bound: {self.reason}"
        names = ("measured", "follower", "objective", "adjoint", "rounding")
        parts = ", ".join(f"{name} {getattr(self, name):.3g}" for name in names)
        return f"‖gradient − ∇φ(x)‖₂ ≤ {self.bound:.3g} ({parts})"


def certify(
    problem: BilevelProblem, x: object, solution: Any, hyper: HyperGradient, *, corrections: int = 10
) -> Certificate:
    """Bound `‖hyper.gradient − ∇φ(x)‖₂`, whatever computed it, from the residuals at the follower's answer.

    Newton's method first corrects the follower's values, and one adjoint solve the occupancy; the distance to the
    gradient made of these is measured, and the theorem of `gradient_error` bounds the error of that. Without
    corrections the theorem bounds the error of `hyper` as it is: one backup and two passes over P, and no system is
    solved, but the bound is looser by orders of magnitude.

    Args:
        problem: with a transition model and an objective of the policy.
        x: (n,), where the gradient was computed.
        solution: the follower's answer there. Of an answer without values (a model-free solver's) nothing is used.
        hyper: the estimate.
        corrections: the most Newton steps; they end where rounding leaves nothing to correct. 0: no system is solved;
            the solution must then have values, and the estimate a dense occupancy.

    Returns:
        A `Certificate`. Where there is no bound (the objective or a part does not say how far it can move, γ is so near
        one that rounding leaves nothing, a value is not finite) it says why in `reason`.

    Raises:
        InputError: where x is not a point of the problem, or the gradient has another length.
    """
    check_count("corrections", corrections, at_least=0)
    point = problem.point(x)
    check_shape("hyper.gradient", hyper.gradient, point.shape)
    began = time.perf_counter()
    with np.errstate(all="ignore"):
        try:
            certificate = _certificate(problem, point, solution, hyper, corrections)
        except _NoBound as reason:
            certificate = Certificate(math.inf, reason=str(reason))
    return attrs.evolve(certificate, cost=attrs.evolve(certificate.cost, seconds=time.perf_counter() - began))


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
    values = getattr(solution, "values", None)
    if not (isinstance(values, np.ndarray) and values.shape == (model.states,) and np.isfinite(values).all()):
        if not corrections:
            raise _NoBound("the follower's answer has no finite table of values; allow corrections")
        values = np.zeros(model.states)
    start = _Point.at(model, values)
    point, steps, cost = _corrected(start, corrections)
    follower = FollowerError.of(model, point.values, point.backup, row_defect(model.transitions))
    if not follower.growth < 1.0:
        raise _NoBound(f"discount {model.discount!r} is so near to 1 that rounding leaves nothing of 1 − γ")
    computed, spent = _computed(problem, x, point, None if corrections else hyper)
    distance = float(np.linalg.norm(hyper.gradient - computed.gradient))
    measured = distance * (1.0 + (x.size + 8) * EPSILON)
    try:
        bound = error_bound(problem, x, computed, follower)
    except Unbounded as missing:
        raise _NoBound(str(missing)) from None
    total = (measured + bound.total) * (1.0 + 16.0 * EPSILON)
    if math.isnan(total):
        raise _NoBound("a value is not finite")
    if total == math.inf:
        raise _NoBound(_beyond(bound))
    return Certificate(
        total, measured, bound.follower, bound.objective, bound.adjoint, bound.rounding, steps, cost + spent
    )
