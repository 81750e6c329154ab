"""A lower-level solver: value iteration on features, a random half of the observations at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import attrs
import numpy as np

import bilevelrl as bl
from bilevelrl_observatory.solution import ObservedSolution, log_reference

LOWEST_RATE = 0.5


@attrs.frozen
class FeatureIteration:
    """`w_φ ← w_φ + α_φ (r + γPv − w_φ)` for a random half of the features a sweep, `v = τ log Σ_a μ exp(w/τ)`.

    Every call goes on where the last one ended: with its features, its weights and its step sizes.

    Args:
        sweeps: how many a call makes.
    """

    name: ClassVar[str] = "feature-iteration"
    requires: ClassVar[type] = bl.mdp.SupportsModel
    produces: ClassVar[type] = ObservedSolution
    tags: ClassVar[bl.Tags] = bl.Tags("biased", deterministic=False, tolerance=0.5)

    sweeps: int = attrs.field(default=30, validator=bl.validation.is_integer(at_least=1))

    def solve(
        self, problem: bl.Problem, x: bl.Array, warm_start: ObservedSolution | None, rng: np.random.Generator
    ) -> ObservedSolution:
        """The weights after some sweeps, and the residual of one more backup."""
        model = problem.lower.model(x)
        states = model.states
        if warm_start is None or warm_start.weights.shape != model.rewards.shape:
            codes, weights = rng.permutation(states).astype(np.int32), np.zeros(model.rewards.shape)
            rates, seen, calls = np.ones(states, np.float32), np.zeros(states, bool), 0
        else:
            codes, calls = warm_start.codes, warm_start.calls
            weights, rates, seen = warm_start.weights.copy(), warm_start.rates.copy(), warm_start.seen.copy()
        for _ in range(self.sweeps):
            chosen = rng.random(states) < 0.5
            features = codes[chosen]
            wanted = bl.mdp.soft_backup(model, values_of(model, codes, weights)).action_values[chosen]
            weights[features] += rates[features, None] * (wanted - weights[features])
            rates[features] = np.maximum(np.float32(LOWEST_RATE), np.float32(0.99) * rates[features])
            seen[features] = True
        values = values_of(model, codes, weights)
        residual = bl.validation.maximum_norm(bl.mdp.soft_backup(model, values).values - values)
        status = bl.Status.BUDGET_SPENT if math.isfinite(residual) else bl.Status.NON_FINITE
        phase = math.inf if seen.all() else float(seen.mean())
        cost = bl.Cost(backups=self.sweeps + 1)
        return ObservedSolution(model, codes, weights, rates, seen, calls + 1, phase, residual, status, cost)

    def restore(
        self, problem: bl.Problem, x: bl.Array, arrays: Mapping[str, Any], figures: Mapping[str, Any]
    ) -> ObservedSolution:
        """The solution from its arrays and figures, each array checked."""
        model, saved = problem.lower.model(x), bl.validation.saved_array
        states, actions = model.rewards.shape
        return ObservedSolution(
            model=model,
            codes=saved(arrays, "codes", (states,), np.int32, at_least=0, at_most=states - 1),
            weights=saved(arrays, "weights", (states, actions)),
            rates=saved(arrays, "rates", (states,), np.float32, at_least=0, at_most=1),
            seen=saved(arrays, "seen", (states,), bool),
            calls=bl.validation.saved_count(figures, "calls"),
            phase=float(figures["phase"]),
            **bl.protocols.outcome(figures),
        )


def values_of(model: bl.SoftMDP, codes: np.ndarray[Any, Any], weights: bl.Array) -> bl.Array:
    """`v_s = τ log Σ_a μ_sa exp(w_{φ(s), a}/τ)` (S,)."""
    preferences = weights[codes] / model.temperature + log_reference(model)
    largest = preferences.max(axis=1)
    values: bl.Array = model.temperature * (largest + np.log(np.exp(preferences - largest[:, None]).sum(axis=1)))
    return values
