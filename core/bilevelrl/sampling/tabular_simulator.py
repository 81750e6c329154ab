"""A compiled simulator of a tabular MDP: a step takes the same time for any number of successors."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import numpy.typing as npt

from bilevelrl.execution.threads import over_parts, processors
from bilevelrl.mdp.soft_mdp import SoftMDP
from bilevelrl.protocols import Policy
from bilevelrl.sampling.alias_tables import alias_entries, sampling_table
from bilevelrl.sampling.policies import as_table, cumulative_rows
from bilevelrl.sampling.simulators import (
    FollowerSpec,
    Step,
    Trajectories,
    check_batch,
    checked_indices,
)
from bilevelrl.sampling.spaces import Discrete
from bilevelrl.validation.arrays import Array, Indices, check_shape
from bilevelrl.validation.fields import check_count

# Fewer steps than this are drawn before a second thread could start.
STEPS_WORTH_A_THREAD = 50_000
# Visits are summed in parts with a table each. The number of parts does not depend on the number of threads: at most
# this many parts, whose tables have at most this many numbers.
MOST_PARTS, LARGEST_TABLES = 64, 1 << 24


class TabularSimulator:
    """Samples a `SoftMDP`, dense or sparse, from alias tables: a step takes the same time for any number of successors.

    The policy is an array (S, A), or any `Policy` of indices, which is evaluated once for each state and action.

    Each trajectory has a random stream of its own, keyed by its index and a few words of the generator, so the first
    trajectories do not depend on the number of the others, and the first steps do not depend on the horizon.

    Args:
        mdp: the follower's MDP at x.
        threads: the largest number of threads, which does not change the trajectories. None: as many as the process has
            processors.
        contexts: if the MDP is a direct sum of several (see `ContextualMDP`), (C + 1,) the first state of each and the
            number of all states. None: one context.
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
        """What components may use of it."""
        mdp = self._mdp
        spaces = Discrete(mdp.states), Discrete(mdp.actions)
        return FollowerSpec(*spaces, mdp.discount, mdp.temperature, mdp.reference)

    def reset(self, count: int, rng: np.random.Generator) -> Indices:
        """See `Simulator.reset`; one uniform number per environment."""
        check_count("count", count)
        self._here = np.searchsorted(self._initial, rng.random(count), side="right")
        return self._here.copy()

    def step(self, actions: Indices, rng: np.random.Generator) -> Step:
        """See `Simulator.step`; one uniform number per environment. No step terminates, also in absorbing states."""
        before, table = self._here, sampling_table(self._mdp.transitions)
        chosen = checked_indices("actions", actions, before.size, self._mdp.actions)
        after = table.draw(before * self._mdp.actions + chosen, rng.random(chosen.size))
        self._here = after
        return Step(after.copy(), self._rewards[before, chosen], np.zeros(after.size, dtype=bool))

    def rollout(self, policy: Array | Policy, count: int, horizon: int, rng: np.random.Generator) -> Trajectories:
        """See `Simulator.rollout`; compiled."""
        check_batch(count, horizon)
        key = _key(rng)
        starts = np.searchsorted(self._initial, rng.random(count), side="right")
        return self._rollout(starts, None, policy, horizon, key)

    def rollout_groups(
        self, policy: Array | Policy, groups: int, size: int, horizon: int, rng: np.random.Generator
    ) -> Trajectories:
        """See `SupportsGroups.rollout_groups`; the same trajectories as of `rollout` if there is one context.

        The first trajectory of a group draws its state, and so the context; the uniform numbers of the others are
        mapped into the interval of the cumulative distribution of this context.
        """
        check_count("groups", groups)
        check_count("size", size)
        check_batch(groups * size, horizon)
        key = _key(rng)
        uniforms = rng.random((groups, size))
        first = np.searchsorted(self._initial, uniforms[:, 0], side="right")
        context = np.searchsorted(self._contexts, first, side="right") - 1
        ends = np.append(0.0, self._initial)[self._contexts]
        low, high = ends[context][:, None], ends[context + 1][:, None]
        inside = low + uniforms[:, 1:] * (high - low)
        # Rounding must not move a number beyond its context.
        uniforms[:, 1:] = np.minimum(inside, np.nextafter(high, low))
        starts = np.searchsorted(self._initial, uniforms.reshape(-1), side="right")
        return self._rollout(starts, None, policy, horizon, key)

    def rollout_from(
        self,
        states: Indices,
        actions: Indices | None,
        policy: Array | Policy,
        horizon: int,
        rng: np.random.Generator,
    ) -> Trajectories:
        """See `SupportsRestart.rollout_from`; compiled."""
        count = np.size(states)
        check_batch(max(count, 1), horizon)
        starts = checked_indices("states", states, count, self._mdp.states)
        first = None if actions is None else checked_indices("actions", actions, count, self._mdp.actions)
        return self._rollout(starts, first, policy, horizon, _key(rng))

    def _rollout(
        self, starts: Indices, first: Indices | None, policy: Array | Policy, horizon: int, key: npt.NDArray[np.uint64]
    ) -> Trajectories:
        from bilevelrl.sampling.kernels import rollout

        count, table = starts.size, sampling_table(self._mdp.transitions)
        policy_table = self._policy_table(policy)
        first = np.full(count, -1) if first is None else first
        visited = np.empty((count, horizon + 1), dtype=np.int64)
        taken = np.empty((count, horizon), dtype=np.int64)
        rewards = np.empty((count, horizon))

        def fill(part: slice) -> None:
            trajectories = (array[part] for array in (starts, first, visited, taken, rewards))
            rollout(table.starts, table.entries, policy_table, self._rewards, key, part.start, *trajectories)

        threads = min(self._threads or processors(), 1 + count * horizon // STEPS_WORTH_A_THREAD, max(count, 1))
        over_parts(fill, _spans(count, threads), threads)
        return Trajectories(visited, taken, rewards)

    def signed_visits(
        self,
        observations: Indices,
        actions: Indices,
        weights: Array,
        policy: Array | Policy,
        rng: np.random.Generator,
        *,
        truncation: int | None,
        common_random_numbers: bool,
    ) -> tuple[Array, int]:
        """See `SupportsVisits.signed_visits`; compiled.

        With common random numbers the two continuations of a pair are equal from the point where they meet: steps that
        would cancel are not drawn.
        """
        from bilevelrl.sampling.kernels import signed_visits

        count, shape = np.size(observations), (self._mdp.states, self._mdp.actions)
        states = checked_indices("observations", observations, count, shape[0])
        chosen = checked_indices("actions", actions, count, shape[1])
        check_shape("weights", weights, (count,))
        paid = np.ascontiguousarray(weights, dtype=np.float64)  # a loss that is not finite makes the sums not finite
        if truncation is not None:
            check_count("truncation", truncation)
        key, discount, size = _key(rng), self._mdp.discount, shape[0] * shape[1]
        steps = 2 * count * (truncation or 1.0 / (1.0 - discount))
        most = min(LARGEST_TABLES // size, MOST_PARTS)
        parts = _spans(count, min(steps // max(STEPS_WORTH_A_THREAD, size), most))
        tables = np.zeros((len(parts), size))
        table, kernel = sampling_table(self._mdp.transitions), (self._policy_table(policy), shape[1], key)

        def add(index: int) -> int:
            part = parts[index]
            pairs = (part.start, states[part], chosen[part], paid[part])
            rest = (discount, truncation or 0, common_random_numbers, tables[index])
            return int(signed_visits(table.starts, table.entries, *kernel, *pairs, *rest))

        drawn = sum(over_parts(add, range(len(parts)), self._threads))
        return np.add.reduce(tables).reshape(shape), drawn

    def _policy_table(self, policy: Array | Policy) -> npt.NDArray[np.void]:
        """(S·A,) the alias table of the actions in each state."""
        probabilities = as_table(policy, self._mdp.states, self._mdp.actions)
        return alias_entries(*self._action_rows, probabilities.reshape(-1))

    @functools.cached_property
    def _action_rows(self) -> tuple[Indices, Indices]:
        """The positions where each state's actions begin in one flat list of actions, and that list."""
        states, actions = self._mdp.states, self._mdp.actions
        return np.arange(states + 1) * actions, np.tile(np.arange(actions), states)


def _spans(count: int, parts: float) -> list[slice]:
    """`range(count)` in consecutive slices of about equal length, at least one."""
    number = max(int(parts), 1)
    edges = [count * index // number for index in range(number + 1)]
    return list(itertools.starmap(slice, itertools.pairwise(edges)))


def _key(rng: np.random.Generator) -> npt.NDArray[np.uint64]:
    """(5,) words that key the random streams of one call's trajectories, and their lengths if these are random."""
    return rng.bit_generator.random_raw(5)
