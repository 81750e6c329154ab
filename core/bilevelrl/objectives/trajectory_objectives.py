"""Upper-level objectives over trajectories: `f(x, π) = E[l(d_1, …, d_I; x)]`, and preferences among them (RLHF)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import attrs
import numpy as np

from bilevelrl.parametric.parts import ParametricArray
from bilevelrl.sampling.simulators import Trajectories
from bilevelrl.validation.arrays import Array, as_array, as_array_unchecked
from bilevelrl.validation.fields import is_integer, is_real


@attrs.frozen(eq=False)
class CallableTrajectoryObjective:
    """A user's own loss of I trajectories of H steps.

    Args:
        function: `(x, trajectories, rng) ↦ (losses (G,), ∂l/∂x averaged over the groups (n,))`; a group is I
            consecutive trajectories.
        horizon: H ≥ 1.
        trajectories: I ≥ 1.
    """

    function: Callable[[Array, Trajectories, np.random.Generator], tuple[Array, Array]]
    horizon: int = attrs.field(validator=is_integer(at_least=1))
    trajectories: int = attrs.field(default=1, validator=is_integer(at_least=1))

    def loss_and_gradient(self, x: Array, trajectories: Trajectories, rng: np.random.Generator) -> tuple[Array, Array]:
        """`function`'s answer, its shapes checked."""
        losses, gradient = self.function(x, trajectories, rng)
        label, groups = "CallableTrajectoryObjective.function", trajectories.count // self.trajectories
        return (
            as_array_unchecked(f"the losses of {label}", losses, (groups,)),
            as_array_unchecked(f"the gradient of {label}", gradient, x.shape),
        )


@attrs.frozen(eq=False)
class TrajectoryReturnObjective:
    """Minus the leader's own return along the follower's trajectories: `l = −Σ_h discount^h r̄_{s_h a_h}(x)`, h < H.

    The sampled companion of `ReturnObjective`: no transition model, a finite horizon, and the follower's own dynamics.
    A `StepwiseObjective`.

    Args:
        rewards: r̄, what the leader earns: a table (S, A), or a `ParametricArray` (S, A) of the same x.
        horizon: H ≥ 1. What lies beyond is at most `discount^H/(1 − discount) · max|r̄|`.
        discount: γ̄ of the leader, in [0, 1].
    """

    trajectories: ClassVar[int] = 1

    rewards: Any = attrs.field()
    horizon: int = attrs.field(validator=is_integer(at_least=1))
    discount: float = attrs.field(default=1.0, validator=is_real(at_least=0.0, at_most=1.0))

    @rewards.validator
    def _check(self, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not isinstance(value, ParametricArray):
            as_array("TrajectoryReturnObjective.rewards", value, (None, None))

    def loss_and_gradient(self, x: Array, trajectories: Trajectories, rng: np.random.Generator) -> tuple[Array, Array]:
        """`l` of each trajectory, and `∂l/∂x` averaged."""
        losses, gradient = self.step_losses_and_gradient(x, trajectories, rng)
        return losses.sum(axis=1), gradient

    def step_losses_and_gradient(
        self, x: Array, trajectories: Trajectories, rng: np.random.Generator
    ) -> tuple[Array, Array]:
        """`−discount^h r̄_{s_h a_h}(x)` (N, H), and the pullback of their mean visits; draws nothing."""
        moves = isinstance(self.rewards, ParametricArray)
        table = self.rewards(x) if moves else np.asarray(self.rewards, dtype=np.float64)
        weights = -(self.discount ** np.arange(trajectories.horizon, dtype=np.float64))
        losses = weights * table[trajectories.observations[:, :-1], trajectories.actions]
        if not moves:
            return losses, np.zeros_like(x)
        paid = np.full(trajectories.count, -1.0 / trajectories.count)
        return losses, self.rewards.pullback(x, weighted_visits(trajectories, paid, self.discount, table.shape))


def discounted_sums(table: Array, trajectories: Trajectories, discount: float) -> Array:
    """(N,) `Σ_h discount^h table[s_h, a_h]` along each trajectory."""
    from bilevelrl.sampling.kernels import discounted_sums

    sums = np.zeros(trajectories.count)
    discounted_sums(table, trajectories.observations, trajectories.actions, discount, sums)
    return sums


def weighted_visits(trajectories: Trajectories, weights: Array, discount: float, shape: tuple[int, ...]) -> Array:
    """(S, A) `Σ_i weights_i Σ_h discount^h 1{(s_h, a_h)}`: the transpose of `discounted_sums`."""
    from bilevelrl.sampling.kernels import discounted_visits

    table = np.zeros(shape)
    discounted_visits(weights, trajectories.observations, trajectories.actions, discount, table)
    return table
