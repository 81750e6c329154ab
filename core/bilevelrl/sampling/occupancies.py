"""Sampling `Σ_j w_j (d_(o_j,a_j) − d_(o_j))`: a signed occupancy from trajectories alone.

`d_(o,a)` and `d_o` are the discounted occupancies of a policy from (o, a) and from o. Their difference, contracted with
∇r, is `∇Q − ∇V`; divided by τ it is the score `∇ log π*` of the follower's optimal policy.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np

from bilevelrl.occupancy import DenseOccupancy, Occupancy, SampledOccupancy, Values
from bilevelrl.protocols import Policy
from bilevelrl.sampling.simulators import FollowerSpec, SupportsRestart, Trajectories
from bilevelrl.validation.arrays import Array, Indices
from bilevelrl.validation.errors import InputError
from bilevelrl.validation.fields import check_count

# Steps drawn in one call: enough to hide its overhead, few enough for the memory.
LONGEST_SEGMENT = 64


class _TableSum:
    """Sums weighted visits into a table (S, A)."""

    def __init__(self, spec: FollowerSpec) -> None:
        self._table = np.zeros((spec.states, spec.actions))

    def add(self, paths: Trajectories, weights: Array) -> None:
        self._table += paths.visits(weights, self._table.shape)

    def less(self, other: _TableSum) -> DenseOccupancy:
        return DenseOccupancy(self._table - other._table)


class _SampleList:
    """Keeps each visit whose weight is not zero."""

    def __init__(self, spec: FollowerSpec) -> None:
        spaces = spec.observation_space, spec.action_space
        self._parts = [(*(np.zeros((0, *space.shape), space.dtype) for space in spaces), np.zeros(0))]

    def add(self, paths: Trajectories, weights: Array) -> None:
        weights = paths.lived(weights)
        kept = weights != 0.0
        self._parts.append((paths.observations[:, :-1][kept], paths.actions[kept], weights[kept]))

    def less(self, other: _SampleList) -> SampledOccupancy:
        parts = self._parts + [(observations, actions, -weights) for observations, actions, weights in other._parts]
        return SampledOccupancy(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def restarted_occupancy(
    simulator: SupportsRestart,
    policy: Array | Policy,
    states: Values,
    actions: Values,
    weights: Array,
    rng: np.random.Generator,
    *,
    truncation: int | None,
    common_random_numbers: bool = True,
    form: type = DenseOccupancy,
) -> tuple[Occupancy, int]:
    """`Σ_j w_j (d̂_(o_j,a_j) − d̂_(o_j))` from two continuations per pair, independent of the weights.

    Args:
        simulator: a simulator that can be restarted at the given states.
        policy: an array (S, A), or a `Policy`.
        states: (N, …) from `Trajectories.restart_states`, at the visits (o_j, a_j); for tables the observations o_j.
        actions: (N, …) the actions a_j.
        weights: (N,) the weights w_j.
        rng: the generator.
        truncation: T: continuations have T steps, discounted; the bias is at most
            `2‖w‖₁ γ^T/(1−γ) · max‖∇r‖`. None: a geometric random length with success probability 1−γ, undiscounted;
            no bias, and 1/(1−γ) steps in expectation. A simulator without `signed_visits` draws in segments, and so
            some steps past the end, which are counted too. An episode that terminates ends its continuation.
        common_random_numbers: the two continuations of a pair share their random numbers. Each keeps its distribution,
            so the mean does not change; from the point where they meet they cancel exactly.
        form: `DenseOccupancy` for a table (S, A), if observations and actions are indices; `SampledOccupancy` for the
            visits themselves, up to 2·N·T of them.

    Returns:
        The signed occupancy, and the number of transitions drawn, including those past a random end.
    """
    # `isinstance(simulator, SupportsVisits)` takes as long as drawing a thousand steps.
    signed_visits = getattr(simulator, "signed_visits", None)
    if signed_visits is not None and form is DenseOccupancy:
        options = {"truncation": truncation, "common_random_numbers": common_random_numbers}
        table, drawn = signed_visits(states, actions, weights, policy, rng, **options)
        return DenseOccupancy(table), drawn
    make: Any = _TableSum if form is DenseOccupancy else _SampleList
    from_pair, from_state = make(simulator.spec), make(simulator.spec)
    twin = copy.deepcopy(rng) if common_random_numbers else rng
    drawn = _continue(simulator, policy, states, weights, truncation, actions, rng, from_pair)
    drawn += _continue(simulator, policy, states, weights, truncation, None, twin, from_state)
    return from_pair.less(from_state), drawn


def _continue(
    simulator: SupportsRestart,
    policy: Array | Policy,
    states: Values,
    weights: Array,
    truncation: int | None,
    actions: Values | None,
    rng: np.random.Generator,
    total: _TableSum | _SampleList,
) -> int:
    """Add `Σ_j w_j d̂_j` from one continuation for each j; returns the number of transitions drawn.

    Drawn in segments, so that short continuations do not take the time of long ones.
    """
    if truncation is not None:
        check_count("truncation", truncation)
    drawn, elapsed, discount = 0, 0, simulator.spec.discount
    # P(length > t) = γ^t: numpy's geometric counts trials up to the first success of probability 1−γ.
    lengths = np.full(weights.size, truncation) if truncation else rng.geometric(1.0 - discount, weights.size)
    # Half the mean length: the unused steps past a random end are then a quarter of the used ones.
    segment = min(LONGEST_SEGMENT, truncation or math.ceil(0.5 / (1.0 - discount)))
    here, first, alive = np.asarray(states), actions, np.arange(weights.size)
    while alive.size:
        horizon = min(segment, int(lengths[alive].max()) - elapsed)
        part = simulator.rollout_from(here, first, policy, horizon, rng)
        steps = elapsed + np.arange(horizon)
        running = steps < lengths[alive][:, None]
        total.add(part, weights[alive][:, None] * (discount**steps if truncation else running))
        drawn += part.samples
        elapsed += horizon
        surviving = lengths[alive] > elapsed
        if part.terminated is not None:
            surviving &= ~part.terminated.any(axis=1)
        alive, here, first = alive[surviving], part.restart_states[surviving, -1], None
    return drawn


def first_visit_occupancy(
    trajectories: Trajectories,
    weights: Array,
    shape: tuple[int, int],
    rng: np.random.Generator,
    *,
    discount: float,
    truncation: int,
) -> DenseOccupancy:
    """`Σ w_ih (d̂_(s,a) − d̂_s)` (S, A) without restarts, from the batch's own continuations.

    For the visit (s, a) at step h of trajectory i, `d̂_(s,a)` is the remainder of *another* trajectory, drawn uniformly
    among those that take a in s within the horizon, from its first time there on; `d̂_s` likewise from its first time
    in s. First times are stopping times, so a remainder has the distribution of a new start (strong Markov property),
    and another trajectory's remainder is independent of the loss of i.

    Bias: T-step truncation, as with restarts; and visits that no other trajectory makes are left out. Both biases
        vanish with the length and the number of the trajectories.

    Args:
        trajectories: N trajectories of H + T steps in a table.
        weights: (N, H), the weights of the first H steps' visits.
        shape: (S, A).
        rng: the generator.
        discount: γ.
        truncation: T.
    """
    check_count("truncation", truncation)
    horizon = weights.shape[1]
    if trajectories.horizon < horizon + truncation:
        raise InputError("the trajectories' length", str(trajectories.horizon), f"at least {horizon} + {truncation}")
    begun = trajectories.first_steps(horizon)
    weights, alive = begun.lived(weights), begun.alive()
    states = begun.observations[:, :-1]
    pairs = states * shape[1] + begun.actions
    visitor, step = np.nonzero(weights)
    # Steps after a termination are no visits: they get a key that no query uses.
    by_pair, at_pair = _another_first_visit(np.where(alive, pairs, -1), visitor, pairs[visitor, step], rng)
    by_state, at_state = _another_first_visit(np.where(alive, states, -1), visitor, states[visitor, step], rng)
    met = (by_pair >= 0) & (by_state >= 0)
    kept = weights[visitor, step][met]
    table = _remainders(trajectories, by_pair[met], at_pair[met], kept, shape, discount, truncation)
    table -= _remainders(trajectories, by_state[met], at_state[met], kept, shape, discount, truncation)
    return DenseOccupancy(table)


def _another_first_visit(
    keys: Indices, visitors: Indices, wanted: Indices, rng: np.random.Generator
) -> tuple[Indices, Indices]:
    """For each query (trajectory, key), another trajectory that visits the key, and its first step there; −1 for none.

    Args:
        keys: (N, H), the keys that each trajectory visits.
        visitors: (M,), the trajectories of the queries.
        wanted: (M,), the keys of the queries, which these trajectories visit themselves.
    """
    count, horizon = keys.shape
    # One entry for each (key, trajectory), the first in time: sorted by key, then by trajectory.
    labels = keys.astype(np.int64) * count + np.arange(count)[:, None]
    entries, first = np.unique(labels.reshape(-1), return_index=True)
    low = np.searchsorted(entries, wanted * count)
    size = np.searchsorted(entries, (wanted + 1) * count) - low
    own = np.searchsorted(entries, wanted * count + visitors) - low
    # Uniform over the others: draw from one fewer, and skip the trajectory itself.
    pick = (rng.random(wanted.size) * (size - 1)).astype(np.int64)
    pick += pick >= own
    alone = size < 2
    chosen = np.where(alone, 0, low + pick)
    trajectory = np.where(alone, -1, entries[chosen] % count)
    return trajectory, first[chosen] % horizon


def _remainders(
    trajectories: Trajectories,
    rows: Indices,
    starts: Indices,
    weights: Array,
    shape: tuple[int, ...],
    discount: float,
    truncation: int,
) -> Array:
    """`Σ_j w_j Σ_t γ^t 1{(s_t, a_t)}` over T steps from each start."""
    elapsed = np.arange(truncation)
    places = rows[:, None], starts[:, None] + elapsed
    visits = trajectories.observations[places] * shape[1] + trajectories.actions[places]
    paid = weights[:, None] * discount**elapsed
    if trajectories.terminated is not None:
        paid = paid * trajectories.alive()[places]
    sums: Any = np.bincount(visits.reshape(-1), weights=paid.reshape(-1), minlength=shape[0] * shape[1])
    table: Array = sums.reshape(shape)
    return table
