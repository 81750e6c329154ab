"""Preferences among trajectories (RLHF): labellers, datasets, and their Bradley–Terry objectives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

import attrs
import numpy as np

from bilevelrl.objectives.trajectory_objectives import (
    discounted_sums,
    discounts,
    steps_pullback,
    weighted_visits,
)
from bilevelrl.occupancy import Values
from bilevelrl.parametric.observation_rewards import ObservationReward, RewardAt
from bilevelrl.parametric.parts import ParametricArray
from bilevelrl.sampling.simulators import Trajectories
from bilevelrl.validation.arrays import Array, as_array, check_shape
from bilevelrl.validation.errors import InputError, kind_words
from bilevelrl.validation.fields import is_flag, is_integer, is_real

LARGEST_INDEX = 2**31 - 1
PARTS = ("first_observations", "first_actions", "second_observations", "second_actions", "labels")
"""The names of the arrays in a `PreferenceDataset`'s file."""


@runtime_checkable
class Labeller(Protocol):
    """Labels which of two trajectories it prefers."""

    def __call__(self, first: Trajectories, second: Trajectories, rng: np.random.Generator) -> Array:
        """(G,) in [0, 1]: 1 for the first of each pair, 0 for the second, and between if uncertain."""


def _hidden_rewards(value: Any) -> Any:
    return value if callable(value) else as_array("RewardLabeller.rewards", value, (None, None))


@attrs.frozen(eq=False)
class RewardLabeller:
    """Labels by a hidden reward: `P(first preferred) = σ(steepness · (R*_1 − R*_2))` (Bradley and Terry 1952).

    Args:
        rewards: the hidden true reward: a table (S, A), or a function `(observations, actions) ↦ (N,)`.
        noisy: draw each answer from that probability; False answers with the probability itself.
        steepness: how certain the labeller is, > 0, in 1/reward.
        discount: weights step h of a trajectory by discount^h, in [0, 1].
    """

    rewards: Any = attrs.field(converter=_hidden_rewards)
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
    """Labels by the environment's own rewards, which neither leader nor follower sees.

    Args:
        noisy: draw each answer from `σ(steepness · (R*_1 − R*_2))`; False answers with the probability itself.
        steepness: how certain the labeller is, > 0, in 1/reward.
        discount: weights step h of a trajectory by discount^h, in [0, 1].
    """

    noisy: bool = attrs.field(default=True, validator=is_flag())
    steepness: float = attrs.field(default=1.0, validator=is_real(above=0.0))
    discount: float = attrs.field(default=1.0, validator=is_real(at_least=0.0, at_most=1.0))

    def __call__(self, first: Trajectories, second: Trajectories, rng: np.random.Generator) -> Array:
        """See `Labeller`. Raises `InputError` if the simulator reports no rewards of its own."""
        if first.environment_rewards is None or second.environment_rewards is None:
            raise InputError("trajectories.environment_rewards", "None", "a simulator that reports them")
        weights = discounts(first.horizon, self.discount)
        gain = (first.environment_rewards - second.environment_rewards) @ weights
        return _answers(self.steepness * gain, self.noisy, rng)


def _answers(gains: Array, noisy: bool, rng: np.random.Generator) -> Array:
    probability = sigmoid(gains)
    return (rng.random(gains.size) < probability).astype(np.float64) if noisy else probability


@attrs.frozen(eq=False)
class PreferenceObjective:
    """Reinforcement learning from a labeller's preferences among the follower's own trajectories.

    `l = −y log σ(R_1 − R_2) − (1−y) log σ(R_2 − R_1)`, with `R_i = Σ_h discount^h r_x(o_h, a_h)` along trajectory i
    and y the labeller's answer (Christiano et al. 2017, including the dependence of the trajectories on x).

    Args:
        rewards: r, the follower's learnt reward: a `ParametricArray` (S, A) or an `ObservationReward`.
        labeller: labels pairs.
        horizon: H ≥ 1, the number of steps compared.
        discount: in [0, 1].
    """

    trajectories: ClassVar[int] = 2

    rewards: Any
    labeller: Labeller
    horizon: int = attrs.field(validator=is_integer(at_least=1))
    discount: float = attrs.field(default=1.0, validator=is_real(at_least=0.0, at_most=1.0))

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.rewards, ParametricArray | ObservationReward):
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
    """Bradley–Terry losses (G,) and their mean gradient (n,) under r(x), by one pullback."""
    observed = isinstance(rewards, ObservationReward)
    at_x: Any = RewardAt(rewards, x) if observed else rewards(x)
    margin = discounted_sums(at_x, first, discount) - discounted_sums(at_x, second, discount)
    # −log σ(z) = log(1 + e^−z)
    losses = labels * np.logaddexp(0.0, -margin) + (1.0 - labels) * np.logaddexp(0.0, margin)
    pull = (sigmoid(margin) - labels) / margin.size
    if observed:
        visits = pull[:, None] * discounts(first.horizon, discount)
        return losses, steps_pullback(rewards, x, [(first, first.lived(visits)), (second, second.lived(-visits))])
    cotangent = weighted_visits(first, pull, discount, at_x.shape)
    cotangent -= weighted_visits(second, pull, discount, at_x.shape)
    return losses, rewards.pullback(x, cotangent)


