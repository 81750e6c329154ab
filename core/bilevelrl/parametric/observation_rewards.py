"""Rewards that are functions of observations and actions of any type and shape.

For a reward network, `reward` is a forward pass, and `pullback` is one backward pass of `Σ_i w_i r_x(o_i, a_i)`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import attrs
import numpy as np

from bilevelrl.occupancy import Values
from bilevelrl.validation.arrays import Array, as_array, as_array_unchecked
from bilevelrl.validation.errors import InputError, kind_words
from bilevelrl.validation.fields import is_integer


@runtime_checkable
class ObservationReward(Protocol):
    """A reward `r_x(o, a)` of observations and actions, with its vector-Jacobian product."""

    @property
    def dimension(self) -> int:
        """n, the length of x."""

    def reward(self, x: Array, observations: Values, actions: Values) -> Array:
        """(N,) `r_x(o_i, a_i)` of observations (N, …) and actions (N, …)."""

    def pullback(self, x: Array, observations: Values, actions: Values, weights: Array) -> Array:
        """(n,) `Σ_i w_i ∇_x r_x(o_i, a_i)` for weights (N,) of either sign."""


@attrs.frozen(eq=False)
class RewardAt:
    """An `ObservationReward` at one x: a function of observations and actions, as a `world` takes it.

    Args:
        rewards: the reward.
        x: (n,).
    """

    rewards: Any
    x: Array

    def __call__(self, observations: Values, actions: Values) -> Array:
        """(N,) `r_x(o_i, a_i)`."""
        return observed_rewards(self.rewards, self.x, observations, actions)


@attrs.frozen(eq=False)
class FeatureReward:
    """`r_x(o, a) = φ(o, a)·x`: linear in features of observations and actions.

    Args:
        features: φ: `(observations, actions) ↦ (N, n)`.
        dimension: n ≥ 1.
    """

    features: Callable[[Values, Values], Array] = attrs.field()
    dimension: int = attrs.field(validator=is_integer(at_least=1))

    @features.validator
    def _check(self, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not callable(value):
            raise InputError("FeatureReward.features", kind_words(value), "a function of observations and actions")

    def _at(self, observations: Values, actions: Values) -> Array:
        shape = (len(observations), self.dimension)
        return as_array("the value of FeatureReward.features", self.features(observations, actions), shape)

    def reward(self, x: Array, observations: Values, actions: Values) -> Array:
        """`φ x`."""
        return np.asarray(self._at(observations, actions) @ x)

    def pullback(self, x: Array, observations: Values, actions: Values, weights: Array) -> Array:
        """`φᵀ w`."""
        return np.asarray(self._at(observations, actions).T @ weights)


def observed_rewards(rewards: Any, x: Array, observations: Values, actions: Values) -> Array:
    """(N,) the rewards of an `ObservationReward`; raises `InputError` if it returns another shape."""
    label = f"the value of {type(rewards).__name__}.reward"
    return as_array_unchecked(label, rewards.reward(x, observations, actions), (len(observations),))


def observed_pullback(rewards: Any, x: Array, observations: Values, actions: Values, weights: Array) -> Array:
    """(n,) the pullback of an `ObservationReward`; zero, without a call, if there are no observations."""
    if not len(weights):
        return np.zeros_like(x)
    label = f"the value of {type(rewards).__name__}.pullback"
    return as_array_unchecked(label, rewards.pullback(x, observations, actions, weights), x.shape)
