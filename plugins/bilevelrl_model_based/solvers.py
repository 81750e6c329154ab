"""The soft Bellman equation `V = T V`, solved by fixed-point iteration and by Newton's method."""

from __future__ import annotations

import functools
import math
from typing import ClassVar

import attrs
import numpy as np

import bilevelrl as bl

EPSILON = float(np.finfo(np.float64).eps)


def _initial_values(model: bl.SoftMDP, warm_start: bl.mdp.TabularSolution | None) -> bl.Array:
    if warm_start is not None and warm_start.values.shape == (model.states,):
        return warm_start.values
    return np.zeros(model.states)


def _residual(backup: bl.mdp.Backup, values: bl.Array) -> float:
    return bl.validation.maximum_norm(backup.values - values)


def _rounding_floor(model: bl.SoftMDP, backup: bl.mdp.Backup) -> float:
    """The size of `Tv − v` that rounding alone can produce: a few ulps of the largest number in the sum."""
    largest = max(bl.validation.maximum_norm(backup.action_values), bl.validation.maximum_norm(backup.values))
    return 8 * EPSILON * max(largest, model.temperature)


@attrs.frozen
class SoftValueIteration:
    """`v ← T v`: a fixed number of sweeps, or until a guaranteed accuracy.

    Stops at `‖Tv − v‖∞ ≤ (1−γ)·tolerance`, which guarantees `‖v − V*‖∞ ≤ tolerance` since T is a γ-contraction. The
    error falls by γ with each sweep. If rounding makes the bound unreachable it stops with `Status.STAGNATED`.

    Args:
        sweeps: the exact number of backups, for any accuracy (M-SoBiRL's N). None: run to `tolerance`.
        tolerance: the guaranteed accuracy of V, in the units of the reward; used if `sweeps` is None.
        maximum_sweeps: the largest number of backups in tolerance mode.
    """

    name: ClassVar[str] = "soft-value-iteration"
    requires: ClassVar[type] = bl.mdp.SupportsModel
    produces: ClassVar[type] = bl.mdp.TabularSolution

    sweeps: int | None = attrs.field(default=None, validator=bl.validation.is_integer(at_least=1, optional=True))
    tolerance: float = attrs.field(default=1e-8, validator=bl.validation.is_real(above=0.0))
    maximum_sweeps: int = attrs.field(default=1_000_000, validator=bl.validation.is_integer(at_least=1))

    @functools.cached_property
    def tags(self) -> bl.Tags:
        """Exact with a tolerance; tracking with a fixed number of sweeps."""
        return bl.Tags("exact", tolerance=self.tolerance) if self.sweeps is None else bl.Tags("tracking")

    def solve(
        self,
        problem: bl.Problem,
        x: bl.Array,
        warm_start: bl.mdp.TabularSolution | None,
        rng: np.random.Generator,
    ) -> bl.mdp.TabularSolution:
        """`V` after the sweeps, with the policy and the residual of one more backup, which the cost counts."""
        model = problem.lower.model(x)
        values = _initial_values(model, warm_start)
        if self.sweeps is not None:
            values = bl.mdp.soft_bellman(model, values, self.sweeps)
            backup = bl.mdp.soft_backup(model, values)
            residual = _residual(backup, values)
            met = residual <= (1.0 - model.discount) * self.tolerance
            status = bl.Status.CONVERGED if met else bl.Status.BUDGET_SPENT
            sweeps = self.sweeps
        else:
            values, backup, residual, sweeps, status = self._to_tolerance(model, values)
        if not math.isfinite(residual):
            status = bl.Status.NON_FINITE
        cost = bl.Cost(backups=sweeps + 1)
        return bl.mdp.TabularSolution(
            model, backup.policy, values, backup.action_values, residual, sweeps, status, cost
        )

    restore = staticmethod(bl.mdp.TabularSolution.restored)

    def _to_tolerance(
        self, model: bl.SoftMDP, values: bl.Array
    ) -> tuple[bl.Array, bl.mdp.Backup, float, int, bl.Status]:
        wanted = (1.0 - model.discount) * self.tolerance
        for sweep in range(self.maximum_sweeps):
            backup = bl.mdp.soft_backup(model, values)
            residual = _residual(backup, values)
            if residual <= wanted:
                return values, backup, residual, sweep, bl.Status.CONVERGED
            if not residual > _rounding_floor(model, backup):
                return values, backup, residual, sweep, bl.Status.STAGNATED
            values = backup.values
        backup = bl.mdp.soft_backup(model, values)
        residual = _residual(backup, values)
        met = residual <= wanted
        return (
            values,
            backup,
            residual,
            self.maximum_sweeps,
            (bl.Status.CONVERGED if met else bl.Status.BUDGET_SPENT),
        )


# A Newton step that leaves more of the residual than this is still far from the solution.
FAR = 0.1
# While far, this many sweeps after a step propagate the step's values to neighbouring states.
SWEEPS_WHILE_FAR = 3
# The relative accuracy of iterative solves while far; near the solution, what a quadratic method can use.
LOOSEST = 0.1
TIGHTEST = 1e-6


