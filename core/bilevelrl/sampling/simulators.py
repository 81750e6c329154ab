"""Simulators: the follower's world for those who may only act in it.

The interface is close to Gymnasium's vector environments (`reset`, `step`, many environments at once), with two
differences. All randomness comes from the generator passed in. `rollout` hands it out to trajectories by their index:
the same generator gives the same trajectories, bit for bit, however many environments or workers produce them, and the
first ones whatever the number of the others; `reset` and `step` hand out one number an environment and call. And
nothing resets by itself: an environment that ends an episode stays in its terminal state, as in the absorbing MDP,
until the next `reset`.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import attrs
import numpy as np
import numpy.typing as npt

from bilevelrl.validation.arrays import Array, Indices, Mask
from bilevelrl.validation.errors import InputError, shape_words
from bilevelrl.validation.fields import check_count
from bilevelrl.validation.memory import check_fits


@attrs.frozen(eq=False)
class FollowerSpec:
    """What a model-free component may know of the follower's MDP.

    Args:
        states: S, the number of observations.
        actions: A.
        discount: γ.
        temperature: τ.
        reference: μ (S, A), or None for μ = 1.
    """

    states: int
    actions: int
    discount: float
    temperature: float
    reference: Array | None = None


@attrs.frozen(eq=False)
class Step:
    """What `count` environments answer to one action each.

    Args:
        observations: (count,) where they are now.
        rewards: (count,) the follower's rewards at x for the state before and the action.
        terminated: (count,) which are in a terminal state, where they stay.
    """

    observations: Indices
    rewards: Array
    terminated: Mask


@attrs.frozen(eq=False)
class Trajectories:
    """N trajectories of H steps.

    Args:
        observations: (N, H + 1), the state after the last action included.
        actions: (N, H).
        rewards: (N, H), the follower's rewards at x.
        environment_rewards: (N, H), what the environment itself paid, for a labeller to judge by; None where the
            simulator has no reward but the follower's.
    """

    observations: Indices
    actions: Indices
    rewards: Array
    environment_rewards: Array | None = None

    @property
    def count(self) -> int:
        """N."""
        return int(self.actions.shape[0])

    @property
    def horizon(self) -> int:
        """H."""
        return int(self.actions.shape[1])

    @property
    def samples(self) -> int:
        """Transitions drawn: N·H."""
        return int(self.actions.size)

    def part(self, rows: slice) -> Trajectories:
        """Some of the trajectories."""
        paid = self.environment_rewards
        return Trajectories(
            self.observations[rows], self.actions[rows], self.rewards[rows], None if paid is None else paid[rows]
        )

    def first_steps(self, horizon: int) -> Trajectories:
        """All trajectories, cut after `horizon` steps."""
        paid = self.environment_rewards
        return Trajectories(
            self.observations[:, : horizon + 1],
            self.actions[:, :horizon],
            self.rewards[:, :horizon],
            None if paid is None else paid[:, :horizon],
        )

    def visits(self, weights: Array, shape: tuple[int, ...]) -> Array:
        """(S, A) the sum of `weights` (N, H) over the visits to each state and action."""
        flat = self.observations[:, :-1] * shape[1] + self.actions
        sums: Any = np.bincount(flat.reshape(-1), weights=weights.reshape(-1), minlength=shape[0] * shape[1])
        table: Array = sums.reshape(shape)
        return table


@runtime_checkable
class Simulator(Protocol):
    """The follower's MDP at one x, seen through `reset` and `step` only."""

    @property
    def spec(self) -> FollowerSpec:
        """What may be known of it."""

    def reset(self, count: int, rng: np.random.Generator) -> Indices:
        """Start `count` environments from the initial distribution; their observations (count,)."""

    def step(self, actions: Indices, rng: np.random.Generator) -> Step:
        """Act once in each environment."""

    def rollout(self, policy: Array, count: int, horizon: int, rng: np.random.Generator) -> Trajectories:
        """`count` trajectories of `horizon` steps under a tabular policy (S, A), from the initial distribution."""


@runtime_checkable
class SupportsRestart(Simulator, Protocol):
    """A simulator whose environments can be put into any state."""

    def rollout_from(
        self,
        observations: Indices,
        actions: Indices | None,
        policy: Array,
        horizon: int,
        rng: np.random.Generator,
    ) -> Trajectories:
        """One trajectory from each observation; the first action is given, or drawn from the policy (None)."""


@runtime_checkable
class SupportsVisits(SupportsRestart, Protocol):
    """A simulator that adds up the visits of continuations without recording them."""

    def signed_visits(
        self,
        observations: Indices,
        actions: Indices,
        weights: Array,
        policy: Array,
        rng: np.random.Generator,
        *,
        truncation: int | None,
        common_random_numbers: bool,
    ) -> tuple[Array, int]:
        """`Σ_j w_j (d̂_(s_j,a_j) − d̂_(s_j))` (S, A), and the number of transitions drawn for it.

        Each `d̂` counts the visits of one continuation: of T steps, discounted, or of a geometric random length
        (`truncation` None), undiscounted. In distribution it is what `rollout_from` would give; see
        `restarted_occupancy`, which uses it.
        """


@runtime_checkable
class SupportsGroups(Simulator, Protocol):
    """A simulator in which something is drawn once for a group of trajectories: its context."""

    def rollout_groups(
        self, policy: Array, groups: int, size: int, horizon: int, rng: np.random.Generator
    ) -> Trajectories:
        """`groups · size` trajectories of `horizon` steps, of which `size` consecutive ones share a context.

        Given the context they are independent; each alone is distributed as one of `rollout`.
        """


def draw_groups(
    simulator: Simulator, policy: Array, groups: int, size: int, horizon: int, rng: np.random.Generator
) -> Trajectories:
    """`groups · size` trajectories; those of a group share a context where the simulator knows of any."""
    if isinstance(simulator, SupportsGroups):
        return simulator.rollout_groups(policy, groups, size, horizon, rng)
    return simulator.rollout(policy, groups * size, horizon, rng)


def check_batch(count: int, horizon: int) -> None:
    """Raise `InputError` where so many trajectories of so many steps are none, or more than fit into memory."""
    check_count("count", count)
    check_count("horizon", horizon)
    check_fits("a batch of trajectories", (count, horizon, len(attrs.fields(Trajectories))))


def cumulative_rows(probabilities: Array) -> Array:
    """Running sums that end at one exactly, so that no draw falls behind the last positive entry."""
    sums = np.cumsum(probabilities, axis=-1)
    cumulative: Array = sums / sums[..., -1:]
    return cumulative


def checked_indices(field: str, value: object, count: int, size: int) -> npt.NDArray[np.int64]:
    """`value` as (count,) integers in [0, size), or an `InputError`."""
    array = np.asarray(value)
    if array.shape != (count,):
        raise InputError(f"the shape of {field}", shape_words(array.shape), f"{shape_words((count,))}, one each")
    if array.dtype.kind not in "iu" and array.size:
        raise InputError(field, f"an array of {array.dtype}", "integers")
    indices = np.ascontiguousarray(array, dtype=np.int64)
    # As an unsigned number what is negative is far too large.
    if indices.size and indices.view(np.uint64).max() >= size:
        index = int(((array < 0) | (array >= size)).argmax())
        raise InputError(f"{field}[{index}]", str(array[index]), f"an index from 0 to {size - 1}")
    return indices
