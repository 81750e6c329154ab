"""Upper-level objectives over trajectories, `f(x, π) = E[l(d_1, …, d_I; x)]`, and discounted sums of rewards.

Rewards are tables (S, A) or functions of observations; steps after the end of an episode have reward zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import attrs
import numpy as np

from bilevelrl.occupancy import Values
from bilevelrl.parametric.observation_rewards import ObservationReward, RewardAt, observed_pullback
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
        """The result of `function`, with its shapes checked."""
        losses, gradient = self.function(x, trajectories, rng)
        label, groups = "CallableTrajectoryObjective.function", trajectories.count // self.trajectories
        return (
            as_array_unchecked(f"the losses of {label}", losses, (groups,)),
            as_array_unchecked(f"the gradient of {label}", gradient, x.shape),
        )


@attrs.frozen(eq=False)
class TrajectoryReturnObjective:
    """Minus the leader's own return along the follower's trajectories: `l = −Σ_h discount^h r̄_x(o_h, a_h)`, h < H.

    A `StepwiseObjective`, and the sampled counterpart of `ReturnObjective`: with a finite horizon and the follower's
    own dynamics, and without a transition model.

    Args:
        rewards: r̄, the leader's reward: a table (S, A), or a `ParametricArray` (S, A) or an `ObservationReward` of the
            same x.
        horizon: H ≥ 1. Later steps would contribute at most `discount^H/(1 − discount) · max|r̄|`.
        discount: γ̄ of the leader, in [0, 1].
    """

    trajectories: ClassVar[int] = 1

    rewards: Any = attrs.field()
    horizon: int = attrs.field(validator=is_integer(at_least=1))
    discount: float = attrs.field(default=1.0, validator=is_real(at_least=0.0, at_most=1.0))

    @rewards.validator
    def _check(self, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not isinstance(value, ParametricArray | ObservationReward):
            as_array("TrajectoryReturnObjective.rewards", value, (None, None))

    def loss_and_gradient(self, x: Array, trajectories: Trajectories, rng: np.random.Generator) -> tuple[Array, Array]:
        """`l` of each trajectory, and `∂l/∂x` averaged."""
        losses, gradient = self.step_losses_and_gradient(x, trajectories, rng)
        return losses.sum(axis=1), gradient

    def step_losses_and_gradient(
        self, x: Array, trajectories: Trajectories, rng: np.random.Generator
    ) -> tuple[Array, Array]:
        """`−discount^h r̄_x(o_h, a_h)` (N, H), and the pullback of their mean visits; `rng` is not used."""
        weights = trajectories.lived(-discounts(trajectories.horizon, self.discount))
        if isinstance(self.rewards, ObservationReward):
            losses = weights * step_rewards(RewardAt(self.rewards, x), trajectories)
            return losses, steps_pullback(self.rewards, x, [(trajectories, weights / trajectories.count)])
        moves = isinstance(self.rewards, ParametricArray)
        table = self.rewards(x) if moves else np.asarray(self.rewards, dtype=np.float64)
        losses = weights * table[trajectories.observations[:, :-1], trajectories.actions]
        if not moves:
            return losses, np.zeros_like(x)
        paid = np.full(trajectories.count, -1.0 / trajectories.count)
        return losses, self.rewards.pullback(x, weighted_visits(trajectories, paid, self.discount, table.shape))


def discounts(horizon: int, discount: float) -> Array:
    """(H,) `discount^h`."""
    return np.asarray(discount ** np.arange(horizon, dtype=np.float64))


def step_rewards(rewards: Callable[[Values, Values], Array], trajectories: Trajectories) -> Array:
    """(N, H) the values of a function of observations and actions along each trajectory, including the padding."""
    observations, actions = _flat_visits(trajectories)
    rows = as_array_unchecked("the rewards of a trajectory", rewards(observations, actions), (len(observations),))
    return rows.reshape(trajectories.count, trajectories.horizon)


def steps_pullback(rewards: Any, x: Array, weighed: Sequence[tuple[Trajectories, Array]]) -> Array:
    """(n,) `Σ w_ih ∇_x r_x(o_h, a_h)` of an `ObservationReward`, by one call.

    Args:
        rewards: the reward.
        x: (n,).
        weighed: sets of N trajectories, each with the weights of its visits (N, H), zero in the padding.
    """
    parts = [(*_flat_visits(trajectories), weights.reshape(-1)) for trajectories, weights in weighed]
    observations, actions, weights = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    kept = weights != 0.0
    return observed_pullback(rewards, x, observations[kept], actions[kept], weights[kept])


def _flat_visits(trajectories: Trajectories) -> tuple[Values, Values]:
    """The visits of all trajectories in one list: observations (N·H, …) and actions (N·H, …)."""
    seen, taken = trajectories.observations[:, :-1], trajectories.actions
    return seen.reshape(-1, *seen.shape[2:]), taken.reshape(-1, *taken.shape[2:])


def discounted_sums(rewards: Any, trajectories: Trajectories, discount: float) -> Array:
    """(N,) `Σ_h discount^h r(o_h, a_h)` along each trajectory, for a table (S, A) or a function of observations."""
    if callable(rewards) or trajectories.terminated is not None:
        visited = trajectories.observations[:, :-1], trajectories.actions
        paid = step_rewards(rewards, trajectories) if callable(rewards) else rewards[visited]
        return np.asarray((trajectories.lived(discounts(trajectories.horizon, discount)) * paid).sum(axis=1))
    from bilevelrl.sampling.kernels import discounted_sums

    sums = np.zeros(trajectories.count)
    discounted_sums(rewards, trajectories.observations, trajectories.actions, discount, sums)
    return sums


def weighted_visits(trajectories: Trajectories, weights: Array, discount: float, shape: tuple[int, ...]) -> Array:
    """(S, A) `Σ_i weights_i Σ_h discount^h 1{(s_h, a_h)}`: the transpose of `discounted_sums`."""
    if trajectories.terminated is not None:
        return trajectories.visits(weights[:, None] * discounts(trajectories.horizon, discount), shape)
    from bilevelrl.sampling.kernels import discounted_visits

    table = np.zeros(shape)
    discounted_visits(weights, trajectories.observations, trajectories.actions, discount, table)
    return table
