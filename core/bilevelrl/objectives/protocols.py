"""What an objective of the leader must offer: of a policy, of trajectories, of trajectories step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from bilevelrl.sampling.simulators import Trajectories
from bilevelrl.validation.arrays import Array

if TYPE_CHECKING:
    pass


@runtime_checkable
class PolicyObjective(Protocol):
    """An upper-level objective `f(x, π)` of x and a tabular policy."""

    def value_and_gradients(self, x: Array, policy: Array) -> tuple[float, Array, Array]:
        """`f`, `∂f/∂x` (n,) and `∂f/∂π` (S, A), the latter with the entries of π taken as independent."""


@runtime_checkable
class TrajectoryObjective(Protocol):
    """An upper-level objective that is the expected loss of trajectories of the follower."""

    @property
    def horizon(self) -> int:
        """H, steps in a trajectory."""

    @property
    def trajectories(self) -> int:
        """I, trajectories that one loss takes."""

    def loss_and_gradient(self, x: Array, trajectories: Trajectories, rng: np.random.Generator) -> tuple[Array, Array]:
        """`l` for each group of I consecutive trajectories (G,), and `∂l/∂x` averaged over the groups (n,).

        `rng` is for objectives that draw, such as a labeller that errs.
        """


@runtime_checkable
class StepwiseObjective(TrajectoryObjective, Protocol):
    """A loss of one trajectory (I = 1) that adds up over its steps: an action has no part in what came before it."""

    def step_losses_and_gradient(
        self, x: Array, trajectories: Trajectories, rng: np.random.Generator
    ) -> tuple[Array, Array]:
        """What each step adds to `l`, discounted to the trajectory's start (G, H), and `∂l/∂x` averaged (n,)."""
