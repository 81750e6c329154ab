"""The soft Bellman equation `V = T V`, solved by fixed-point iteration and by Newton's method."""

from __future__ import annotations

import functools
import itertools
import math
from typing import ClassVar

import attrs
import numpy as np

import bilevelrl as bl


def _initial_values(model: bl.SoftMDP, warm_start: bl.mdp.TabularSolution | None) -> bl.Array:
    if warm_start is not None and warm_start.values.shape == (model.states,):
        return warm_start.values
    return np.zeros(model.states)


def _residual(backup: bl.mdp.Backup, values: bl.Array) -> float:
    return bl.validation.maximum_norm(backup.values - values)


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
        for sweep in itertools.count():
            backup = bl.mdp.soft_backup(model, values)
            residual = _residual(backup, values)
            if residual <= wanted:
                return values, backup, residual, sweep, bl.Status.CONVERGED
            if sweep == self.maximum_sweeps:
                return values, backup, residual, sweep, bl.Status.BUDGET_SPENT
            if not residual > bl.mdp.rounding_floor(model, backup):
                return values, backup, residual, sweep, bl.Status.STAGNATED
            values = backup.values
        raise AssertionError("unreachable")


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
        return bl.mdp.soft_policy_iteration(
            model,
            _initial_values(model, warm_start),
            tolerance=self.tolerance,
            maximum_iterations=self.maximum_iterations,
            linear_solver=self.linear_solver,
        )

    restore = staticmethod(bl.mdp.TabularSolution.restored)
