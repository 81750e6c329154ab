"""Upper-level objectives over trajectories: `f(x, π) = E[l(d_1, …, d_I; x)]`, and preferences among them (RLHF)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Protocol, runtime_checkable

import attrs
import numpy as np

from bilevelrl.parametric import ParametricArray
from bilevelrl.simulators import Trajectories
from bilevelrl.validation import (
    Array,
    InputError,
    as_array,
    as_array_unchecked,
    check_shape,
    is_flag,
    is_integer,
    is_real,
    kind_words,
)


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


@runtime_checkable
class Labeller(Protocol):
    """Says which of two trajectories it prefers."""

    def __call__(self, first: Trajectories, second: Trajectories, rng: np.random.Generator) -> Array:
        """(G,) in [0, 1]: 1 for the first of each pair, 0 for the second, between for uncertain."""


def _hidden_rewards(value: object) -> Array:
    return as_array("RewardLabeller.rewards", value, (None, None))


@attrs.frozen(eq=False)
class RewardLabeller:
    """Judges by a hidden reward: `P(first preferred) = σ(steepness · (R*_1 − R*_2))` (Bradley and Terry 1952).

    Args:
        rewards: the hidden true reward (S, A).
        noisy: draw each answer from that probability; False answers with the probability itself.
        steepness: how decided the labeller is, > 0, in 1/reward.
        discount: weighs step h of a trajectory by discount^h, in [0, 1].
    """

    rewards: Array = attrs.field(converter=_hidden_rewards)
    noisy: bool = attrs.field(default=True, validator=is_flag())
    steepness: float = attrs.field(default=1.0, validator=is_real(above=0.0))
    discount: float = attrs.field(default=1.0, validator=is_real(at_least=0.0, at_most=1.0))

    def __call__(self, first: Trajectories, second: Trajectories, rng: np.random.Generator) -> Array:
        """See `Labeller`."""
        gain = discounted_sums(self.rewards, first, self.discount) - discounted_sums(
            self.rewards, second, self.discount
        )
        return _answers(self.steepness * gain, self.noisy, rng)


@attrs.frozen(eq=False)
class ReturnLabeller:
    """Judges by what the environment itself paid, which neither leader nor follower sees.

    Args:
        noisy: draw each answer from `σ(steepness · (R*_1 − R*_2))`; False answers with the probability itself.
        steepness: how decided the labeller is, > 0, in 1/reward.
        discount: weighs step h of a trajectory by discount^h, in [0, 1].
    """

    noisy: bool = attrs.field(default=True, validator=is_flag())
    steepness: float = attrs.field(default=1.0, validator=is_real(above=0.0))
    discount: float = attrs.field(default=1.0, validator=is_real(at_least=0.0, at_most=1.0))

    def __call__(self, first: Trajectories, second: Trajectories, rng: np.random.Generator) -> Array:
        """See `Labeller`. Raises `InputError` where the simulator reports no rewards of its own."""
        if first.environment_rewards is None or second.environment_rewards is None:
            raise InputError("trajectories.environment_rewards", "None", "a simulator that reports them")
        weights = self.discount ** np.arange(first.horizon, dtype=np.float64)
        gain = (first.environment_rewards - second.environment_rewards) @ weights
        return _answers(self.steepness * gain, self.noisy, rng)


def _answers(gains: Array, noisy: bool, rng: np.random.Generator) -> Array:
    probability = sigmoid(gains)
    return (rng.random(gains.size) < probability).astype(np.float64) if noisy else probability


@attrs.frozen(eq=False)
class PreferenceObjective:
    """Reinforcement learning from a labeller's preferences among the follower's own trajectories.

    `l = −y log σ(R_1 − R_2) − (1−y) log σ(R_2 − R_1)`, with `R_i = Σ_h discount^h r_{s_h a_h}(x)` along trajectory i
    and y the labeller's answer (Christiano et al. 2017, with the dependence of the trajectories on x kept).

    Args:
        rewards: r, a `ParametricArray` (S, A): the follower's learnt reward.
        labeller: answers pairs.
        horizon: H ≥ 1, steps compared.
        discount: in [0, 1].
    """

    trajectories: ClassVar[int] = 2

    rewards: Any
    labeller: Labeller
    horizon: int = attrs.field(validator=is_integer(at_least=1))
    discount: float = attrs.field(default=1.0, validator=is_real(at_least=0.0, at_most=1.0))

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.rewards, ParametricArray):
            raise InputError("PreferenceObjective.rewards", kind_words(self.rewards), "a parametric reward")
        if not callable(self.labeller):
            expected = "a Labeller, a function of two sets of trajectories and a generator"
            raise InputError("PreferenceObjective.labeller", kind_words(self.labeller), expected)

    def loss_and_gradient(self, x: Array, trajectories: Trajectories, rng: np.random.Generator) -> tuple[Array, Array]:
        """The losses of consecutive pairs and their mean gradient, by one pullback."""
        first, second = trajectories.part(slice(0, None, 2)), trajectories.part(slice(1, None, 2))
        if first.horizon != second.horizon or first.count != second.count:
            raise InputError("the trajectories of a pair", "unequal in number or length", "pairs of equal length")
        labels = check_preferences(self.labeller(first, second, rng), first.count)
        return preference_loss_and_gradient(self.rewards, x, first, second, labels, self.discount)


def preference_loss_and_gradient(
    rewards: Any, x: Array, first: Trajectories, second: Trajectories, labels: Array, discount: float
) -> tuple[Array, Array]:
    """Bradley–Terry losses (G,) and their mean gradient (n,) under r(x)."""
    table = rewards(x)
    margin = discounted_sums(table, first, discount) - discounted_sums(table, second, discount)
    # −log σ(z) = log(1 + e^−z)
    losses = labels * np.logaddexp(0.0, -margin) + (1.0 - labels) * np.logaddexp(0.0, margin)
    pull = (sigmoid(margin) - labels) / margin.size
    cotangent = weighted_visits(first, pull, discount, table.shape)
    cotangent -= weighted_visits(second, pull, discount, table.shape)
    return losses, rewards.pullback(x, cotangent)


def check_preferences(labels: object, count: int | None = None) -> Array:
    """Preferences as an array (N,) in [0, 1], N = `count` where it is given; raises `InputError` for any other."""
    array = as_array("preferences", labels, (count,))
    outside = (array < 0) | (array > 1)
    if outside.any():
        index = int(outside.argmax())
        raise InputError(f"preferences[{index}]", str(array[index]), "a number in [0, 1]")
    return array


@attrs.frozen(eq=False)
class PreferenceDataset:
    """A fixed set of labelled pairs, as collected beforehand.

    Args:
        first: N trajectories.
        second: N trajectories of the same length.
        labels: (N,) in [0, 1].
    """

    first: Trajectories
    second: Trajectories
    labels: Array = attrs.field(converter=check_preferences)

    def __attrs_post_init__(self) -> None:
        for name in ("first", "second"):
            value = getattr(self, name)
            if not isinstance(value, Trajectories):
                raise InputError(f"PreferenceDataset.{name}", kind_words(value), "Trajectories")
        if self.first.actions.shape != self.second.actions.shape:
            expected = f"{self.first.actions.shape} as of first: pairs of equal length"
            raise InputError("the shape of PreferenceDataset.second", str(self.second.actions.shape), expected)
        check_shape("PreferenceDataset.labels", self.labels, (self.first.count,))


@attrs.frozen(eq=False)
class PreferenceDatasetObjective:
    """The mean Bradley–Terry loss of r(x) on a fixed dataset: no part of it depends on the follower's policy.

    Args:
        rewards: r, a `ParametricArray` (S, A).
        dataset: the labelled pairs.
        discount: in [0, 1].
    """

    horizon: ClassVar[int] = 1
    trajectories: ClassVar[int] = 1

    rewards: Any
    dataset: PreferenceDataset
    discount: float = attrs.field(default=1.0, validator=is_real(at_least=0.0, at_most=1.0))

    def loss_and_gradient(self, x: Array, trajectories: Trajectories, rng: np.random.Generator) -> tuple[Array, Array]:
        """The mean loss for every trajectory, whatever it is: for followers that can only be simulated."""
        value, gradient, _ = self.value_and_gradients(x, np.zeros((0, 0)))
        return np.full(trajectories.count, value), gradient

    def value_and_gradients(self, x: Array, policy: Array) -> tuple[float, Array, Array]:
        """The mean loss, its gradient, and zero."""
        data = self.dataset
        losses, gradient = preference_loss_and_gradient(
            self.rewards, x, data.first, data.second, data.labels, self.discount
        )
        return float(losses.mean()), gradient, np.zeros_like(policy)


def discounted_sums(table: Array, trajectories: Trajectories, discount: float) -> Array:
    """(N,) `Σ_h discount^h table[s_h, a_h]` along each trajectory."""
    from bilevelrl.sampling_kernels import discounted_sums

    sums = np.zeros(trajectories.count)
    discounted_sums(table, trajectories.observations, trajectories.actions, discount, sums)
    return sums


def weighted_visits(trajectories: Trajectories, weights: Array, discount: float, shape: tuple[int, ...]) -> Array:
    """(S, A) `Σ_i weights_i Σ_h discount^h 1{(s_h, a_h)}`: the transpose of `discounted_sums`."""
    from bilevelrl.sampling_kernels import discounted_visits

    table = np.zeros(shape)
    discounted_visits(weights, trajectories.observations, trajectories.actions, discount, table)
    return table


def sigmoid(values: Array) -> Array:
    """`1/(1 + e^−v)`, without overflow at either end."""
    return np.asarray(np.exp(-np.logaddexp(0.0, -values)))
