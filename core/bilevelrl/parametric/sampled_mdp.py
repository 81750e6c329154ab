"""A follower that can only be simulated: `SupportsSampling` without a transition model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from bilevelrl.occupancy import DenseOccupancy, Occupancy, SampledOccupancy
from bilevelrl.parametric.observation_rewards import ObservationReward, RewardAt, observed_pullback
from bilevelrl.parametric.parts import ParametricArray
from bilevelrl.sampling.simulators import Simulator
from bilevelrl.validation.arrays import Array, as_array
from bilevelrl.validation.errors import InputError, kind_words


@attrs.frozen(eq=False)
class SampledMDP:
    """An environment with unknown dynamics and with rewards that depend on x.

    Args:
        world: `(rewards) ↦ simulator`. It receives a table of rewards (S, A), or, if `rewards` is an
            `ObservationReward`, a function `(observations, actions) ↦ (N,)`.
        rewards: r: a `ParametricArray` (S, A), or an `ObservationReward`.
    """

    world: Callable[[Any], Simulator]
    rewards: Any = attrs.field()

    @rewards.validator
    def _check(self, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not isinstance(value, ParametricArray | ObservationReward):
            raise InputError("SampledMDP.rewards", kind_words(value), "a reward that depends on x")

    @property
    def dimension(self) -> int:
        """n, the length of x."""
        return int(self.rewards.dimension)

    @property
    def occupancy_forms(self) -> tuple[type, ...]:
        """Both for a table of rewards; only weighted samples for a function of observations."""
        if isinstance(self.rewards, ObservationReward):
            return (SampledOccupancy,)
        return (DenseOccupancy, SampledOccupancy)

    def simulator(self, x: Array) -> Simulator:
        """The simulator with the rewards at x. Raises `InputError` if x has the wrong length or is not finite."""
        x = as_array("x", x, (self.dimension,))
        return self.world(RewardAt(self.rewards, x) if isinstance(self.rewards, ObservationReward) else self.rewards(x))

    def pullback(self, x: Array, occupancy: Occupancy) -> Array:
        """(n,) `J_rᵀ r̄` at x: one product. Raises `InputError` for a table if rewards are of observations."""
        if isinstance(self.rewards, ObservationReward):
            if not isinstance(occupancy, SampledOccupancy):
                expected = "a SampledOccupancy, since the rewards are a function of observations"
                raise InputError("occupancy", kind_words(occupancy), expected)
            return observed_pullback(self.rewards, x, occupancy.observations, occupancy.actions, occupancy.weights)
        states, actions = self.rewards(x).shape
        gradient: Array = self.rewards.pullback(x, occupancy.dense(states, actions).weights)
        return gradient
