"""A follower that can only be simulated: `SupportsSampling` without a transition model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from bilevelrl.occupancy import Occupancy
from bilevelrl.parametric.parts import ParametricArray
from bilevelrl.sampling.simulators import Simulator
from bilevelrl.validation.arrays import Array, as_array
from bilevelrl.validation.errors import InputError, kind_words


@attrs.frozen(eq=False)
class SampledMDP:
    """A world with unknown dynamics whose rewards depend on x.

    Args:
        world: `(rewards) ↦ simulator` for a table of rewards (S, A).
        rewards: r: a `ParametricArray` (S, A).
    """

    world: Callable[[Array], Simulator]
    rewards: Any = attrs.field()

    @rewards.validator
    def _check(self, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not isinstance(value, ParametricArray):
            raise InputError("SampledMDP.rewards", kind_words(value), "a reward that depends on x")

    @property
    def dimension(self) -> int:
        """n, the length of x."""
        return int(self.rewards.dimension)

    def simulator(self, x: Array) -> Simulator:
        """The world with the rewards at x. Raises `InputError` where x has the wrong length or is not finite."""
        return self.world(self.rewards(as_array("x", x, (self.dimension,))))

    def pullback(self, x: Array, occupancy: Occupancy) -> Array:
        """(n,) `J_rᵀ r̄` at x."""
        states, actions = self.rewards(x).shape
        gradient: Array = self.rewards.pullback(x, occupancy.dense(states, actions).weights)
        return gradient
