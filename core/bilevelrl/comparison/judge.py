"""Re-evaluation: what the leader's objective is at an x, whatever an algorithm believed it to be."""

from __future__ import annotations

import math
from typing import Any

import attrs
import numpy as np

from bilevelrl.mdp.newton import soft_policy_iteration
from bilevelrl.mdp.solution import SupportsModel
from bilevelrl.objectives.protocols import PolicyObjective
from bilevelrl.plugins.components import Kind
from bilevelrl.plugins.discovery import registry
from bilevelrl.problems.bilevel_problem import BilevelProblem
from bilevelrl.problems.exact import implicit_gradient
from bilevelrl.problems.feasible_sets import stationarity
from bilevelrl.randomness import stream
from bilevelrl.sampling.simulators import draw_groups
from bilevelrl.sampling.solution import SupportsSampling
from bilevelrl.sampling.tabular_simulator import TabularSimulator
from bilevelrl.validation.arrays import Array

GROUPS = 20_000
FOLLOWER_SAMPLES = 1_000_000
# Accurate far beyond what a table shows, and reached by Newton's method in a few steps.
TOLERANCE = 1e-10


@attrs.frozen
class Verdict:
    """The leader's objective at an x.

    Args:
        objective: `f(x, π*(x))`; infinite where it cannot be computed.
        standard_error: of the objective; 0 where it is exact.
    """

    objective: float
    standard_error: float


@attrs.frozen(eq=False)
class Judge:
    """Evaluates the objective at any x, in the way that a problem allows.

    Args:
        problem: whose objective.
        groups: losses drawn, where the objective is one over trajectories.
        follower_samples: transitions that the follower learns from, where he cannot be solved.
    """

    problem: BilevelProblem
    groups: int = GROUPS
    follower_samples: int = FOLLOWER_SAMPLES

    @property
    def solves(self) -> bool:
        """Whether the follower is solved exactly."""
        return isinstance(self.problem.lower, SupportsModel)

    @property
    def exact(self) -> bool:
        """Whether the verdict has no error at all."""
        return self.solves and isinstance(self.problem.objective, PolicyObjective)

    @property
    def words(self) -> str:
        """How the objective is evaluated, in a sentence."""
        follower = (
            "the follower solved exactly"
            if self.solves
            else f"the follower learnt by soft Q-learning from {self.follower_samples:,} transitions of its own"
        )
        if isinstance(self.problem.objective, PolicyObjective):
            return f"{follower}, the objective computed from its policy"
        return f"{follower}, {self.groups:,} losses drawn from its policy with random numbers of their own"

    def __call__(self, x: Array, seed: int) -> Verdict:
        """The verdict at x. One seed draws the same random numbers at every x, which sharpens differences."""
        with np.errstate(over="ignore", invalid="ignore"):
            policy = self._policy(x, seed)
            if policy is None:
                return Verdict(math.inf, 0.0)
            if isinstance(self.problem.objective, PolicyObjective):
                return _verdict(float(self.problem.objective.value_and_gradients(x, policy)[0]), 0.0)
            losses = self._losses(x, policy, seed)
            return _verdict(float(losses.mean()), float(losses.std(ddof=1)) / math.sqrt(losses.size))

    def stationarity(self, x: Array) -> float:
        """`‖x − Π_X(x − ∇φ(x))‖₂` of the exact gradient; NaN where there is none."""
        if not self.exact:
            return math.nan
        with np.errstate(over="ignore", invalid="ignore"):
            solution = self._solution(x, 0)
            if not solution.status.usable:
                return math.nan
            hyper = implicit_gradient(self.problem, x, solution)
            return stationarity(self.problem.feasible_set, x, hyper.gradient)

    def _solution(self, x: Array, seed: int) -> Any:
        if self.solves:
            return soft_policy_iteration(self.problem.lower.model(x), tolerance=TOLERANCE)
        solver = registry().create(Kind.LOWER_LEVEL_SOLVER, "soft-q-learning", {"samples": self.follower_samples})
        return solver.solve(self.problem, x, None, stream(seed, "re-evaluation of the follower"))

    def _policy(self, x: Array, seed: int) -> Array | None:
        solution = self._solution(x, seed)
        policy: Array = solution.policy
        return policy if solution.status.usable and np.isfinite(policy).all() else None

    def _losses(self, x: Array, policy: Array, seed: int) -> Array:
        rng = stream(seed, "re-evaluation")
        lower, objective = self.problem.lower, self.problem.objective
        simulator: Any = lower.simulator(x) if isinstance(lower, SupportsSampling) else TabularSimulator(lower.model(x))
        size, horizon = int(objective.trajectories), int(objective.horizon)
        batch = draw_groups(simulator, policy, self.groups, size, horizon, rng)
        losses: Array = objective.loss_and_gradient(x, batch, rng)[0]
        return losses


def _verdict(objective: float, standard_error: float) -> Verdict:
    return Verdict(objective, standard_error) if math.isfinite(objective) else Verdict(math.inf, 0.0)