@attrs.frozen
class SoftPolicyIteration:
    """Newton's method on `v − Tv = 0`: `v ← v + (I − γP^π(v))^{-1}(Tv − v)`, which is soft policy iteration.

    Converges from any start (T is convex and monotone) and quadratically near the solution: it needs a few linear
    solves, while value iteration needs thousands of sweeps at γ near 1. The last matrix is that of the adjoint
    equation: the solution's `linearization` keeps its factorisation for the exact hyper-gradient.

    Large systems are solved by iteration, preconditioned, and no more accurately than the step deserves (inexact
    Newton: Dembo, Eisenstat and Steihaug, SIAM Journal on Numerical Analysis 1982). If an iteration stagnates, a
    factorisation or plain sweeps replace it, and the status is `Status.FELL_BACK`.

    Stops at `‖Tv − v‖∞ ≤ (1−γ)·tolerance`, so that `‖v − V*‖∞ ≤ tolerance`; or, if rounding makes that
    unreachable, with `Status.STAGNATED` and the best v found.

    Args:
        tolerance: the guaranteed accuracy of V, in the units of the reward.
        maximum_iterations: the largest number of Newton steps.
        linear_solver: "direct" (LU), "iterative" (Krylov), or "auto", the faster one by measured rules.
    """

    name: ClassVar[str] = "soft-policy-iteration"
    requires: ClassVar[type] = bl.mdp.SupportsModel
    produces: ClassVar[type] = bl.mdp.TabularSolution

    tolerance: float = attrs.field(default=1e-10, validator=bl.validation.is_real(above=0.0))
    maximum_iterations: int = attrs.field(default=200, validator=bl.validation.is_integer(at_least=1))
    linear_solver: str = attrs.field(default="auto", validator=bl.validation.is_choice("auto", "direct", "iterative"))

    @functools.cached_property
    def tags(self) -> bl.Tags:
        """Exact, to the tolerance."""
        return bl.Tags("exact", tolerance=self.tolerance)

    def solve(
        self,
        problem: bl.Problem,
        x: bl.Array,
        warm_start: bl.mdp.TabularSolution | None,
        rng: np.random.Generator,
    ) -> bl.mdp.TabularSolution:
        """`V*` to the tolerance, with the residual that proves it."""
        model = problem.lower.model(x)
        wanted = (1.0 - model.discount) * self.tolerance
        point = _NewtonPoint.at(model, _initial_values(model, warm_start), self.linear_solver)
        cost, status, before = bl.Cost(backups=1), bl.Status.CONVERGED, math.inf
        steps, fell_back = 0, False
        while not point.residual <= wanted:
            if not math.isfinite(point.residual):
                status = bl.Status.NON_FINITE
                break
            if steps >= self.maximum_iterations:
                status = bl.Status.BUDGET_SPENT
                break
            tried, spent = point.step(before, wanted)
            cost, steps, fell_back = cost + spent, steps + 1, fell_back or point.system.fell_back
            if tried.residual >= point.residual and point.residual <= _rounding_floor(model, point.backup):
                status = bl.Status.STAGNATED
                break
            before, point = point.residual, tried
        if status is bl.Status.CONVERGED and fell_back:
            status = bl.Status.FELL_BACK
        return bl.mdp.TabularSolution(
            model,
            point.backup.policy,
            point.values,
            point.backup.action_values,
            point.residual,
            steps,
            status,
            cost,
            point.system,
        )

    restore = staticmethod(bl.mdp.TabularSolution.restored)


@attrs.frozen(eq=False)
class _NewtonPoint:
    """A point of Newton's method.

    Args:
        model: the follower's MDP.
        values: v (S,).
        backup: of v.
        system: `I − γP^π(v)`.
        residual: `‖Tv − v‖∞`.
    """

    model: bl.SoftMDP
    values: bl.Array
    backup: bl.mdp.Backup
    system: bl.mdp.Linearization
    residual: float

    @classmethod
    def at(
        cls, model: bl.SoftMDP, values: bl.Array, method: str, factorization: bl.linear.Factorization | None = None
    ) -> _NewtonPoint:
        """The point at v, with the last step's factorisation, which is accurate enough near the end."""
        backup, system = bl.mdp.linearized_backup(model, values, factorization=factorization, method=method)
        return cls(model, values, backup, system, _residual(backup, values))

    def step(self, before: float, wanted: float) -> tuple[_NewtonPoint, bl.Cost]:
        """The next point, and the cost of the step.

        Args:
            before: the residual one step ago, infinite at first.
            wanted: the target residual.
        """
        far = before == math.inf or self.residual > FAR * before
        sweeps = SWEEPS_WHILE_FAR if far and self.system.iterates else 0
        gap = self.backup.values - self.values
        values = self.values + self.system.solve(gap, tolerance=self._accuracy(gap, before, wanted))
        iterated = self.system.iterated
        if sweeps:
            values = bl.mdp.soft_bellman(self.model, values, sweeps)
        cost = bl.Cost(backups=sweeps + 1, linear_solves=0 if iterated else 1, products=iterated)
        return _NewtonPoint.at(self.model, values, self.system.method, self.system.factorization), cost

    def _accuracy(self, gap: bl.Array, before: float, wanted: float) -> float:
        """The relative accuracy of an iterative solve that a quadratic method and the tolerance can use."""
        usable = max(TIGHTEST, 0.5 * (self.residual / before) ** 1.5) if before < math.inf else LOOSEST
        size = self.residual * float(np.linalg.norm(gap / self.residual))  # so that small squares do not underflow
        return max(min(LOOSEST, usable), 0.3 * wanted / size)
