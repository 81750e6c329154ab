"""Compiled loops for learning; numba is imported with this module, so import it where a kernel is called."""

from __future__ import annotations

import math
from typing import Any

import bilevelrl as bl


@bl.execution.compiled
def _soft_value(
    preferences: bl.Array, action_values: bl.Array, log_reference: bl.Array, temperature: float, state: int
) -> float:
    """`Σ_a π (Q − τ log(π/μ))` in a state, for `π ∝ μ exp(L/τ)`.

    With `Z = τ log Σ_a μ exp(L/τ)` this is `Z + Σ_a π (Q − L)`. If L is Q it is the soft maximum of Q.
    """
    largest = -math.inf
    for a in range(preferences.shape[1]):
        largest = max(largest, preferences[state, a] / temperature + log_reference[state, a])
    total, surplus = 0.0, 0.0
    for a in range(preferences.shape[1]):
        weight = math.exp(preferences[state, a] / temperature + log_reference[state, a] - largest)
        total += weight
        surplus += weight * (action_values[state, a] - preferences[state, a])
    return temperature * (largest + math.log(total)) + surplus / total


@bl.execution.compiled
def learn(
    observations: bl.validation.Indices,
    actions: bl.validation.Indices,
    rewards: bl.Array,
    alive: Any,
    goes_on: Any,
    preferences: bl.Array,
    log_reference: bl.Array,
    discount: float,
    temperature: float,
    step_decay: float,
    burn_in: int,
    action_values: bl.Array,
    visits: bl.Array,
    averages: bl.Array,
    averaged: bl.Array,
) -> tuple[float, int]:
    """One soft temporal-difference step for each transition; the sum of |TD| after the burn-in, and their number.

    Time is the outer loop and trajectories the inner one, as if the trajectories ran in parallel.

    Args:
        observations: (N, H+1).
        actions: (N, H).
        rewards: (N, H).
        alive: (N, H) which transitions took place; the others are passed over.
        goes_on: (N, H) after which transitions the episode goes on; after the others nothing is worth anything.
        preferences: L (S, A), of the policy whose value is the target; `action_values` itself for the soft maximum.
        log_reference: log μ (S, A).
        discount: γ.
        temperature: τ.
        step_decay: ω.
        burn_in: the number of transitions before the averaging begins.
        action_values: Q (S, A), updated.
        visits: n (S, A), updated.
        averages: (S, A) the mean of Q(s, a) over its steps after the burn-in and its initial value, updated.
        averaged: (S, A) the number of steps in that mean, updated.
    """
    count, horizon = actions.shape
    missed, counted = 0.0, 0
    for h in range(horizon):
        for i in range(count):
            if not alive[i, h]:
                continue
            s, a = observations[i, h], actions[i, h]
            value = 0.0
            if goes_on[i, h]:
                value = _soft_value(preferences, action_values, log_reference, temperature, observations[i, h + 1])
            difference = rewards[i, h] + discount * value - action_values[s, a]
            action_values[s, a] += difference / (1.0 + (1.0 - discount) * visits[s, a]) ** step_decay
            visits[s, a] += 1.0
            if h * count + i >= burn_in:
                averaged[s, a] += 1.0
                averages[s, a] += (action_values[s, a] - averages[s, a]) / averaged[s, a]
                missed += abs(difference)
                counted += 1
    return missed, counted
