"""Preferences among trajectories (RLHF): labellers, datasets, and the Bradley–Terry objectives made of them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

import attrs
import numpy as np

from bilevelrl.objectives.trajectory_objectives import discounted_sums, weighted_visits
from bilevelrl.parametric.parts import ParametricArray
from bilevelrl.sampling.simulators import Trajectories
from bilevelrl.validation.arrays import Array, as_array, check_shape
from bilevelrl.validation.errors import InputError, kind_words
from bilevelrl.validation.fields import is_flag, is_integer, is_real

LARGEST_INDEX = 2**31 - 1
PARTS = ("first_observations", "first_actions", "second_observations", "second_actions", "labels")
"""The arrays of a `PreferenceDataset`'s file."""


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
        table = self.rewards(x)
        return preference_loss_and_gradient(self.rewards, x, table, first, second, labels, self.discount)


def preference_loss_and_gradient(
    rewards: Any,
    x: Array,
    table: Array,
    first: Trajectories,
    second: Trajectories,
    labels: Array,
    discount: float,
) -> tuple[Array, Array]:
    """Bradley–Terry losses (G,) and their mean gradient (n,) under r(x) = `table`."""
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

    @classmethod
    def of(cls, arrays: Mapping[str, Array]) -> PreferenceDataset:
        """The dataset of five arrays by name.

        `first_observations` (N, H + 1), `first_actions` (N, H), the same for `second`, and `labels` (N,). What the
        follower was paid along the way is not among them, and is zero here.
        """
        first, second = (
            _trajectories(
                f"{name}_observations and {name}_actions", arrays[f"{name}_observations"], arrays[f"{name}_actions"]
            )
            for name in ("first", "second")
        )
        return cls(first, second, arrays["labels"])

    def arrays(self) -> dict[str, Any]:
        """The five arrays that `of` takes, by name."""
        arrays: dict[str, Any] = {"labels": self.labels}
        for name, paths in (("first", self.first), ("second", self.second)):
            arrays |= {f"{name}_observations": paths.observations, f"{name}_actions": paths.actions}
        return arrays

    def __attrs_post_init__(self) -> None:
        for name in ("first", "second"):
            value = getattr(self, name)
            if not isinstance(value, Trajectories):
                raise InputError(f"PreferenceDataset.{name}", kind_words(value), "Trajectories")
            _check_visits(f"PreferenceDataset.{name}", value)
        if self.first.actions.shape != self.second.actions.shape:
            expected = f"{self.first.actions.shape} as of first: pairs of equal length"
            raise InputError("the shape of PreferenceDataset.second", str(self.second.actions.shape), expected)
        check_shape("PreferenceDataset.labels", self.labels, (self.first.count,))

    @functools.cached_property
    def needed(self) -> tuple[int, int]:
        """The least numbers of states and actions that the trajectories can be of."""
        pair = (self.first, self.second)
        visited, taken = (max(int(getattr(one, part).max()) for one in pair) for part in ("observations", "actions"))
        return visited + 1, taken + 1

    def check_table(self, shape: tuple[int, ...]) -> None:
        """Raise `InputError` where a table (S, A) has no place for what the trajectories visit."""
        if shape[0] < self.needed[0] or shape[1] < self.needed[1]:
            expected = f"at least {self.needed}, for what the dataset visits"
            raise InputError("the shape of the rewards of a PreferenceDatasetObjective", str(shape), expected)


def _trajectories(label: str, observations: Array, actions: Array) -> Trajectories:
    """Trajectories that were paid nothing; their indices as 64-bit integers, with which one can compute."""
    for array in (observations, actions):
        if array.dtype.kind not in "iu":
            raise InputError(label, f"an array of {array.dtype}", "integers")
    unpaid = np.broadcast_to(0.0, actions.shape)
    return Trajectories(observations.astype(np.int64), actions.astype(np.int64), unpaid)


def _check_visits(label: str, paths: Trajectories) -> None:
    """Whole numbers of at least 0, N ≥ 1 trajectories of H ≥ 1 steps, and one more observation than actions."""
    observations, actions = np.asarray(paths.observations), np.asarray(paths.actions)
    for part, array in (("observations", observations), ("actions", actions)):
        if array.ndim != 2 or 0 in array.shape:
            raise InputError(f"the shape of {label}.{part}", str(array.shape), "(N, H), neither zero")
        if array.dtype.kind not in "iu":
            raise InputError(f"{label}.{part}", f"an array of {array.dtype}", "integers")
        if int(array.min()) < 0 or int(array.max()) > LARGEST_INDEX:
            raise InputError(
                f"the least and the largest of {label}.{part}", f"{array.min()} and {array.max()}", "indices"
            )
    if observations.shape != (actions.shape[0], actions.shape[1] + 1):
        expected = f"({actions.shape[0]}, {actions.shape[1] + 1}), one more than actions"
        raise InputError(f"the shape of {label}.observations", str(observations.shape), expected)


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
        data, table = self.dataset, self.rewards(x)
        data.check_table(table.shape)
        losses, gradient = preference_loss_and_gradient(
            self.rewards, x, table, data.first, data.second, data.labels, self.discount
        )
        return float(losses.mean()), gradient, np.zeros_like(policy)


def sigmoid(values: Array) -> Array:
    """`1/(1 + e^−v)`, without overflow at either end."""
    return np.asarray(np.exp(-np.logaddexp(0.0, -values)))
