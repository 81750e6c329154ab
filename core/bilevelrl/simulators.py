"""Simulators: the follower's world for those who may only act in it.

The interface is close to Gymnasium's vector environments (`reset`, `step`, many environments at once), with two
differences. All randomness comes from the generator passed in. `rollout` hands it out to trajectories by their index:
the same generator gives the same trajectories, bit for bit, however many environments or workers produce them, and the
first ones whatever the number of the others; `reset` and `step` hand out one number an environment and call. And
nothing resets by itself: an environment that ends an episode stays in its terminal state, as in the absorbing MDP,
until the next `reset`.
"""

from __future__ import annotations

import concurrent.futures
import functools
import itertools
import os
from typing import Any, Protocol, runtime_checkable

import attrs
import numpy as np
import numpy.typing as npt

from bilevelrl.mdp import SoftMDP
from bilevelrl.memory import check_fits
from bilevelrl.transitions import alias_entries
from bilevelrl.validation import Array, Indices, InputError, Mask, as_array, check_count, shape_words


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


# Fewer steps than this are drawn before a second thread has started.
STEPS_WORTH_A_THREAD = 50_000


class TabularSimulator:
    """Samples a `SoftMDP`, dense or sparse, from alias tables: a step takes the same time for any number of successors.

    A trajectory has a random stream of its own, seeded by the generator in order of the index, so the first
    trajectories do not depend on how many others there are, nor the first steps on the horizon.

    Args:
        mdp: the follower's MDP at x.
        threads: at most so many threads draw trajectories, which do not depend on it. None: as many as the process
            has processors.
        contexts: where the MDP is a direct sum of several (see `ContextualMDP`), (C + 1,) the first state of each and
            the number of all states. None: one context.
    """

    def __init__(self, mdp: SoftMDP, *, threads: int | None = None, contexts: Indices | None = None) -> None:
        if threads is not None:
            check_count("threads", threads)
        self._mdp = mdp
        self._threads = threads
        self._contexts = np.array([0, mdp.states]) if contexts is None else contexts
        self._here: Indices = np.zeros(0, dtype=np.int64)
        self._initial = cumulative_rows(mdp.initial)
        self._rewards = np.array(mdp.rewards, order="C")

    @functools.cached_property
    def spec(self) -> FollowerSpec:
        """What may be known of it."""
        mdp = self._mdp
        return FollowerSpec(mdp.states, mdp.actions, mdp.discount, mdp.temperature, mdp.reference)

    def reset(self, count: int, rng: np.random.Generator) -> Indices:
        """See `Simulator.reset`; one uniform number an environment."""
        check_count("count", count)
        self._here = np.searchsorted(self._initial, rng.random(count), side="right")
        return self._here.copy()

    def step(self, actions: Indices, rng: np.random.Generator) -> Step:
        """See `Simulator.step`; one uniform number an environment."""
        before, table = self._here, self._mdp.transitions.sampling_table
        chosen = checked_indices("actions", actions, before.size, self._mdp.actions)
        after = table.draw(before * self._mdp.actions + chosen, rng.random(chosen.size))
        self._here = after
        return Step(after.copy(), self._rewards[before, chosen], self._mdp.transitions.absorbing[after])

    def rollout(self, policy: Array, count: int, horizon: int, rng: np.random.Generator) -> Trajectories:
        """See `Simulator.rollout`; compiled."""
        check_batch(count, horizon)
        streams = _streams(rng, count)
        starts = np.searchsorted(self._initial, _uniforms(streams), side="right")
        return self._rollout(starts, np.full(count, -1), policy, horizon, streams)

    def rollout_groups(
        self, policy: Array, groups: int, size: int, horizon: int, rng: np.random.Generator
    ) -> Trajectories:
        """See `SupportsGroups.rollout_groups`; the same trajectories as of `rollout` where there is one context.

        The first of a group draws its state, and with it the context; the others' uniform numbers are mapped into the
        interval of the cumulative distribution that belongs to this context.
        """
        check_count("groups", groups)
        check_count("size", size)
        check_batch(groups * size, horizon)
        streams = _streams(rng, groups * size)
        uniforms = _uniforms(streams).reshape(groups, size)
        first = np.searchsorted(self._initial, uniforms[:, 0], side="right")
        context = np.searchsorted(self._contexts, first, side="right") - 1
        ends = np.append(0.0, self._initial)[self._contexts]
        low, high = ends[context][:, None], ends[context + 1][:, None]
        inside = low + uniforms[:, 1:] * (high - low)
        # Rounding must not carry a number beyond its context.
        uniforms[:, 1:] = np.minimum(inside, np.nextafter(high, low))
        starts = np.searchsorted(self._initial, uniforms.reshape(-1), side="right")
        return self._rollout(starts, np.full(starts.size, -1), policy, horizon, streams)

    def rollout_from(
        self,
        observations: Indices,
        actions: Indices | None,
        policy: Array,
        horizon: int,
        rng: np.random.Generator,
    ) -> Trajectories:
        """See `SupportsRestart.rollout_from`; compiled."""
        count = np.size(observations)
        check_batch(max(count, 1), horizon)
        starts = checked_indices("observations", observations, count, self._mdp.states)
        first = np.full(count, -1) if actions is None else checked_indices("actions", actions, count, self._mdp.actions)
        return self._rollout(starts, first, policy, horizon, _streams(rng, count))

    def _rollout(
        self, starts: Indices, first: Indices, policy: Array, horizon: int, streams: npt.NDArray[np.uint64]
    ) -> Trajectories:
        from bilevelrl.sampling_kernels import rollout

        shape = (self._mdp.states, self._mdp.actions)
        count, table = starts.size, self._mdp.transitions.sampling_table
        policy_table = alias_entries(
            np.arange(shape[0] + 1) * shape[1],
            np.tile(np.arange(shape[1]), shape[0]),
            as_array("policy", policy, shape).reshape(-1),
        )
        visited = np.empty((count, horizon + 1), dtype=np.int64)
        taken = np.empty((count, horizon), dtype=np.int64)
        rewards = np.empty((count, horizon))

        def fill(part: slice) -> None:
            trajectories = (array[part] for array in (streams, starts, first, visited, taken, rewards))
            rollout(table.starts, table.entries, policy_table, self._rewards, *trajectories)

        threads = min(self._threads or _processors(), 1 + count * horizon // STEPS_WORTH_A_THREAD, count)
        if threads <= 1:
            fill(slice(None))
        else:
            edges = np.linspace(0, count, threads + 1).astype(int).tolist()
            with concurrent.futures.ThreadPoolExecutor(threads) as pool:
                list(pool.map(fill, itertools.starmap(slice, itertools.pairwise(edges))))
        return Trajectories(visited, taken, rewards)


def check_batch(count: int, horizon: int) -> None:
    """Raise `InputError` where so many trajectories of so many steps are none, or more than fit into memory."""
    check_count("count", count)
    check_count("horizon", horizon)
    check_fits("a batch of trajectories", (count, horizon, len(attrs.fields(Trajectories))))


def _streams(rng: np.random.Generator, count: int) -> npt.NDArray[np.uint64]:
    """(count, 5) words for each trajectory: four that seed its stream, one for its first state."""
    return rng.integers(2**64, size=(count, 5), dtype=np.uint64)


def _uniforms(streams: npt.NDArray[np.uint64]) -> Array:
    """(count,) uniform numbers in [0, 1) of 53 bits, of each stream's word for the first state."""
    return np.asarray((streams[:, -1] >> np.uint64(11)) * 2.0**-53, dtype=np.float64)


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cumulative_rows(probabilities: Array) -> Array:
    """Running sums that end at one exactly, so that no draw falls behind the last positive entry."""
    sums = np.cumsum(probabilities, axis=-1)
    cumulative: Array = sums / sums[..., -1:]
    return cumulative


def checked_indices(field: str, value: object, count: int, size: int) -> npt.NDArray[np.int64]:
    """A copy of `value` as (count,) integers in [0, size), or an `InputError`."""
    array = np.asarray(value)
    if array.shape != (count,):
        raise InputError(f"the shape of {field}", shape_words(array.shape), f"{shape_words((count,))}, one each")
    if array.dtype.kind not in "iu" and array.size:
        raise InputError(field, f"an array of {array.dtype}", "integers")
    outside = (array < 0) | (array >= size)
    if outside.any():
        index = int(outside.argmax())
        raise InputError(f"{field}[{index}]", str(array[index]), f"an index from 0 to {size - 1}")
    return np.array(array, dtype=np.int64, order="C")
