"""Newton's method on `v − Tv = 0`, which is soft policy iteration: the one exact solver of the soft Bellman equation.

    v ← v + (I − γP^π(v))^{-1}(Tv − v)

Converges from any start (T is convex and monotone) and quadratically near the answer.
"""

from __future__ import annotations

import math

import attrs
import numpy as np

from bilevelrl.mdp.bellman import linearized_backup, soft_bellman
from bilevelrl.mdp.linearization import Linearization
from bilevelrl.mdp.passes import Backup
from bilevelrl.mdp.rounding import EPSILON, backup_rounding
from bilevelrl.mdp.soft_mdp import SoftMDP
from bilevelrl.mdp.solution import TabularSolution
from bilevelrl.protocols import Cost, Status
from bilevelrl.validation.arrays import Array, maximum_norm

# A Newton step that leaves a larger fraction of the residual than this is still far from the answer.
FAR = 0.1
# Far from the answer, this many sweeps after a step propagate the step's values to neighbouring states.
SWEEPS_WHILE_FAR = 3
# Far from the answer, iterations solve their systems to this relative accuracy; near it, as a quadratic method needs.
LOOSEST = 0.1
TIGHTEST = 1e-6
# A correction need not be exact, since the remaining residual is measured.
CORRECTION = 1e-6
# A span that no longer falls, and is this near to rounding, will not fall further.
NEAR_ROUNDING = 100.0


@attrs.frozen(eq=False)
class NewtonPoint:
    """An iterate of Newton's method.

    Args:
        model: the follower's MDP.
        values: v (S,).
        backup: the backup of v.
        system: `I − γP^π(v)`.
        gap: `Tv − v` (S,), computed here.
        residual: `‖Tv − v‖∞`, computed here.
    """

    model: SoftMDP
    values: Array
    backup: Backup
    system: Linearization
    gap: Array = attrs.field(
        init=False, default=attrs.Factory(lambda self: self.backup.values - self.values, takes_self=True)
    )
    residual: float = attrs.field(
        init=False, default=attrs.Factory(lambda self: maximum_norm(self.gap), takes_self=True)
    )

    @classmethod
    def at(
        cls, model: SoftMDP, values: Array, *, before: Linearization | None = None, method: str = "auto"
    ) -> NewtonPoint:
        """The point at v.

        Args:
            model: the follower's MDP.
            values: v (S,).
            before: the system of the previous step, whose factorisation is reused: it is near enough close to the
                answer.
            method: see `Linearization`.
        """
        factorization = None if before is None else before.factorization
        return cls(model, values, *linearized_backup(model, values, factorization=factorization, method=method))

    @property
    def span(self) -> float:
        """`max δ − min δ` for `δ = Tv − v`: a constant does not change the policy."""
        return float(self.gap.max() - self.gap.min())

    def step(self, tolerance: float, *, sweeps: int = 0) -> tuple[NewtonPoint, Cost]:
        """The next point, and the cost of the step.

        Args:
            tolerance: relative, to which an iteration solves the step's system.
            sweeps: backups after the step.
        """
        values = self.values + self.system.solve(self.gap, tolerance=tolerance)
        iterated = self.system.iterated
        if sweeps:
            values = soft_bellman(self.model, values, sweeps)
        cost = Cost(backups=sweeps + 1, linear_solves=0 if iterated else 1, products=iterated)
        return NewtonPoint.at(self.model, values, before=self.system, method=self.system.method), cost


def soft_policy_iteration(
    model: SoftMDP,
    values: Array | None = None,
    *,
    tolerance: float = 1e-10,
    maximum_iterations: int = 200,
    linear_solver: str = "auto",
) -> TabularSolution:
    """`V*` with its policy, with `‖V − V*‖∞ ≤ tolerance` if the residual `‖TV − V‖∞ ≤ (1−γ)·tolerance` is reached.

    Large systems are solved by preconditioned iteration, only as accurately as the step needs (inexact Newton: Dembo,
    Eisenstat and Steihaug, SIAM Journal on Numerical Analysis 1982). The last matrix is also that of the adjoint
    equation: its factorisation is kept in the solution's `linearization`.

    Args:
        model: the follower's MDP.
        values: the starting point (S,). Default: zero.
        tolerance: the allowed error of V, in the units of the reward. 0: as near as rounding allows.
        maximum_iterations: the most Newton steps.
        linear_solver: "direct" (LU), "iterative" (Krylov), or "auto", the faster one by measured rules.

    Returns:
        The best V found. Its status is `CONVERGED`; `FELL_BACK` if a slower method replaced an iteration; `STAGNATED`
        if rounding makes the tolerance unreachable; `BUDGET_SPENT` or `NON_FINITE`.
    """
    wanted = (1.0 - model.discount) * tolerance
    start = np.zeros(model.states) if values is None else values
    point = NewtonPoint.at(model, start, method=linear_solver)
    cost, status, before = Cost(backups=1), Status.CONVERGED, math.inf
    steps, fell_back = 0, False
    while not point.residual <= wanted:
        if not math.isfinite(point.residual):
            status = Status.NON_FINITE
            break
        if steps >= maximum_iterations:
            status = Status.BUDGET_SPENT
            break
        far = before == math.inf or point.residual > FAR * before
        sweeps = SWEEPS_WHILE_FAR if far and point.system.iterates else 0
        tried, spent = point.step(_accuracy(point, before, wanted), sweeps=sweeps)
        cost, steps, fell_back = cost + spent, steps + 1, fell_back or point.system.fell_back
        if tried.residual >= point.residual and point.residual <= rounding_floor(model, point.backup):
            status = Status.STAGNATED
            break
        before, point = point.residual, tried
    if status is Status.CONVERGED and fell_back:
        status = Status.FELL_BACK
    backup = point.backup
    return TabularSolution(
        model, backup.policy, point.values, backup.action_values, point.residual, steps, status, cost, point.system
    )


def _accuracy(point: NewtonPoint, before: float, wanted: float) -> float:
    """The fraction of the gap that an iteration may leave: neither a quadratic method nor the tolerance needs less."""
    usable = max(TIGHTEST, 0.5 * (point.residual / before) ** 1.5) if before < math.inf else LOOSEST
    size = point.residual * float(np.linalg.norm(point.gap / point.residual))  # so that small squares do not underflow
    return max(min(LOOSEST, usable), 0.3 * wanted / size)


def corrected(model: SoftMDP, values: Array, corrections: int) -> tuple[NewtonPoint, int, Cost]:
    """The best point of at most `corrections` Newton steps, by the span of `Tv − v`; the number of steps; their cost.

    The steps end when only rounding is left.
    """
    best = point = NewtonPoint.at(model, values)
    steps, cost = 0, Cost(backups=1)
    while steps < corrections and not point.span <= (floor := backup_rounding(model, point.values)):
        after, spent = point.step(CORRECTION)
        steps, cost = steps + 1, cost + spent
        if not math.isfinite(after.span) or point.span <= min(after.span, NEAR_ROUNDING * floor):
            break
        point = after
        best = min(best, point, key=lambda each: each.span)
    return best, steps, cost


def rounding_floor(model: SoftMDP, backup: Backup) -> float:
    """The size of `Tv − v` that rounding alone can cause: a few ulps of the largest number in the sum."""
    largest = max(maximum_norm(backup.action_values), maximum_norm(backup.values))
    return 8 * EPSILON * max(largest, model.temperature)
