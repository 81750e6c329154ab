"""The rival that does not differentiate the follower's policy at all."""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import attrs
import numpy as np

import bilevelrl as bl


def _everything(discount: float) -> float:
    """One: the whole implicit part is missing."""
    return 1.0


@attrs.frozen
class DirectOnly:
    """`∂f/∂x` at the follower's policy, without the implicit part: `g = ∂_x f(x, π)|_{π = π*(x)}`.

    Preference-based reinforcement learning does this: it fits the reward to the labels of the follower's trajectories,
    as if these did not depend on the reward. It has the fewest requirements of all estimators. It is a descent
    direction only if the implicit part does not outweigh the direct one.

    An objective of the policy is differentiated exactly. An objective of trajectories only is sampled from the
    follower's simulator, with a standard error.

    Source: Christiano et al., "Deep reinforcement learning from human preferences", NeurIPS 2017 (arXiv 1706.03741).

    Args:
        groups: G ≥ 1, groups of I trajectories in each call, for an objective of trajectories.
        blocks: the number of blocks whose means give the standard error.
    """

    name: ClassVar[str] = "direct-only"
    requires: ClassVar[type] = object
    requires_objective: ClassVar[type] = object
    accepts: ClassVar[type] = bl.LowerLevelSolution
    tags: ClassVar[bl.Tags] = bl.Tags("biased", deterministic=False, bias_bound=_everything)

    groups: int = attrs.field(default=64, validator=bl.validation.is_integer(at_least=1))
    blocks: int = attrs.field(default=8, validator=bl.validation.is_integer(at_least=1))

    def estimate(
        self,
        problem: bl.Problem,
        x: bl.Array,
        solution: Any,
        previous: bl.HyperGradient | None,
        rng: np.random.Generator,
    ) -> bl.HyperGradient:
        """`∂f/∂x`, and zeros for the implicit part."""
        error: bl.Array | None = None
        if isinstance(problem.objective, bl.objectives.PolicyObjective):
            value, by_x, _ = problem.objective.value_and_gradients(x, solution.policy)
            samples, status = 0, bl.Status.CONVERGED
        else:
            value, by_x, error, samples = self._sampled(problem, x, solution.policy, rng)
            status = bl.Status.BUDGET_SPENT
        cost = bl.Cost(samples=samples)
        if not (np.isfinite(value) and np.isfinite(by_x).all()):
            status = bl.Status.NON_FINITE
        return bl.HyperGradient(by_x, np.zeros_like(x), value, None, cost, status, standard_error=error)

    def _sampled(
        self, problem: bl.Problem, x: bl.Array, policy: bl.Array, rng: np.random.Generator
    ) -> tuple[float, bl.Array, bl.Array | None, int]:
        """The mean loss, its direct gradient, the gradient's standard error, and the transitions drawn."""
        objective, lower = problem.objective, problem.lower
        size = int(objective.trajectories)
        simulator = bl.sampling.simulator_of(lower, x)
        batch = bl.sampling.draw_groups(simulator, policy, self.groups, size, int(objective.horizon), rng)
        edges = np.linspace(0, self.groups, min(self.blocks, self.groups) + 1).round().astype(int)
        losses, gradients = [], []
        for low, high in itertools.pairwise(edges):
            of_block, gradient = objective.loss_and_gradient(x, batch.part(slice(low * size, high * size)), rng)
            losses.append(of_block)
            gradients.append(gradient)
        shares = np.diff(edges) / self.groups
        table = np.array(gradients)
        mean = shares @ table
        error = None
        if shares.size > 1:
            error = np.sqrt((shares**2) @ (table - mean) ** 2 * shares.size / (shares.size - 1))
        return float(np.concatenate(losses).mean()), mean, error, batch.samples