def check_preferences(labels: object, count: int | None = None) -> Array:
    """Preferences as an array (N,) in [0, 1], with N = `count` if it is given; raises `InputError` otherwise."""
    array = as_array("preferences", labels, (count,))
    outside = (array < 0) | (array > 1)
    if outside.any():
        index = int(outside.argmax())
        raise InputError(f"preferences[{index}]", str(array[index]), "a number in [0, 1]")
    return array


@attrs.frozen(eq=False)
class PreferenceDataset:
    """A fixed set of labelled pairs that were collected before: indices of a table, or observations of any shape.

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

        `first_observations` (N, H + 1, …), `first_actions` (N, H, …), the same for `second`, and `labels` (N,). The
        follower's rewards are not among them, and are set to zero.
        """
        first, second = (
            _trajectories(arrays[f"{name}_observations"], arrays[f"{name}_actions"]) for name in ("first", "second")
        )
        return cls(first, second, arrays["labels"])

    def arrays(self) -> dict[str, Any]:
        """The five arrays that `of` takes, by name. Raises `InputError` if an episode ends within a trajectory."""
        arrays: dict[str, Any] = {"labels": self.labels}
        for name, paths in (("first", self.first), ("second", self.second)):
            if paths.terminated is not None and paths.terminated.any():
                expected = "trajectories without terminations, which the five arrays cannot hold"
                raise InputError(f"PreferenceDataset.{name}", "of episodes that terminate", expected)
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

    def check_table(self, shape: tuple[int, ...]) -> None:
        """Raise `InputError` if the trajectories visit indices outside a table (S, A)."""
        needed = tuple(self._largest(part) + 1 for part in ("observations", "actions"))
        if shape[0] < needed[0] or shape[1] < needed[1]:
            expected = f"at least {needed}, for what the dataset visits"
            raise InputError("the shape of the rewards of a PreferenceDatasetObjective", str(shape), expected)

    def _largest(self, part: str) -> int:
        arrays = [getattr(paths, part) for paths in (self.first, self.second)]
        for array in arrays:
            if not _are_indices(array):
                value = f"an array of {array.dtype} of shape {array.shape}"
                expected = "integers (N, H), or rewards that are functions of observations"
                raise InputError(f"the {part} of a PreferenceDataset", value, expected)
        return max(int(array.max()) for array in arrays)


def _trajectories(observations: Values, actions: Values) -> Trajectories:
    """Trajectories with rewards of zero; indices become 64-bit integers, for arithmetic."""
    seen, taken = (a.astype(np.int64) if _are_indices(a) else a for a in (observations, actions))
    return Trajectories(seen, taken, np.broadcast_to(0.0, actions.shape[:2]))


def _are_indices(array: Any) -> bool:
    return array.ndim == 2 and array.dtype.kind in "iu"


def _check_visits(label: str, paths: Trajectories) -> None:
    """Check numbers, N ≥ 1 trajectories, H ≥ 1 steps, one more observation than actions, and indices of at least 0."""
    observations, actions = np.asarray(paths.observations), np.asarray(paths.actions)
    for part, array in (("observations", observations), ("actions", actions)):
        if array.ndim < 2 or 0 in array.shape:
            raise InputError(f"the shape of {label}.{part}", str(array.shape), "(N, H, …), none of them zero")
        if array.dtype.kind not in "biuf":
            raise InputError(f"{label}.{part}", f"an array of {array.dtype}", "numbers")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InputError(f"{label}.{part}", "not finite", "finite numbers")
        if _are_indices(array) and (int(array.min()) < 0 or int(array.max()) > LARGEST_INDEX):
            raise InputError(
                f"the least and the largest of {label}.{part}", f"{array.min()} and {array.max()}", "indices"
            )
    if observations.shape[:2] != (actions.shape[0], actions.shape[1] + 1):
        expected = f"({actions.shape[0]}, {actions.shape[1] + 1}, …), one more than actions"
        raise InputError(f"the shape of {label}.observations", str(observations.shape), expected)


@attrs.frozen(eq=False)
class PreferenceDatasetObjective:
    """The mean Bradley–Terry loss of r(x) on a fixed dataset; it does not depend on the follower's policy.

    Args:
        rewards: r, a `ParametricArray` (S, A) or an `ObservationReward`.
        dataset: the labelled pairs.
        discount: in [0, 1].
    """

    horizon: ClassVar[int] = 1
    trajectories: ClassVar[int] = 1

    rewards: Any
    dataset: PreferenceDataset
    discount: float = attrs.field(default=1.0, validator=is_real(at_least=0.0, at_most=1.0))

    def loss_and_gradient(self, x: Array, trajectories: Trajectories, rng: np.random.Generator) -> tuple[Array, Array]:
        """The mean loss for any trajectory, for followers that can only be simulated."""
        value, gradient, _ = self.value_and_gradients(x, np.zeros((0, 0)))
        return np.full(trajectories.count, value), gradient

    def value_and_gradients(self, x: Array, policy: Array) -> tuple[float, Array, Array]:
        """The mean loss, its gradient, and zero."""
        data = self.dataset
        if not isinstance(self.rewards, ObservationReward):
            data.check_table(self.rewards(x).shape)
        losses, gradient = preference_loss_and_gradient(
            self.rewards, x, data.first, data.second, data.labels, self.discount
        )
        return float(losses.mean()), gradient, np.zeros_like(policy)


def sigmoid(values: Array) -> Array:
    """`1/(1 + e^−v)`, without overflow."""
    return np.asarray(np.exp(-np.logaddexp(0.0, -values)))
