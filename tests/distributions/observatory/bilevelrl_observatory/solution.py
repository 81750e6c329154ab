"""A solution that is no table: preferences of features, and a policy that is a function of observations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np

import bilevelrl as bl


@attrs.frozen(eq=False)
class FeaturePolicy:
    """`π(a|o) ∝ μ(a|o) exp(w_{φ(o), a}/τ)`: a function of observations.

    Args:
        codes: (S,) int32, φ: which feature an observation has.
        weights: w (F, A).
        log_reference: log μ (S, A).
        temperature: τ.
    """

    codes: np.ndarray[Any, Any]
    weights: bl.Array
    log_reference: bl.Array
    temperature: float

    def __call__(self, observations: np.ndarray[Any, Any]) -> bl.Array:
        """(N, A) the probabilities of the actions at each of the observations (N,)."""
        preferences = self.weights[self.codes[observations]] / self.temperature + self.log_reference[observations]
        likely = np.exp(preferences - preferences.max(axis=1, keepdims=True))
        return likely / likely.sum(axis=1, keepdims=True)


@attrs.frozen(eq=False)
class ObservedSolution:
    """The follower's answer as preferences of features.

    Args:
        model: a handle, never saved.
        codes: (S,) int32, drawn in the first call.
        weights: (F, A) float64.
        rates: (F,) float32, the step size of each feature, which falls with its steps.
        seen: (F,) bool, which features have been updated.
        calls: how many calls led here.
        phase: a figure that may be infinite, for the proof that it survives.
        residual: `max |Tv − v|`.
        status: how it ended.
        cost: what it cost.
    """

    model: bl.SoftMDP
    codes: np.ndarray[Any, Any]
    weights: bl.Array
    rates: np.ndarray[Any, Any]
    seen: np.ndarray[Any, Any]
    calls: int
    phase: float
    residual: float
    status: bl.Status
    cost: bl.Cost

    @property
    def policy(self) -> FeaturePolicy:
        """The policy, to be asked at observations."""
        return FeaturePolicy(self.codes, self.weights, log_reference(self.model), self.model.temperature)

    def arrays(self) -> Mapping[str, np.ndarray[Any, Any]]:
        """All arrays but those of the model."""
        return {"codes": self.codes, "weights": self.weights, "rates": self.rates, "seen": self.seen}

    def figures(self) -> Mapping[str, Any]:
        """The number of calls and the phase."""
        return {"calls": self.calls, "phase": self.phase}


def log_reference(model: bl.SoftMDP) -> bl.Array:
    """log μ (S, A); zeros where there is no reference measure."""
    return np.zeros(model.rewards.shape) if model.reference is None else np.log(model.reference)
