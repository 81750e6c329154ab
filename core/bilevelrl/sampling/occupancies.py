"""Sampling `Σ_j w_j (d_(s_j,a_j) − d_(s_j))`: a signed occupancy from trajectories alone.

`d_(s,a)` and `d_s` are the discounted state-action occupancies of a policy from (s, a) and from s. Their difference,
contracted with ∇r, is `∇Q − ∇V`; divided by τ it is the score `∇ log π*` of the follower's optimal policy.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np

from bilevelrl.occupancy import DenseOccupancy
from bilevelrl.sampling.simulators import SupportsRestart, Trajectories
from bilevelrl.validation.arrays import Array, Indices
from bilevelrl.validation.errors import InputError
from bilevelrl.validation.fields import check_count

# Steps drawn at once: enough to be worth a call, few enough to be held.
LONGEST_SEGMENT = 64


def restarted_occupancy(
    simulator: SupportsRestart,
    policy: Array,
    observations: Indices,
    actions: Indices,
    weights: Array,
    rng: np.random.Generator,
    *,
    truncation: int | None,
    common_random_numbers: bool = True,
) -> tuple[DenseOccupancy, int]:
    """`Σ_j w_j (d̂_(s_j,a_j) − d̂_(s_j))` (S, A) from two independent-of-the-weights continuations a pair.

    Args:
        simulator: one that can be restarted anywhere.
        policy: (S, A).
        observations: (N,) the s_j.
        actions: (N,) the a_j.
        weights: (N,) the w_j.
        rng: the generator.
        truncation: T: continuations have T steps, discounted; the bias is at most
            `2‖w‖₁ γ^T/(1−γ) · max‖∇r‖`. None: a geometric random length with success probability 1−γ, undiscounted;
            no bias, and 1/(1−γ) steps in expectation, of those drawn; whoever is drawn in segments also
            draws some past the end, which count.
        common_random_numbers: let the two continuations of a pair share their random numbers. Each keeps its
            distribution, so the mean stays; where the two meet they cancel exactly.

    Returns:
        The signed occupancy, and the number of transitions drawn, those past a random end included.
    """
    # `isinstance(simulator, SupportsVisits)` would take as long as drawing a thousand steps.
    signed_visits = getattr(simulator, "signed_visits", None)
    if signed_visits is not None:
        options = {"truncation": truncation, "common_random_numbers": common_random_numbers}
        table, drawn = signed_visits(observations, actions, weights, policy, rng, **options)
        return DenseOccupancy(table), drawn
    discount = simulator.spec.discount
    twin = copy.deepcopy(rng) if common_random_numbers else None
    args = (simulator, policy, observations, weights, discount, truncation)
    from_pair, drawn = _continuations(*args, actions, rng)
    from_state, drawn_twin = _continuations(*args, None, rng if twin is None else twin)
    return DenseOccupancy(from_pair - from_state), drawn + drawn_twin


def _continuations(
    simulator: SupportsRestart,
    policy: Array,
    observations: Indices,
    weights: Array,
    discount: float,
    truncation: int | None,
    actions: Indices | None,
    rng: np.random.Generator,
) -> tuple[Array, int]:
    """`Σ_j w_j d̂_j` from one continuation a j, in segments, so that the short ones do not pay for the long ones."""
    if truncation is not None:
        check_count("truncation", truncation)
    table, drawn, elapsed = np.zeros(policy.shape), 0, 0
    # P(length > t) = γ^t: numpy's geometric counts trials up to the first success of probability 1−γ.
    lengths = np.full(observations.size, truncation) if truncation else rng.geometric(1.0 - discount, observations.size)
    # Half the mean length: what is drawn past a random end, and thrown away, is then a quarter of the rest.
    segment = min(LONGEST_SEGMENT, truncation or math.ceil(0.5 / (1.0 - discount)))
    here, first, alive = np.asarray(observations), actions, np.arange(observations.size)
    while alive.size:
        horizon = min(segment, int(lengths[alive].max()) - elapsed)
        part = simulator.rollout_from(here, first, policy, horizon, rng)
        steps = elapsed + np.arange(horizon)
        running = steps < lengths[alive][:, None]
        table += part.visits(weights[alive][:, None] * (discount**steps if truncation else running), policy.shape)
        drawn += part.samples
        elapsed += horizon
        surviving = lengths[alive] > elapsed
        alive, here, first = alive[surviving], part.observations[surviving, -1], None
    return table, drawn


def first_visit_occupancy(
    trajectories: Trajectories,
    weights: Array,
    policy: Array,
    rng: np.random.Generator,
    *,
    discount: float,
    truncation: int,
) -> DenseOccupancy:
    """`Σ w_ih (d̂_(s,a) − d̂_s)` (S, A) without restarts, from the batch's own continuations.

    For the visit (s, a) at step h of trajectory i, `d̂_(s,a)` is the remainder of *another* trajectory, drawn uniformly
    among those that take a in s within the horizon, from its first time there on; `d̂_s` likewise from its first time
    in s. First times are stopping times, so a remainder is distributed as a fresh start (strong Markov property), and
    another trajectory's remainder knows nothing of the loss of i.

    Bias: T-step truncation, as with restarts; and visits to which no other trajectory comes are left out. Both vanish
    as trajectories become longer and more.

    Args:
        trajectories: N trajectories of H + T steps.
        weights: (N, H), the weights of the first H steps' visits.
        policy: (S, A), the policy that acted.
        rng: the generator.
        discount: γ.
        truncation: T.
    """
    check_count("truncation", truncation)
    horizon = weights.shape[1]
    if trajectories.horizon < horizon + truncation:
        raise InputError("the trajectories' length", str(trajectories.horizon), f"at least {horizon} + {truncation}")
    states = trajectories.observations[:, :horizon]
    pairs = states * policy.shape[1] + trajectories.actions[:, :horizon]
    visitor, step = np.nonzero(weights)
    by_pair, at_pair = _another_first_visit(pairs, visitor, pairs[visitor, step], rng)
    by_state, at_state = _another_first_visit(states, visitor, states[visitor, step], rng)
    met = (by_pair >= 0) & (by_state >= 0)
    kept = weights[visitor, step][met]
    table = _remainders(trajectories, by_pair[met], at_pair[met], kept, policy.shape, discount, truncation)
    table -= _remainders(trajectories, by_state[met], at_state[met], kept, policy.shape, discount, truncation)
    return DenseOccupancy(table)


def _another_first_visit(
    keys: Indices, visitors: Indices, wanted: Indices, rng: np.random.Generator
) -> tuple[Indices, Indices]:
    """For each query (trajectory, key), another trajectory that meets the key, and its first step there; −1 for none.

    Args:
        keys: (N, H), what each trajectory meets.
        visitors: (M,), the asking trajectories.
        wanted: (M,), the keys they ask for, which they meet themselves.
    """
    count, horizon = keys.shape
    # One entry for each (key, trajectory), the first in time: sorted by key, then by trajectory.
    labels = keys.astype(np.int64) * count + np.arange(count)[:, None]
    entries, first = np.unique(labels.reshape(-1), return_index=True)
    low = np.searchsorted(entries, wanted * count)
    size = np.searchsorted(entries, (wanted + 1) * count) - low
    own = np.searchsorted(entries, wanted * count + visitors) - low
    # Uniform over the others: draw from one fewer, and step over oneself.
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
    sums: Any = np.bincount(visits.reshape(-1), weights=paid.reshape(-1), minlength=shape[0] * shape[1])
    table: Array = sums.reshape(shape)
    return table
