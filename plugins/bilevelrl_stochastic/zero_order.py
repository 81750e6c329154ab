"""Zero-order hyper-gradients: the follower is solved on both sides of x, and no derivatives are used."""

from __future__ import annotations

import copy
import math
from typing import Any, ClassVar

import attrs
import numpy as np

import bilevelrl as bl


@attrs.frozen
class ZeroOrder:
    """Two-point Gaussian smoothing: `g = mean_i (φ(x + δu_i) − φ(x − δu_i))/(2δ) · u_i`, `u_i ~ N(0, I)`.

    Its expectation is the gradient of φ smoothed with a Gaussian of width δ, which differs from ∇φ by O(δ²); its
    variance is of the size n‖∇φ‖²/m for m directions. It uses only values of the problem: neither ∇r nor ∂f/∂π nor an
    adjoint, but two solutions of the follower for each direction, by soft policy iteration started from the given
    solution.

    The same differences with the follower's policy held fixed are `direct`, the rest is `implicit`.

    For an objective of trajectories, φ itself is sampled. With common random numbers both sides of a direction draw
    their trajectories and labels with the same numbers; without them the noise is divided by δ.

    Source: Nesterov and Spokoiny, "Random gradient-free minimization of convex functions", Foundations of Computational
    Mathematics 2017.

    Args:
        directions: m ≥ 1.
        smoothing: δ > 0, in the units of x. x ± δu need not be in the feasible set.
        tolerance: the accuracy `‖V − V*‖∞` of the follower on both sides; it affects a difference of two φ, over δ.
        groups: G ≥ 1, groups of I trajectories for each value, for an objective of trajectories.
        common_random_numbers: whether both sides of a direction share them.
    """

    name: ClassVar[str] = "zero-order"
    requires: ClassVar[type] = bl.mdp.SupportsModel
    requires_objective: ClassVar[type] = object
    accepts: ClassVar[type] = bl.LowerLevelSolution
    tags: ClassVar[bl.Tags] = bl.Tags("biased", deterministic=False)

    directions: int = attrs.field(default=16, validator=bl.validation.is_integer(at_least=1))
    smoothing: float = attrs.field(default=1e-3, validator=bl.validation.is_real(above=0.0))
    tolerance: float = attrs.field(default=1e-10, validator=bl.validation.is_real(above=0.0))
    groups: int = attrs.field(default=64, validator=bl.validation.is_integer(at_least=1))
    common_random_numbers: bool = attrs.field(default=True, validator=bl.validation.is_flag())

    def estimate(
        self,
        problem: bl.Problem,
        x: bl.Array,
        solution: bl.mdp.TabularSolution,
        previous: bl.HyperGradient | None,
        rng: np.random.Generator,
    ) -> bl.HyperGradient:
        """The mean over the directions, with its standard error for two or more directions."""
        bl.validation.check_fits(f"the directions of {self.name!r}", (self.directions, x.size))
        solver: Any = bl.lower_level_solver("soft-policy-iteration", tolerance=self.tolerance)
        samples_follower = not isinstance(problem.objective, bl.objectives.PolicyObjective)
        objective, cost = self._value(problem, x, x, solution.policy, copy.deepcopy(rng))
        slopes = np.empty((self.directions, 2))  # of f at a fixed policy, of φ
        towards = rng.standard_normal((self.directions, x.size))
        status = bl.Status.BUDGET_SPENT
        for direction, slope in zip(towards, slopes, strict=True):
            sides = np.empty((2, 2))
            (numbers,) = rng.spawn(1) if samples_follower else (rng,)
            for side, sign in zip(sides, (1.0, -1.0), strict=True):
                moved = x + sign * self.smoothing * direction
                answer = solver.solve(problem, moved, solution, rng)
                if not answer.status.usable:
                    status = answer.status
                for index, (at, policy) in enumerate(((x, solution.policy), (moved, answer.policy))):
                    own = copy.deepcopy(numbers) if self.common_random_numbers and samples_follower else numbers
                    side[index], spent = self._value(problem, at, moved, policy, own)
                    cost = cost.plus(spent)
                cost = cost.plus(answer.cost)
            slope[:] = (sides[0] - sides[1]) / (2.0 * self.smoothing)
        estimates = slopes[:, 1:] * towards
        direct = (slopes[:, :1] * towards).mean(axis=0)
        error = estimates.std(axis=0, ddof=1) / math.sqrt(self.directions) if self.directions > 1 else None
        if not (np.isfinite(slopes).all() and math.isfinite(objective)):
            status = bl.Status.NON_FINITE
        return bl.HyperGradient(
            direct,
            estimates.mean(axis=0) - direct,
            objective,
            None,
            cost,
            status,
            standard_error=error,
        )

    def _value(
        self, problem: bl.Problem, at: bl.Array, x: bl.Array, policy: bl.Array, rng: np.random.Generator
    ) -> tuple[float, bl.Cost]:
        """`f(x, π)`; for an objective of trajectories, the mean loss at x of trajectories drawn at `at`."""
        objective, lower = problem.objective, problem.lower
        if isinstance(objective, bl.objectives.PolicyObjective):
            return float(objective.value_and_gradients(x, policy)[0]), bl.Cost()
        simulator, size = bl.sampling.simulator_of(lower, at), int(objective.trajectories)
        batch = bl.sampling.draw_groups(simulator, policy, self.groups, size, int(objective.horizon), rng)
        losses, _ = objective.loss_and_gradient(x, batch, rng)
        return float(losses.mean()), bl.Cost(samples=batch.samples)
