"""The soft Bellman equation `V = T V`, solved by fixed-point iteration and by Newton's method."""

from __future__ import annotations

import functools
import math
import time
from typing import ClassVar

import attrs
import numpy as np

import bilevelrl as bl

EPSILON = float(np.finfo(np.float64).eps)


def _initial_values(model: bl.SoftMDP, warm_start: bl.TabularSolution | None) -> bl.Array:
    if warm_start is not None and warm_start.values.shape == (model.states,):
        return warm_start.values
    return np.zeros(model.states)


def _residual(backup: bl.Backup, values: bl.Array) -> float:
    return bl.maximum_norm(backup.values - values)


def _rounding_floor(model: bl.SoftMDP, backup: bl.Backup) -> float:
    """The size of `Tv − v` that rounding alone can produce: a few ulps of the largest number in the sum."""
    largest = max(bl.maximum_norm(backup.action_values), bl.maximum_norm(backup.values))
    return 8 * EPSILON * max(largest, model.temperature)


@attrs.frozen
class SoftValueIteration:
    """`v ← T v`: a fixed number of sweeps, or until a guaranteed accuracy.

    Stops at `‖Tv − v‖∞ ≤ (1−γ)·tolerance`, which guarantees `‖v − V*‖∞ ≤ tolerance` since T is a γ-contraction. The
    error falls by γ a sweep. Where rounding makes the bound unreachable it stops with `Status.STAGNATED`.

    Args:
        sweeps: run exactly this many backups, whatever the accuracy (M-SoBiRL's N). None: run to `tolerance`.
        tolerance: the guaranteed accuracy of V, in the units of the reward; used where `sweeps` is None.
        maximum_sweeps: the most backups in tolerance mode.
    """

    name: ClassVar[str] = "soft-value-iteration"
    requires: ClassVar[type] = bl.SupportsModel

    sweeps: int | None = attrs.field(default=None, validator=bl.is_integer(at_least=1, optional=True))
    tolerance: float = attrs.field(default=1e-8, validator=bl.is_real(above=0.0))
    maximum_sweeps: int = attrs.field(default=1_000_000, validator=bl.is_integer(at_least=1))

    @functools.cached_property
    def tags(self) -> bl.Tags:
        """Exact where it runs to a tolerance; a fixed number of sweeps tracks."""
        return bl.Tags(exact=True, tolerance=self.tolerance) if self.sweeps is None else bl.Tags(tracking=True)

    def solve(
        self,
        problem: bl.BilevelProblem,
        x: bl.Array,
        warm_start: bl.TabularSolution | None,
        rng: np.random.Generator,
    ) -> bl.TabularSolution:
        """`V` after the sweeps, with the policy and the residual of one more backup, which the cost counts."""
        began = time.perf_counter()
        model = problem.lower.model(x)
        values = _initial_values(model, warm_start)
        if self.sweeps is not None:
            values = bl.soft_bellman(model, values, self.sweeps)
            backup = bl.soft_backup(model, values)
            residual = _residual(backup, values)
            met = residual <= (1.0 - model.discount) * self.tolerance
            status = bl.Status.CONVERGED if met else bl.Status.BUDGET_SPENT
            sweeps = self.sweeps
        else:
            values, backup, residual, sweeps, status = self._to_tolerance(model, values)
        if not math.isfinite(residual):
            status = bl.Status.NON_FINITE
        cost = bl.Cost(backups=sweeps + 1, seconds=time.perf_counter() - began)
        return bl.TabularSolution(model, backup.policy, values, backup.action_values, residual, sweeps, status, cost)

    def _to_tolerance(self, model: bl.SoftMDP, values: bl.Array) -> tuple[bl.Array, bl.Backup, float, int, bl.Status]:
        wanted = (1.0 - model.discount) * self.tolerance
        for sweep in range(self.maximum_sweeps):
            backup = bl.soft_backup(model, values)
            residual = _residual(backup, values)
            if residual <= wanted:
                return values, backup, residual, sweep, bl.Status.CONVERGED
            if not residual > _rounding_floor(model, backup):
                return values, backup, residual, sweep, bl.Status.STAGNATED
            values = backup.values
        backup = bl.soft_backup(model, values)
        residual = _residual(backup, values)
        met = residual <= wanted
        return (
            values,
            backup,
            residual,
            self.maximum_sweeps,
            (bl.Status.CONVERGED if met else bl.Status.BUDGET_SPENT),
        )


@attrs.frozen
class SoftPolicyIteration:
    """Newton's method on `v − Tv = 0`: `v ← v + (I − γP^π(v))^{-1}(Tv − v)`, which is soft policy iteration.

    Converges from any start (T is convex and monotone) and quadratically near the answer: a few linear solves where
    value iteration needs thousands of sweeps at γ near 1. The last factorisation is kept in the solution's
    `linearization`: it is the matrix of the adjoint equation, so the exact hyper-gradient needs no other.

    Stops at `‖Tv − v‖∞ ≤ (1−γ)·tolerance`, so that `‖v − V*‖∞ ≤ tolerance`; or, where rounding makes that
    unreachable, with `Status.STAGNATED` and the best v found.

    Args:
        tolerance: the guaranteed accuracy of V, in the units of the reward.
        maximum_iterations: the most Newton steps.
    """

    name: ClassVar[str] = "soft-policy-iteration"
    requires: ClassVar[type] = bl.SupportsModel

    tolerance: float = attrs.field(default=1e-10, validator=bl.is_real(above=0.0))
    maximum_iterations: int = attrs.field(default=200, validator=bl.is_integer(at_least=1))

    @functools.cached_property
    def tags(self) -> bl.Tags:
        """Exact, to the tolerance."""
        return bl.Tags(exact=True, tolerance=self.tolerance)

    def solve(
        self,
        problem: bl.BilevelProblem,
        x: bl.Array,
        warm_start: bl.TabularSolution | None,
        rng: np.random.Generator,
    ) -> bl.TabularSolution:
        """`V*` to the tolerance, with the residual that proves it."""
        began = time.perf_counter()
        model = problem.lower.model(x)
        values = _initial_values(model, warm_start)
        backup = bl.soft_backup(model, values)
        residual = _residual(backup, values)
        wanted = (1.0 - model.discount) * self.tolerance
        factorization: bl.Factorization | None = None
        steps = 0
        status = bl.Status.CONVERGED
        while not residual <= wanted:
            if not math.isfinite(residual):
                status = bl.Status.NON_FINITE
                break
            if steps >= self.maximum_iterations:
                status = bl.Status.BUDGET_SPENT
                break
            newton = bl.Linearization(model.transitions, model.discount, backup.policy)
            candidate = values + newton.solve(backup.values - values)
            factorization = newton.factorization
            tried = bl.soft_backup(model, candidate)
            previous, residual_tried = residual, _residual(tried, candidate)
            steps += 1
            if residual_tried >= previous and previous <= _rounding_floor(model, backup):
                status = bl.Status.STAGNATED
                break
            values, backup, residual = candidate, tried, residual_tried
        cost = bl.Cost(backups=steps + 1, linear_solves=steps, seconds=time.perf_counter() - began)
        return bl.TabularSolution(
            model,
            backup.policy,
            values,
            backup.action_values,
            residual,
            steps,
            status,
            cost,
            bl.Linearization(model.transitions, model.discount, backup.policy, factorization),
        )
