"""The exact expectation of a trajectory objective and its gradient, by enumeration of all trajectories."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from bilevelrl.problems.bilevel_problem import BilevelProblem
from bilevelrl.randomness import stream
from bilevelrl.sampling.simulators import Trajectories
from bilevelrl.testing.exact import Jacobians, dense_kernel, point_of, scores, solved
from bilevelrl.testing.violation import NotApplicable
from bilevelrl.validation.arrays import Array, Indices

MOST_GROUPS = 300_000


class Enumeration:
    """`f = E[l]`, `E[∂l/∂x]` and `τ⁻¹ E[l Σ (∇Q − ∇V)]` at a problem's point, from the follower's exact solution.

    Raises:
        NotApplicable: if there are too many groups of trajectories to enumerate.
    """

    def __init__(self, problem: BilevelProblem) -> None:
        self.problem, self.x = problem, point_of(problem)
        self.mdp = problem.lower.model(self.x)
        self.solution = solved(self.mdp)
        horizon, size = int(problem.objective.horizon), int(problem.objective.trajectories)
        paths, chances = self._paths(horizon)
        if len(chances) ** size > MOST_GROUPS:
            raise NotApplicable(f"{len(chances)}^{size} groups of trajectories, too many to enumerate")
        groups = np.array(list(itertools.product(range(len(chances)), repeat=size)))
        self.chances = np.prod(chances[groups], axis=1)
        flat = groups.reshape(-1)
        self.trajectories = Trajectories(paths[flat, ::2], paths[flat, 1::2], self._rewards(paths)[flat])
        losses = self._losses(self.x)
        self.objective = float(self.chances @ losses)
        self.largest_loss = float(np.abs(losses).max())
        self.direct = self._direct()
        self.jacobian = Jacobians(problem.lower, self.x, self.mdp).rewards
        by_pair = scores(self.mdp, self.solution.policy, self.jacobian)
        score = by_pair[self.trajectories.observations[:, :-1], self.trajectories.actions].sum(axis=1)
        per_group = score.reshape(len(groups), size, -1).sum(axis=1)
        self.implicit = np.asarray((self.chances * losses) @ per_group)
        steepest = float(np.abs(self.jacobian).max(initial=0.0))
        visits = horizon * size
        # 2‖c‖₁ max‖∇r‖/(1−γ) with ‖c‖₁ = E|l|·I·H/τ: the largest size of an implicit part
        weight = float(self.chances @ np.abs(losses)) * visits / self.mdp.temperature
        self.scale = 2 * weight * steepest / (1 - self.mdp.discount)

    @property
    def gradient(self) -> Array:
        """Both parts."""
        return np.asarray(self.direct + self.implicit)

    def _paths(self, horizon: int) -> tuple[Indices, Array]:
        """Every possible trajectory `(s_0, a_0, …, s_H)` and its probability."""
        kernel, policy = dense_kernel(self.mdp), self.solution.policy
        known: list[tuple[list[int], float]] = [([s], float(p)) for s, p in enumerate(self.mdp.initial) if p > 0]
        for _ in range(horizon):
            known = [
                ([*path, a, t], chance * float(policy[path[-1], a]) * float(kernel[path[-1], a, t]))
                for path, chance in known
                for a in range(self.mdp.actions)
                for t in np.flatnonzero(kernel[path[-1], a]).tolist()
            ]
            if len(known) > MOST_GROUPS:
                raise NotApplicable(f"more than {MOST_GROUPS}trajectories, too many to enumerate")
        return np.array([path for path, _ in known]), np.array([chance for _, chance in known])

    def _rewards(self, paths: Any) -> Array:
        return np.asarray(self.mdp.rewards[paths[:, :-1:2], paths[:, 1::2]])

    def _losses(self, x: Array) -> Array:
        losses, _ = self.problem.objective.loss_and_gradient(x, self.trajectories, stream(0, "enumeration"))
        return np.asarray(losses)

    def _direct(self) -> Array:
        """`Σ_groups probability · ∂l/∂x` by central differences of sixth order, at fixed probabilities."""
        step, direct = 1e-2, np.zeros(self.x.size)
        for i, unit in enumerate(np.eye(self.x.size)):
            ahead = [self.chances @ (self._losses(self.x + k * step * unit)) for k in (1, 2, 3)]
            behind = [self.chances @ (self._losses(self.x - k * step * unit)) for k in (1, 2, 3)]
            first, second, third = (a - b for a, b in zip(ahead, behind, strict=True))
            direct[i] = (45 * first - 9 * second + third) / (60 * step)
        return direct
