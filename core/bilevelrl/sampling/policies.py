"""Policies as tables (S, A), and the conversion of arrays to policies."""

from __future__ import annotations

import functools
from typing import Any

import attrs
import numpy as np

from bilevelrl.occupancy import Values
from bilevelrl.protocols import Policy
from bilevelrl.validation.arrays import Array, as_array
from bilevelrl.validation.errors import InputError, kind_words


def cumulative_rows(probabilities: Array) -> Array:
    """Cumulative sums that end at exactly one, so that no draw is beyond the last positive entry."""
    sums = np.cumsum(probabilities, axis=-1)
    cumulative: Array = sums / sums[..., -1:]
    return cumulative


def _probabilities(value: object) -> Array:
    return as_array("TabularPolicy.probabilities", value, (None, None))


@attrs.frozen(eq=False, slots=False)
class TabularPolicy:
    """A table of probabilities as a `Policy`; observations and actions are indices of the table.

    Args:
        probabilities: (S, A).
    """

    probabilities: Array = attrs.field(converter=_probabilities)

    @functools.cached_property
    def _cumulative(self) -> Array:
        return cumulative_rows(self.probabilities)

    def sample(self, observations: Values, rng: np.random.Generator) -> Values:
        """(N,) actions, each from one uniform number."""
        rows = self._cumulative[observations]
        return np.asarray((rows <= rng.random(len(rows))[:, None]).sum(axis=1))

    def log_probabilities(self, observations: Values, actions: Values) -> Array:
        """(N,) logarithms of the table's entries; −∞ for zero."""
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(self.probabilities[observations, actions]))


def as_policy(value: Any) -> Policy:
    """`value` as a `Policy`: an array (S, A) becomes a `TabularPolicy`; a policy is returned as it is.

    Raises:
        InputError: if it is neither.
    """
    if isinstance(value, Policy):
        return value
    if isinstance(value, np.ndarray | list | tuple):
        return TabularPolicy(value)
    raise InputError("policy", kind_words(value), "an array (S, A) or a Policy, with sample and log_probabilities")


def as_table(policy: Array | Policy, states: int, actions: int) -> Array:
    """(S, A) the probabilities of a policy whose observations and actions are indices; an array is only checked."""
    if isinstance(policy, TabularPolicy):
        policy = policy.probabilities
    if isinstance(policy, Policy):
        observations, choices = np.repeat(np.arange(states), actions), np.tile(np.arange(actions), states)
        table: Any = np.exp(policy.log_probabilities(observations, choices))
        policy = np.reshape(table, (states, actions))
    return as_array("policy", policy, (states, actions))
