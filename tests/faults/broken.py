"""A plugin whose components behave until a chosen iteration, and then do not."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
import numpy as np

import bilevelrl as bl

FAULTS = ("not-a-number", "raise", "shape", "nothing", "diverged")


def _is_fault(default: str) -> Any:
    return attrs.field(default=default, validator=bl.validation.is_choice(*FAULTS))


@attrs.frozen
class BrokenSolver:
    """Soft policy iteration, until its call number `at` (from 0); counts its calls in `iterations`."""

    name: ClassVar[str] = "broken-solver"
    requires: ClassVar[type] = bl.mdp.SupportsModel
    produces: ClassVar[type] = bl.mdp.TabularSolution
    tags: ClassVar[bl.Tags] = bl.Tags("exact")

    fault: str = _is_fault("not-a-number")
    at: int = 3

    restore = staticmethod(bl.mdp.TabularSolution.restored)

    def solve(self, problem: Any, x: bl.Array, warm_start: Any, rng: np.random.Generator) -> Any:
        good = bl.lower_level_solver("soft-policy-iteration").solve(problem, x, warm_start, rng)
        call = 0 if warm_start is None else warm_start.iterations + 1
        good = attrs.evolve(good, iterations=call)
        if call != self.at:
            return good
        if self.fault == "raise":
            raise ZeroDivisionError("the solver divided by zero")
        changes: dict[str, dict[str, Any]] = {
            "not-a-number": {"policy": np.full_like(good.policy, np.nan)},
            "shape": {"policy": good.policy[:, :-1]},
            "diverged": {"status": bl.Status.DIVERGED},
        }
        return attrs.evolve(good, **changes[self.fault]) if self.fault in changes else None


@attrs.frozen
class BrokenEstimator:
    """The exact implicit gradient, until its call number `at` (from 0), which it counts in its carry."""

    name: ClassVar[str] = "broken-estimator"
    requires: ClassVar[type] = bl.mdp.SupportsModel
    requires_objective: ClassVar[type] = bl.objectives.PolicyObjective
    accepts: ClassVar[type] = bl.mdp.TabularSolution
    tags: ClassVar[bl.Tags] = bl.Tags("exact")

    fault: str = _is_fault("not-a-number")
    at: int = 3

    def estimate(
        self, problem: Any, x: bl.Array, solution: Any, previous: Any, rng: np.random.Generator
    ) -> bl.HyperGradient:
        good = bl.hypergradient_estimator("implicit").estimate(problem, x, solution, None, rng)
        call = 0 if previous is None else int(previous.carry["calls"]) + 1
        good = attrs.evolve(good, carry={"calls": np.array(call)})
        if call != self.at:
            return good
        if self.fault == "raise":
            raise ZeroDivisionError("the estimator divided by zero")
        changes: dict[str, dict[str, Any]] = {
            "not-a-number": {"implicit": np.full_like(x, np.nan)},
            "shape": {"direct": good.direct[:1], "implicit": good.implicit[:1]},
            "diverged": {"status": bl.Status.DIVERGED},
        }
        return attrs.evolve(good, **changes[self.fault]) if self.fault in changes else None  # type: ignore[return-value]


@attrs.frozen
class BrokenOptimizer:
    """Gradient descent, until its step number `at` (from 0)."""

    name: ClassVar[str] = "broken-optimizer"

    fault: str = _is_fault("not-a-number")
    at: int = 3
    step_size: float = 0.05

    def init(self, x: bl.Array) -> bl.OptimizerState:
        return bl.OptimizerState()

    def update(self, x: bl.Array, hyper: Any, state: bl.OptimizerState) -> tuple[bl.Array, bl.OptimizerState]:
        good = x - self.step_size * hyper.gradient
        after = bl.OptimizerState(state.steps + 1)
        if state.steps != self.at:
            return good, after
        if self.fault == "raise":
            raise ZeroDivisionError("the optimizer divided by zero")
        if self.fault == "nothing":
            return None  # type: ignore[return-value]
        changed = {"not-a-number": np.full_like(x, np.nan), "shape": good[1:], "diverged": 1e300 * good}
        return changed[self.fault], after


KINDS: dict[str, Any] = {"lower": BrokenSolver, "estimator": BrokenEstimator, "upper": BrokenOptimizer}
"""By role."""


@bl.hookimpl
def bilevelrl_lower_level_solvers() -> list[type]:
    return [BrokenSolver]


@bl.hookimpl
def bilevelrl_hypergradient_estimators() -> list[type]:
    return [BrokenEstimator]


@bl.hookimpl
def bilevelrl_upper_level_optimizers() -> list[type]:
    return [BrokenOptimizer]
