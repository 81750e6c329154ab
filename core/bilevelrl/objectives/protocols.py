"""The protocols of the leader's objectives: of a policy, of trajectories, and of the steps of a trajectory."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from bilevelrl.sampling.simulators import Trajectories
from bilevelrl.validation.arrays import Array


@runtime_checkable
class PolicyObjective(Protocol):
    """An upper-level objective `f(x, π)` of x and a tabular policy."""

    def value_and_gradients(self, x: Array, policy: Array) -> tuple[float, Array, Array]:
        """`f`, `∂f/∂x` (n,) and `∂f/∂π` (S, A), the latter with the entries of π as independent variables."""


@runtime_checkable
class TrajectoryObjective(Protocol):
    """An upper-level objective that is the expected loss of trajectories of the follower."""

    @property
    def horizon(self) -> int:
        """H, the number of steps of a trajectory."""

    @property
    def trajectories(self) -> int:
        """I, the number of trajectories of one loss."""

    def loss_and_gradient(self, x: Array, trajectories: Trajectories, rng: np.random.Generator) -> tuple[Array, Array]:
        """`l` for each group of I consecutive trajectories (G,), and `∂l/∂x` averaged over the groups (n,).

        `rng` is for objectives that draw random numbers, such as one with a noisy labeller.
        """


@runtime_checkable
class StepwiseObjective(TrajectoryObjective, Protocol):
    """A loss of one trajectory (I = 1) that is a sum over its steps: an action does not affect earlier terms."""

    def step_losses_and_gradient(
        self, x: Array, trajectories: Trajectories, rng: np.random.Generator
    ) -> tuple[Array, Array]:
        """What each step adds to `l`, discounted to the trajectory's start (G, H), and `∂l/∂x` averaged (n,)."""
